//! The order in which a request is handled: session, resume, coalescing, the service, the response.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::BoxError;
use tower_service::Service;

use crate::{
    body::SseBody,
    exchange::{
        call::UpstreamCall, context::RequestContext, early::respond_early, find_recorded,
        outcome::Outcome, respond::respond, session::SessionContext,
    },
    reconnect::ReconnectPolicy,
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
        Err(rejection) => {
            return Ok(respond(&context, Outcome::Reject(rejection))
                .response()
                .await);
        }
    };
    let id = session.as_ref().and_then(|session| session.id());
    let recording = match find_recorded(&context, &client, &mut parts, id).await {
        Ok(recording) => recording,
        Err(outcome) => return Ok(respond(&context, outcome).response().await),
    };
    let mut call = UpstreamCall {
        context,
        reconnect,
        request: Request::from_parts(parts, body),
        session,
        recording,
    };
    let early_head = call.early_head(&client);
    call.context.early_head = early_head;
    let context = call.context.clone();
    let response = async move {
        if call.coalesces() {
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
