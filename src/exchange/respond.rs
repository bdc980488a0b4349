//! Makes the response that the client gets. The service's response is passed, inspected or recorded; `inspectable` decides by its head
//! whether the layer reads it. Other clients are subscribed to a recorded stream. A JSON body is inspected before its response leaves.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{Response, StatusCode, response};
use http_body::Body;
use sync_wrapper::SyncWrapper;
use tower::BoxError;

use crate::{
    body::SseBody,
    exchange::{
        context::RequestContext,
        inspectable::{Treatment, Uninspectable, forbids_body, has_event_stream, json_limit},
        json_body,
        outcome::{Outcome, ResponseContext},
        record, subscribe,
    },
    headers::event_stream_head,
    live::Attached,
    observe::{StreamEnded, StreamOutcome, StreamReport, StreamSlot},
    rejection::Rejection,
    upstream::{
        ProgressStage, UpstreamProgress,
        body::{DecodedBody, RawBody},
    },
};

/// The response that the client gets.
pub(crate) enum Answer<B> {
    Ready(Response<SseBody<B>>),
    /// The response leaves after the interceptors have decided about its JSON body.
    Later(LaterResponse<B>),
}

/// The future of a response.
pub(crate) type LaterResponse<B> =
    SyncWrapper<Pin<Box<dyn Future<Output = Response<SseBody<B>>> + Send>>>;

impl<B> Answer<B> {
    /// Waits for the response.
    pub(crate) async fn response(self) -> Response<SseBody<B>> {
        match self {
            Answer::Ready(response) => response,
            Answer::Later(later) => later.into_inner().await,
        }
    }
}

/// Makes the response that the client gets.
pub(crate) fn respond<B>(request: &RequestContext, outcome: Outcome<Response<B>>) -> Answer<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let answer = match outcome {
        Outcome::Respond(response, context) => {
            let (parts, body) = response.into_parts();
            upstream_response(request, parts, body, context).map_err(|rejection| (rejection, true))
        }
        Outcome::Subscribe(subscription) => subscribe(request, *subscription, None)
            .map(Answer::Ready)
            .map_err(|rejection| (rejection, true)),
        Outcome::Reject(rejection) => Err((rejection, false)),
    };
    match answer {
        Ok(Answer::Ready(response)) => Answer::Ready(mapped(request, response)),
        Ok(later) => later,
        Err((rejection, is_stream)) => {
            request.report_rejection(&rejection, is_stream);
            Answer::Ready(SseBody::rejection(rejection))
        }
    }
}

/// Removes session ids from the trailers of a response.
fn mapped<B>(request: &RequestContext, response: Response<SseBody<B>>) -> Response<SseBody<B>> {
    response.map(|body| body.with_session_mapping(request.policy.sessions.clone()))
}

/// A response of the service.
fn upstream_response<B>(
    request: &RequestContext,
    parts: response::Parts,
    body: B,
    mut context: ResponseContext<Response<B>>,
) -> Result<Answer<B>, Rejection>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let policy = &request.policy;
    if policy.guards() && forbids_body(parts.status) {
        // As for `HEAD`: no body leaves that was not inspected.
        let body = SseBody::fixed(Bytes::new());
        return Ok(Answer::Ready(Response::from_parts(parts, body)));
    }
    let reject = |why: Uninspectable| why.reject(policy.route.clone());
    if !has_event_stream(policy, &parts).map_err(reject)? {
        return Ok(match json_limit(policy, &parts) {
            Some(limit) => inspect_json(request, limit, parts, body),
            None => Answer::Ready(pass(parts, body)),
        });
    }
    if context.slot.is_none() && !request.is_head {
        context.slot = request.admit()?;
    }
    // Only a response with status 200 can be resumed or continued (WHATWG HTML 9.2.3).
    if let (Some(mut recording), Some(client)) = (context.recording.take(), &request.client)
        && parts.status == StatusCode::OK
        && !request.is_head
    {
        let ResponseContext {
            session,
            retry,
            slot,
            ..
        } = context;
        recording.set_slot(slot.clone());
        let subscription = record(request, client, parts, body, *recording, session, retry)?;
        return subscribe(request, subscription, slot).map(Answer::Ready);
    }
    let needs_events = context.retry.is_some() || request.observed.is_some();
    let response = match Treatment::of(policy, &parts, needs_events) {
        Treatment::PassUntouched => {
            let slot = context.slot;
            let response = untouched(request, parts, body, slot.as_ref());
            response.map(|body| body.with_slot(slot))
        }
        Treatment::Inspect(coding) => {
            let body = RawBody::new(body, policy.read_ahead_of(&parts));
            inspect(request, parts, DecodedBody::new(&coding, body), context)?
        }
        Treatment::Reject(why) => return Err(reject(why)),
    };
    Ok(Answer::Ready(response))
}

