//! The order in which a request is handled: session, resume, coalescing, the service, the response.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request};
use http_body::Body;
use tokio::sync::oneshot;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use crate::{
    body::SseBody,
    exchange::{
        authorize::authorize,
        context::RequestContext,
        early::{may_be_early, respond_early},
        outcome::{Outcome, ResponseContext},
        record::RecordingContext,
        respond::respond,
        resume::{Resume, Resumed, accepts_stream, names_an_event},
        session::SessionContext,
    },
    log::StartAt,
    reconnect::{ReconnectPolicy, RetryRequest},
    rejection::Rejection,
    replay::{
        coalesce::{Abandoned, Interest, LeaderGuard, Role},
        key::{StreamKey, StreamOwner},
    },
    session::SessionLink,
};

/// Handles a request of a policy with sessions, or a request that may resume or share a recorded stream.
///
/// The service is not ready yet, so that a slow session store holds no permit of it.
pub(crate) async fn handle<C, S, ReqB, B>(
    mut context: RequestContext,
    reconnect: C,
    service: S,
    request: Request<ReqB>,
) -> Result<Response<SseBody<B>>, S::Error>
where
    C: ReconnectPolicy<S, ReqB> + Send + 'static,
    S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    ReqB: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (mut parts, body) = request.into_parts();
    let client = context.client.take();
    let client = client.unwrap_or_else(|| Arc::new(parts.clone()));
    context.client = Some(Arc::clone(&client));

    let session = SessionContext::resolve(&context, &client, &mut parts).await;
    let session = match session {
        Ok(session) => session,
        Err(rejection) => return Ok(respond(&context, Outcome::Reject(rejection))),
    };
    let mut recording = None;
    let mut coalesces = false;
    if let Some(replay) = context.policy.replay.clone() {
        let owner = StreamOwner {
            owner: context.owner(&client),
            session: session.as_ref().and_then(|session| session.id()),
        };
        let key = StreamKey::of(&client, &replay);
        let resume = Resume {
            streams: &context.state.streams,
            replay: &replay,
            observers: &context.state.observers,
            owner: &owner,
            key: &key,
        };
        let pending = match resume.find(&client, &mut parts).await {
            Resumed::No => None,
            Resumed::Subscribe(subscription) => {
                return Ok(respond(&context, Outcome::Subscribe(subscription)));
            }
            Resumed::AskUpstream(pending) => {
                if let Some(link) = parts.extensions.get_mut::<SessionLink>() {
                    link.resumes_call = !pending.stream.continuation.opened_by_get;
                }
                Some(pending)
            }
            Resumed::Reject(rejection) => {
                return Ok(respond(&context, Outcome::Reject(rejection)));
            }
        };
        // A response that continues a stream in its middle is of no use to other clients; nor can a client join a stream of which it
        // has an event that the layer does not know.
        coalesces = matches!(key, StreamKey::Shared(..))
            && pending.is_none()
            && !names_an_event(&parts, &replay)
            && accepts_stream(&client.method);
        recording = Some(Box::new(RecordingContext {
            pending,
            ..RecordingContext::new(&replay, owner, key)
        }));
    }
    let call = UpstreamCall {
        context,
        reconnect,
        request: Request::from_parts(parts, body),
        session,
        recording,
    };
    let early_head = call.early_head(&client);
    let context = call.context.clone();
    let response = async move {
        if coalesces {
            call.coalesce(service).await
        } else {
            call.respond(service).await
        }
    };
    match early_head {
        Some(after) => respond_early(context, after, response).await,
        None => response.await,
    }
}

/// A request that is ready for the service.
struct UpstreamCall<C, ReqB> {
    context: RequestContext,
    reconnect: C,
    request: Request<ReqB>,
    session: Option<Box<SessionContext>>,
    recording: Option<Box<RecordingContext>>,
}

impl<C, ReqB> UpstreamCall<C, ReqB> {
    /// After how long the response head leaves although the upstream has not answered.
    fn early_head(&self, client: &request::Parts) -> Option<Duration> {
        let after = self.context.policy.early_head?;
        let opens_session = self
            .session
            .as_ref()
            .is_some_and(|session| session.id().is_none());
        let may_be_early = !opens_session && may_be_early(&self.context, client);
        may_be_early.then_some(after)
    }

