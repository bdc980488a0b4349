//! One request: the settings that apply to it, its head and its owner.

use std::sync::{Arc, OnceLock};

use http::{Method, request};

use crate::{policy::Policy, session::Owner, state::LayerState};

/// One request: the settings that apply to it, and its head.
#[derive(Clone)]
pub(crate) struct RequestContext {
    pub(crate) state: Arc<LayerState>,
    pub(crate) policy: Arc<Policy>,
    /// The head as the client sent it. `None` if the policy does nothing for which it is needed.
    pub(crate) client: Option<Arc<request::Parts>>,
    /// The method is `HEAD`, so that the response has no body (RFC 9110 9.3.2).
    pub(crate) is_head: bool,
    owner: OnceLock<Owner>,
}

impl RequestContext {
    pub(crate) fn new(
        state: &Arc<LayerState>,
        policy: Arc<Policy>,
        request: &request::Parts,
    ) -> Self {
        let needs_head = policy.inspects() || policy.sessions.is_some();
        Self {
            state: Arc::clone(state),
            client: needs_head.then(|| Arc::new(request.clone())),
            is_head: request.method == Method::HEAD,
            owner: OnceLock::new(),
            policy,
        }
    }

    /// The owner of this request. It is computed once.
    pub(crate) fn owner(&self, client: &request::Parts) -> Owner {
        let sessions = self.policy.sessions.as_deref();
        *self
            .owner
            .get_or_init(|| self.state.owners.owner(client, sessions))
    }
}
