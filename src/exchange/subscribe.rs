//! The response that reads a recorded stream.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use crate::{
    body::SseBody,
    exchange::context::{RequestContext, unavailable},
    log::Reader,
    observe::StreamSlot,
    rejection::Rejection,
    replay::Subscription,
};

/// Makes the response that reads a recorded stream. The id of the stream is in the response extensions. `slot` is the place of a stream
/// that opens now. A stream that had no client needs a new place; rejects the request with 503 if none is free.
pub(crate) fn subscribe<B>(
    request: &RequestContext,
    subscription: Subscription,
    slot: Option<Arc<StreamSlot>>,
) -> Result<Response<SseBody<B>>, Rejection> {
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
    let slot = match reader.as_ref().and_then(Reader::open_stream) {
        Some(live) if !request.is_head => live.slot_for_client(slot).map_err(unavailable)?,
        _ => None,
    };
    let body = match reader {
        // The head of a `GET` response, and no body (RFC 9110 9.3.2).
        _ if request.is_head => SseBody::fixed(Bytes::new()),
        Some(reader) => {
            let reader = reader.first(first).route(policy.route.clone());
            SseBody::recorded(reader, policy.keep_alive.clone())
        }
        None => {
            request.report_gap_answer();
            SseBody::fixed(first.unwrap_or_default())
        }
    };
    Ok(Response::from_parts(head, body.with_slot(slot)))
}
