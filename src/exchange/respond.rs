//! Makes the response that the client gets. The service's response is passed, inspected or recorded; `inspectable` decides by its head
//! whether the layer reads it. Other clients are subscribed to a recorded stream.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode, response};
use http_body::Body;
use tower::BoxError;

use crate::{
    body::SseBody,
    exchange::{
        context::RequestContext,
        inspectable::{Treatment, Uninspectable, has_event_stream},
        outcome::{Outcome, ResponseContext},
        record::record,
    },
    headers::event_stream,
    observe::report::StreamReport,
    reconnect::{Reconnecting, RetryRequest},
    rejection::Rejection,
    replay::{on_demand::ResumeOnDemand, subscription::Subscription},
    upstream::{ProgressStage, UpstreamProgress, body::DecodedBody},
};

/// Makes the response that the client gets.
pub(crate) fn respond<B>(
    request: &RequestContext,
    outcome: Outcome<Response<B>>,
) -> Response<SseBody<B>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let response = match outcome {
        Outcome::Respond(response, context) => {
            let (parts, body) = response.into_parts();
            upstream_response(request, parts, body, context).unwrap_or_else(SseBody::rejection)
        }
        Outcome::Subscribe(subscription) => subscribe(request, *subscription),
        Outcome::Reject(rejection) => SseBody::rejection(rejection),
    };
    response.map(|body| body.with_session_mapping(request.policy.sessions.clone()))
}

/// A response of the service.
fn upstream_response<B>(
    request: &RequestContext,
    parts: response::Parts,
    body: B,
    mut context: ResponseContext<Response<B>>,
) -> Result<Response<SseBody<B>>, Rejection>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let policy = &request.policy;
    let reject = |why: Uninspectable| why.reject(policy.route.clone());
    if !has_event_stream(policy, &parts).map_err(reject)? {
        return Ok(Response::from_parts(parts, SseBody::pass_through(body)));
    }
    // Only a response with status 200 can be resumed or continued (WHATWG HTML 9.2.3).
    if let (Some(recording), Some(client)) = (context.recording.take(), &request.client)
        && parts.status == StatusCode::OK
        && !request.is_head
    {
        let (session, retry) = (context.session, context.retry);
        let subscription = record(request, client, parts, body, *recording, session, retry)?;
        return Ok(subscribe(request, subscription));
    }
    match Treatment::of(policy, &parts, context.retry.is_some()) {
        Treatment::PassUnread => Ok(unread(request, parts, body)),
        Treatment::Inspect(coding) => {
            inspect(request, parts, DecodedBody::new(&coding, body), context)
        }
        Treatment::Reject(why) => Err(reject(why)),
    }
}

/// An event stream that the client pulls through the interceptors.
fn inspect<B>(
    request: &RequestContext,
    mut parts: response::Parts,
    body: DecodedBody<B>,
    context: ResponseContext<Response<B>>,
) -> Result<Response<SseBody<B>>, Rejection>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if request.is_head {
        // A body that the service sends all the same was not inspected, and may not leave (RFC 9110 9.3.2).
        event_stream::rewrite_headers(&mut parts.headers);
        return Ok(Response::from_parts(parts, SseBody::fixed(Bytes::new())));
    }
    // Only a response with status 200 can be resumed or continued (WHATWG HTML 9.2.3).
    let retry = context.retry.filter(|_| parts.status == StatusCode::OK);
    let retry = retry.map(|retry| (*retry, Arc::<UpstreamProgress>::default()));
    let stage = retry
        .as_ref()
        .map(|(_, progress)| ProgressStage::new(Arc::clone(progress), None));
    let (mut pull, lease) = request.open_stream(&mut parts, body, context.session, stage)?;
    if let Some((retry, progress)) = retry {
        pull = pull.with_continuation(reconnecting(request, retry, progress));
    }
    let body = SseBody::inspected(pull, request.policy.keep_alive.clone(), lease);
    Ok(Response::from_parts(parts, body))
}

fn reconnecting<B>(
    request: &RequestContext,
    retry: RetryRequest<Response<B>>,
    progress: Arc<UpstreamProgress>,
) -> Reconnecting<B, ResumeOnDemand<B>> {
    Reconnecting::new(retry, progress, request.content_check(), None)
}

/// An event stream that the layer passes on unread.
fn unread<B: Body>(
    request: &RequestContext,
    parts: response::Parts,
    body: B,
) -> Response<SseBody<B>> {
    // A server does not poll a body that has ended, so that such a body cannot report its end.
    let body = if request.is_head || body.is_end_stream() {
        SseBody::pass_through(body)
    } else {
        SseBody::unread(body, StreamReport::unread(request.policy.route.clone()))
    };
    Response::from_parts(parts, body)
}

/// A recorded stream, as its client reads it. The id of the stream is in the response extensions.
fn subscribe<B>(request: &RequestContext, subscription: Subscription) -> Response<SseBody<B>> {
    let Subscription {
        stream,
        mut head,
        reader,
        first,
    } = subscription;
    if let Some(stream) = stream {
        head.extensions.insert(stream);
    }
    let policy = &request.policy;
    let body = match reader {
        // The head of a `GET` response, and no body (RFC 9110 9.3.2).
        _ if request.is_head => SseBody::fixed(Bytes::new()),
        Some(reader) => {
            let reader = reader.first(first).route(policy.route.clone());
            SseBody::recorded(reader, policy.keep_alive.clone())
        }
        None => SseBody::fixed(first.unwrap_or_default()),
    };
    Response::from_parts(head, body)
}
