//! Requests that share one call of the service.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::sync::oneshot;
use tower::BoxError;
use tower_service::Service;

use crate::{
    body::SseBody,
    exchange::{
        authorize::authorize, call::UpstreamCall, context::RequestContext, outcome::Outcome,
        record::RecordingContext, respond::respond,
    },
    log::StartAt,
    reconnect::ReconnectPolicy,
    rejection::Rejection,
    replay::single_flight::{Abandoned, Interest, LeaderGuard, Role},
};

impl<C, ReqB> UpstreamCall<C, ReqB> {
    /// Joins the running stream of an equal request, waits for the call of another one, or calls the service for all.
    ///
    /// The call for all is a task, so that it continues for the others if this client disconnects.
    pub(super) async fn coalesce<S, B>(
        mut self,
        service: S,
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
        let Some(recording) = &mut self.recording else {
            return self.respond(service).await;
        };
        let replay = Arc::clone(&recording.replay);
        let role = assign_role(&self.context, recording).await;
        let (leader, interest, abandoned) = match role {
            Ok(Some(leader)) => leader,
            Ok(None) => return self.respond(service).await,
            Err(outcome) => return Ok(respond(&self.context, outcome).response().await),
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
        if let Ok(response) = response {
            return response;
        }
        // The task was dropped: its runtime shuts down, or the service panicked.
        let text = "the call of the upstream was aborted\n";
        let rejection = Rejection::new(StatusCode::BAD_GATEWAY, text);
        let answer = respond(&context, Outcome::Reject(rejection));
        Ok(answer.response().await)
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
