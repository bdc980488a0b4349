//! The call of the service for one request.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, request};
use http_body::Body;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use crate::{
    body::SseBody,
    exchange::{
        RecordingContext,
        context::RequestContext,
        early::may_be_early,
        outcome::{Outcome, ResponseContext},
        respond::respond,
        session::SessionContext,
    },
    reconnect::{ReconnectPolicy, RetryRequest},
};

/// A request that is ready for the service.
pub(crate) struct UpstreamCall<C, ReqB> {
    pub(super) context: RequestContext,
    pub(super) reconnect: C,
    pub(super) request: Request<ReqB>,
    pub(super) session: Option<Box<SessionContext>>,
    pub(super) recording: Option<Box<RecordingContext>>,
}

impl<C, ReqB> UpstreamCall<C, ReqB> {
    /// Whether the request may share the call of an equal request.
    pub(super) fn coalesces(&self) -> bool {
        let recording = self.recording.as_ref();
        recording.is_some_and(|recording| recording.coalesces())
    }

    /// After how long the response head leaves although the upstream has not answered.
    pub(super) fn early_head(&self, client: &request::Parts) -> Option<Duration> {
        let after = self.context.policy.early_head?;
        let opens_session = self
            .session
            .as_ref()
            .is_some_and(|session| session.id().is_none());
        let may_be_early = !opens_session && may_be_early(&self.context, client);
        may_be_early.then_some(after)
    }

    /// Calls the service, and makes the response that the client gets.
    pub(super) async fn respond<S, B>(self, service: S) -> Result<Response<SseBody<B>>, S::Error>
    where
        C: ReconnectPolicy<S, ReqB>,
        S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let context = self.context.clone();
        match self.call(service).await {
            Ok(outcome) => Ok(respond(&context, outcome).response().await),
            Err(error) => {
                context.report_failure(None);
                Err(error)
            }
        }
    }

    async fn call<S, B>(mut self, service: S) -> Result<Outcome<Response<B>>, S::Error>
    where
        C: ReconnectPolicy<S, ReqB>,
        S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        B: 'static,
    {
        let slot = if self.context.asks_for_stream() {
            match self.context.admit() {
                Ok(slot) => slot,
                Err(rejection) => return Ok(Outcome::Reject(rejection)),
            }
        } else {
            None
        };
        let (parts, body) = self.request.into_parts();
        let retry = self.reconnect.retry_request(&service, &parts);
        let response = service.oneshot(Request::from_parts(parts, body));
        let response = match self.context.within_head_limit(response).await {
            Ok(response) => response,
            Err(rejection) => return Ok(Outcome::Reject(rejection)),
        };
        if let Some(recording) = &mut self.recording
            && let Some(subscription) = recording.handle_result(&response)
        {
            return Ok(Outcome::Subscribe(Box::new(subscription)));
        }
        let (mut parts, body) = response?.into_parts();
        if let Some(session) = &mut self.session {
            if let Err(rejection) = session.handle_response(&mut parts).await {
                return Ok(Outcome::Reject(rejection));
            }
            if let Some(recording) = &mut self.recording {
                recording.set_session(session.id());
            }
        }
        let context = ResponseContext {
            session: self.session,
            recording: self.recording,
            slot,
            retry: retry.map(|retry| Box::new(RetryRequest::new(retry))),
        };
        Ok(Outcome::Respond(Response::from_parts(parts, body), context))
    }
}