    /// Calls the service, and makes the response that the client gets.
    async fn respond<S, B>(self, service: S) -> Result<Response<SseBody<B>>, S::Error>
    where
        C: ReconnectPolicy<S, ReqB>,
        S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let context = self.context.clone();
        match self.call(service).await {
            Ok(outcome) => Ok(respond(&context, outcome)),
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
            && let Some(pending) = recording.pending.take()
        {
            let status = response.as_ref().ok().map(Response::status);
            match pending.resolve_upstream_response::<B>(status) {
                ControlFlow::Break(subscription) => {
                    return Ok(Outcome::Subscribe(Box::new(subscription)));
                }
                ControlFlow::Continue(pending) => recording.pending = Some(pending),
            }
        }
        let (mut parts, body) = response?.into_parts();
        if let Some(session) = &mut self.session {
            if let Err(rejection) = session.handle_response(&mut parts).await {
                return Ok(Outcome::Reject(rejection));
            }
            if let Some(recording) = &mut self.recording {
                recording.owner.session = session.id();
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

    /// Joins the running stream of an equal request, waits for the call of another one, or calls the service for all.
    ///
    /// That call is a task, so that it continues for the others if this client disconnects.
    async fn coalesce<S, B>(mut self, service: S) -> Result<Response<SseBody<B>>, S::Error>
    where
        C: ReconnectPolicy<S, ReqB> + Send + 'static,
        S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        ReqB: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Some(recording) = &mut self.recording else {
            return self.respond(service).await;
        };
        let replay = Arc::clone(&recording.replay);
        let role = assign_role(&self.context, recording).await;
        let (leader, interest, abandoned) = match role {
            Ok(Some(leader)) => leader,
            Ok(None) => return self.respond(service).await,
            Err(outcome) => return Ok(respond(&self.context, outcome)),
        };
        recording.leader = Some(leader);
        let context = self.context.clone();
        let (sender, response) = oneshot::channel();
        (replay.executor)(Box::pin(async move {
            tokio::select! {
                biased;
                response = self.respond(service) => drop(sender.send(response)),
                () = abandoned.wait() => {}
            }
        }));
        let response = response.await;
        drop(interest);
        response.unwrap_or_else(|_| {
            // The task was dropped: its runtime shuts down, or the service panicked.
            let text = "the upstream was not asked\n";
            let rejection = Rejection::new(StatusCode::BAD_GATEWAY, text);
            Ok(respond(&context, Outcome::Reject(rejection)))
        })
    }
}

/// Assigns the role of a request in a shared call.
///
/// Returns a guard if it calls the service for all, `None` if it calls the service for itself, and otherwise the outcome.
async fn assign_role<R>(
    context: &RequestContext,
    recording: &RecordingContext,
) -> Result<Option<(LeaderGuard, Interest, Abandoned)>, Outcome<R>> {
    let replay = &recording.replay;
    let start = replay
        .share
        .as_ref()
        .map_or(StartAt::Live, |share| share.from);
    let coalescer = &context.state.streams.coalescer;
    let mut has_waited = false;
    let mut is_authorized = replay.authorize.is_none();
    loop {
        let key = (recording.owner.clone(), recording.key.clone());
        match coalescer.assign_role(key, start, is_authorized) {
            Role::Unauthorized(interest) => {
                drop(interest);
                if let Some(client) = &context.client
                    && let Err(rejection) = authorize(replay, client).await
                {
                    return Err(Outcome::Reject(rejection));
                }
                is_authorized = true;
            }
            Role::Join(subscription) => return Err(Outcome::Subscribe(Box::new(subscription))),
            Role::Follow(stream, _interest) => match stream.await {
                Ok(subscription) => return Err(Outcome::Subscribe(Box::new(subscription))),
                // The leader's call failed: the requests that waited for it share one more call.
                Err(_) if !has_waited => has_waited = true,
                // The response was not a stream, or is for one client only.
                Err(_) => return Ok(None),
            },
            Role::Lead(leader, interest, abandoned) => {
                return Ok(Some((leader, interest, abandoned)));
            }
        }
    }
}
