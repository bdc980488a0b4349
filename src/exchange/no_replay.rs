//! The replacement of the files for recorded streams in builds without the feature `replay`: no stream is recorded.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, request, response};
use http_body::Body;
use tower::BoxError;
use tower_service::Service;

use crate::{
    body::SseBody,
    exchange::{
        call::UpstreamCall, context::RequestContext, outcome::Outcome, session::SessionContext,
    },
    observe::StreamSlot,
    reconnect::{ReconnectPolicy, RetryRequest},
    rejection::Rejection,
    replay::{Replay, Subscription},
    session::SessionId,
};

/// Never made.
pub(crate) enum RecordingContext {}

impl RecordingContext {
    pub(crate) fn of(_: &RequestContext, _: &request::Parts) -> Option<Box<Self>> {
        None
    }

    pub(crate) fn coalesces(&self) -> bool {
        match *self {}
    }

    pub(crate) fn handle_result<B, E>(
        &mut self,
        _: &Result<Response<B>, E>,
    ) -> Option<Subscription> {
        match *self {}
    }

    pub(crate) fn set_session(&mut self, _: Option<SessionId>) {
        match *self {}
    }

    pub(crate) fn set_slot(&mut self, _: Option<Arc<StreamSlot>>) {
        match *self {}
    }
}

pub(crate) fn needs_handling(_: &request::Parts, replay: &Replay) -> bool {
    match *replay {}
}

pub(crate) async fn find_recorded<R>(
    _: &RequestContext,
    _: &request::Parts,
    _: &mut request::Parts,
    _: Option<SessionId>,
) -> Result<Option<Box<RecordingContext>>, Outcome<R>> {
    Ok(None)
}

pub(crate) fn record<B>(
    _: &RequestContext,
    _: &request::Parts,
    _: response::Parts,
    _: B,
    recording: RecordingContext,
    _: Option<Box<SessionContext>>,
    _: Option<Box<RetryRequest<Response<B>>>>,
) -> Result<Subscription, Rejection> {
    match recording {}
}

pub(crate) fn subscribe<B>(
    _: &RequestContext,
    subscription: Subscription,
    _: Option<Arc<StreamSlot>>,
) -> Result<Response<SseBody<B>>, Rejection> {
    match subscription {}
}

impl<C, ReqB> UpstreamCall<C, ReqB> {
    pub(super) async fn coalesce<S, B>(self, service: S) -> Result<Response<SseBody<B>>, S::Error>
    where
        C: ReconnectPolicy<S, ReqB>,
        S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.respond(service).await
    }
}
