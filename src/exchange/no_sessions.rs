//! The replacement of `session` in builds without the feature `sessions`: no request has a session.

use std::sync::Arc;

use http::{request, response};

use crate::{
    codec::Event,
    exchange::context::RequestContext,
    intercept::{Interceptor, Verdict},
    rejection::Rejection,
    session::{SessionId, SessionLease},
};

/// Never made.
pub(crate) enum SessionContext {}

impl SessionContext {
    pub(crate) async fn resolve(
        _: &RequestContext,
        _: &Arc<request::Parts>,
        _: &mut request::Parts,
    ) -> Result<Option<Box<Self>>, Rejection> {
        Ok(None)
    }

    pub(crate) fn id(&self) -> Option<SessionId> {
        match *self {}
    }

    pub(crate) async fn handle_response(
        &mut self,
        _: &mut response::Parts,
    ) -> Result<(), Rejection> {
        match *self {}
    }

    pub(crate) fn lease(&self) -> Option<SessionLease> {
        match *self {}
    }

    pub(crate) fn into_stage(self) -> Option<SessionStage> {
        match self {}
    }
}

/// Never made.
pub(crate) enum SessionStage {}

impl Interceptor for SessionStage {
    fn event(&mut self, _: Event) -> Verdict {
        match *self {}
    }
}

/// No request has a session that could be healed.
#[cfg(feature = "replay")]
pub(crate) fn resumes_call(_: &mut request::Parts) {}
