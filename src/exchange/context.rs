//! One request: the settings that apply to it, its head and its owner.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{Method, StatusCode, request};
use tokio::time::{Instant, timeout_at};

use crate::{
    headers::{
        accept::asks_for_event_stream, mcp_method_name::mcp_method_name,
        mcp_protocol_version::mcp_protocol_version,
    },
    observe::{ObservedRequest, Refused, StreamOrigin, StreamOutcome, StreamSlot},
    policy::Policy,
    rejection::{Rejection, RejectionReason},
    session::Owner,
    state::LayerState,
};

/// One request: the settings that apply to it, and its head.
#[derive(Clone)]
pub(crate) struct RequestContext {
    pub(crate) state: Arc<LayerState>,
    pub(crate) policy: Arc<Policy>,
    /// The head as the client sent it. `None` if the policy does nothing for which it is needed.
    pub(crate) client: Option<Arc<request::Parts>>,
    /// The method is `HEAD`, so that the response has no body (RFC 9110 9.3.2).
    pub(crate) is_head: bool,
    /// After how long the response head leaves although the upstream has not answered.
    pub(crate) early_head: Option<Duration>,
    /// `None` without observers.
    pub(crate) observed: Option<Arc<ObservedRequest>>,
    owner: OnceLock<Owner>,
}

impl RequestContext {
    pub(crate) fn new(
        state: &Arc<LayerState>,
        policy: Arc<Policy>,
        request: &request::Parts,
    ) -> Self {
        let is_observed = state.observes(&policy);
        let needs_head = policy.inspects() || policy.sessions.is_some() || is_observed;
        let mut context = Self {
            state: Arc::clone(state),
            client: needs_head.then(|| Arc::new(request.clone())),
            is_head: request.method == Method::HEAD,
            early_head: None,
            observed: None,
            owner: OnceLock::new(),
            policy,
        };
        if is_observed {
            let origin = StreamOrigin {
                route: context.policy.route.clone(),
                method: request.method.clone(),
                owner: context.owner(request),
                mcp_protocol_version: mcp_protocol_version(&request.headers),
                mcp_method_name: mcp_method_name(&request.headers),
                arrived: Instant::now(),
            };
            context.observed = Some(Arc::new(ObservedRequest::new(
                origin,
                !context.is_head && asks_for_event_stream(&request.headers),
                state.observers.clone(),
            )));
        }
        context
    }

    /// When the request arrived.
    pub(crate) fn arrived(&self) -> Instant {
        let observed = self.observed.as_ref();
        observed.map_or_else(Instant::now, |observed| observed.origin.arrived)
    }

    /// Whether the request asks for an event stream. `false` without observers.
    pub(crate) fn asks_for_stream(&self) -> bool {
        let observed = self.observed.as_ref();
        observed.is_some_and(|observed| observed.asks_for_stream)
    }

    /// Reports that the layer answers the request itself, if it asks for an event stream or `is_stream`.
    pub(crate) fn report_rejection(&self, rejection: &Rejection, is_stream: bool) {
        if let Some(observed) = &self.observed
            && (observed.asks_for_stream || is_stream && !self.is_head)
            // The client has the whole stream, or the stream was closed: nothing was refused.
            && rejection.status() != StatusCode::NO_CONTENT
        {
            observed.report_rejection(rejection.status(), rejection.reason());
        }
    }

    /// Reports that the layer answers a resume request with a gap event and nothing else.
    pub(crate) fn report_gap_answer(&self) {
        if let Some(observed) = &self.observed {
            observed.report_rejection(StatusCode::OK, RejectionReason::Resume);
        }
    }

    /// Reports that the upstream failed to answer the request, if it asks for an event stream. `status` is the status that the client got.
    pub(crate) fn report_failure(&self, status: Option<StatusCode>) {
        if let Some(observed) = &self.observed
            && observed.asks_for_stream
        {
            observed.report(StreamOutcome::UpstreamError, status);
        }
    }

    /// Whether the layer may answer the request before the upstream does: because a limit on streams refuses it, with an early head, or
    /// because the head of the upstream is late.
    pub(crate) fn may_answer_without_upstream(&self) -> bool {
        let watchdog = self.policy.watchdog.as_ref();
        self.asks_for_stream()
            && (self.state.live.admission().is_limited()
                || self.policy.early_head.is_some()
                || watchdog.is_some_and(|watchdog| watchdog.head.is_some()))
    }

    /// Gives a stream that opens now a place. `None` if there are no limits. Fails with 503 and `Retry-After`.
    pub(crate) fn admit(&self) -> Result<Option<Arc<StreamSlot>>, Rejection> {
        let admission = self.state.live.admission();
        match &self.observed {
            Some(observed) if admission.is_limited() => {
                let slot = admission.admit(observed.origin.owner);
                slot.map(Some).map_err(unavailable)
            }
            _ => Ok(None),
        }
    }

    /// Waits for the response head of the upstream, within the limit of the watchdog. Fails with 504.
    pub(crate) async fn within_head_limit<F: Future>(
        &self,
        response: F,
    ) -> Result<F::Output, Rejection> {
        let watchdog = self.policy.watchdog.as_ref();
        let limit = watchdog.and_then(|watchdog| watchdog.head);
        let (Some(watchdog), Some(limit), Some(observed)) = (watchdog, limit, &self.observed)
        else {
            return Ok(response.await);
        };
        if !observed.asks_for_stream {
            return Ok(response.await);
        }
        let mut response = pin!(response);
        let at = observed.origin.arrived + limit;
        if let Ok(response) = timeout_at(at, response.as_mut()).await {
            return Ok(response);
        }
        let acts = !watchdog.limits.only_observes;
        observed.head_limit_exceeded(acts);
        if !acts {
            return Ok(response.await);
        }
        let status = StatusCode::GATEWAY_TIMEOUT;
        // The status that the client got: behind an early head the rejection becomes an error event.
        let got = match self.early_head {
            Some(after) if after < limit => StatusCode::OK,
            _ => status,
        };
        observed.report(StreamOutcome::Stalled, Some(got));
        Err(Rejection::new(
            status,
            "the upstream did not answer in time\n",
        ))
    }

    /// The owner of this request. It is computed once.
    pub(crate) fn owner(&self, client: &request::Parts) -> Owner {
        let sessions = self.policy.sessions.as_deref();
        *self
            .owner
            .get_or_init(|| self.state.owners.owner(client, sessions))
    }
}

/// The response to a request for a stream that is refused.
pub(crate) fn unavailable(refused: Refused) -> Rejection {
    Rejection::new(StatusCode::SERVICE_UNAVAILABLE, refused.text())
        .because(refused.reason())
        .retry_later()
}