/// A response that the layer does not read.
fn pass<B>(parts: response::Parts, body: B) -> Response<SseBody<B>> {
    Response::from_parts(parts, SseBody::pass_through(body))
}

/// A JSON body of at most `limit` bytes that the interceptors see, if there are any for it.
fn inspect_json<B>(
    request: &RequestContext,
    limit: usize,
    parts: response::Parts,
    body: B,
) -> Answer<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if request.is_head {
        // A body that the service sends all the same was not inspected, and may not leave (RFC 9110 9.3.2).
        let body = SseBody::fixed(Bytes::new());
        return Answer::Ready(Response::from_parts(parts, body));
    }
    let client = match &request.client {
        Some(client) if !body.is_end_stream() => client,
        _ => return Answer::Ready(pass(parts, body)),
    };
    let chain = match json_body::open(request, client, &parts) {
        Ok(chain) if chain.is_empty() => return Answer::Ready(pass(parts, body)),
        Ok(chain) => chain,
        Err(rejection) => return Answer::Ready(SseBody::rejection(rejection)),
    };
    let request = request.clone();
    let later = async move {
        let response = json_body::inspect(&request, limit, chain, parts, body).await;
        mapped(&request, response)
    };
    Answer::Later(SyncWrapper::new(Box::pin(later)))
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
        event_stream_head::rewrite_headers(&mut parts.headers);
        return Ok(Response::from_parts(parts, SseBody::fixed(Bytes::new())));
    }
    // Only a response with status 200 can be resumed or continued (WHATWG HTML 9.2.3).
    let retry = context.retry.filter(|_| parts.status == StatusCode::OK);
    let retry = retry.map(|retry| (*retry, Arc::<UpstreamProgress>::default()));
    let stage = retry
        .as_ref()
        .map(|(_, progress)| ProgressStage::new(Arc::clone(progress), None));
    let (mut pull, lease) = request.open_stream(&mut parts, body, context.session, None, stage)?;
    if let Some((retry, progress)) = retry {
        let check = request.content_check();
        let live = pull.live().map(Arc::clone);
        let continuation = retry.into_continuation(progress, check, live, NO_FALLBACK);
        pull = pull.with_continuation(continuation);
    }
    let keep_alive = request.policy.keep_alive.clone();
    let body = match pull.live().map(Arc::clone) {
        Some(live) => {
            if let Some(slot) = &context.slot {
                live.set_slot(slot);
            }
            let watchdog = request.watchdog(&live);
            let attached = Attached::new(pull, live, watchdog, &request.state.housekeeper);
            SseBody::attached(attached, keep_alive, lease)
        }
        None => SseBody::inspected(pull, keep_alive, lease),
    };
    Ok(Response::from_parts(parts, body.with_slot(context.slot)))
}

/// When the layer stops reconnecting, a stream that is not recorded ends.
const NO_FALLBACK: Option<Infallible> = None;

/// An event stream that the layer passes on untouched.
fn untouched<B>(
    request: &RequestContext,
    mut parts: response::Parts,
    body: B,
    slot: Option<&Arc<StreamSlot>>,
) -> Response<SseBody<B>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if request.is_head {
        return Response::from_parts(parts, SseBody::pass_through(body));
    }
    let live = request.open_live(&mut parts, None, None);
    if let (Some(live), Some(slot)) = (&live, slot) {
        live.set_slot(slot);
    }
    let report = StreamReport::untouched(request.policy.route.clone(), live);
    let body = if body.is_end_stream() {
        // A server does not poll a body that has ended, so that such a body cannot report its end.
        report.close(StreamEnded::of(StreamOutcome::Completed));
        SseBody::pass_through(body)
    } else {
        let body = RawBody::new(body, request.policy.read_ahead_of(&parts));
        SseBody::untouched(body, report)
    };
    Response::from_parts(parts, body)
}
