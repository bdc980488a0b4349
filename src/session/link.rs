//! The messages between the layer and an inner service about the session of a request, in the extensions of the request and of its
//! response.

use std::sync::Arc;

use super::{NewSession, Session, SessionBinder, healed::Healed};

/// In the extensions of each request whose session ids the layer translates.
#[derive(Clone)]
pub(crate) struct SessionLink {
    /// The session that the request belongs to, as the store returned it. `None` if the request names no session.
    pub(crate) session: Option<Session>,
    pub(crate) binder: SessionBinder,
    /// The request resumes the response to a `POST`, which only the upstream session of that request can continue.
    pub(crate) resumes_call: bool,
    /// Reports a healing to the observers of the layer. `None` if there are no observers.
    pub(crate) on_healed: Option<OnHealed>,
}

/// A function that is called when the session was healed.
#[derive(Clone)]
pub(crate) struct OnHealed(Arc<dyn Fn(&Healed) + Send + Sync>);

impl OnHealed {
    pub(crate) fn new(call: impl Fn(&Healed) + Send + Sync + 'static) -> Self {
        Self(Arc::new(call))
    }

    pub(crate) fn call(&self, healed: &Healed) {
        (self.0)(healed);
    }
}

/// In the extensions of a response: the upstream session of the request's session has been replaced.
#[derive(Clone, Debug)]
pub(crate) struct Rebound {
    pub(crate) to: NewSession,
    /// The response does not end the session, whatever the mapping says.
    pub(crate) continues: bool,
}

/// In the extensions of a response: a function that the layer calls with the session that the response opens, once it is bound.
#[derive(Clone)]
pub(crate) struct OnBound(Arc<dyn Fn(&Session) + Send + Sync>);

impl OnBound {
    pub(crate) fn new(call: impl Fn(&Session) + Send + Sync + 'static) -> Self {
        Self(Arc::new(call))
    }

    pub(crate) fn call(&self, session: &Session) {
        (self.0)(session);
    }
}
