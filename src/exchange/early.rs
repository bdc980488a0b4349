//! The early head: a response head that leaves before the upstream has answered, so that proxies and clients do not give up.

use std::{future::Future, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Method, Response, StatusCode, request};
use http_body::Body;
use tokio::time::sleep_until;
use tower::BoxError;

use crate::{
    body::SseBody,
    downstream::keep_alive::KeepAlive,
    error::{Error, ErrorKind},
    exchange::context::RequestContext,
    headers::{
        content_type::is_event_stream,
        event_stream_head::{head_with, plain_headers},
    },
    observe::StreamOutcome,
    stream_id::StreamId,
    upstream::terminal::Family,
};

/// The interval of comments behind an early head, unless the policy has a keep-alive.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

/// Waits for the response. If it is not ready within `after` of the arrival of the request, answers with an early head.
pub(crate) async fn respond_early<F, B, E>(
    context: RequestContext,
    after: Duration,
    response: F,
) -> Result<Response<SseBody<B>>, E>
where
    F: Future<Output = Result<Response<SseBody<B>>, E>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    E: Send,
{
    let response = Box::pin(response);
    let at = context.arrived() + after;
    let response = match select(response, pin!(sleep_until(at))).await {
        Either::Left((response, _)) => return response,
        Either::Right(((), response)) => response,
    };
    let keep_alive = context.policy.keep_alive.clone();
    let keep_alive = keep_alive.unwrap_or_else(|| KeepAlive::new(COMMENT_INTERVAL));
    let body = async move {
        let family = context.client.as_deref().and_then(family_of_request);
        match response.await {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let opened = parts.extensions.get::<StreamId>();
                let is_stream = is_event_stream(&parts) || opened.is_some();
                if parts.status == StatusCode::OK && is_stream {
                    return body;
                }
                // The early head has left, so the client cannot get the status of this stream.
                if let Some(live) = opened.and_then(|id| context.state.live.find(*id)) {
                    live.end_with(StreamOutcome::UpstreamError);
                }
                context.report_failure(Some(StatusCode::OK));
            }
            Err(_) => context.report_failure(Some(StatusCode::OK)),
        }
        let event = Family::error_event_of(family, "The upstream did not answer with a stream.");
        SseBody::failing(
            event.into_block().into_raw(),
            Error::new(ErrorKind::Upstream),
        )
    };
    let body = SseBody::early(Box::pin(body), keep_alive);
    Ok(Response::from_parts(head_with(plain_headers()), body))
}

/// Whether a request can have an early head: a `GET` or `POST` that asks for a stream.
pub(crate) fn may_be_early(context: &RequestContext, client: &request::Parts) -> bool {
    context.asks_for_stream() && matches!(client.method, Method::GET | Method::POST)
}

/// The API family of a request, by the end of its path: there is no event yet by which the family could be recognized.
fn family_of_request(client: &request::Parts) -> Option<Family> {
    let path = client.uri.path();
    if path.ends_with("/chat/completions") || path.ends_with("/completions") {
        Some(Family::OpenAiChat)
    } else if path.ends_with("/responses") {
        Some(Family::OpenAiResponses)
    } else if path.ends_with("/messages") {
        Some(Family::Anthropic)
    } else {
        None
    }
}
