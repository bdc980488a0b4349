//! Reports gaps: a client resumes a stream, and the layer no longer has all events that the client has missed. [`Gap`] is the setting.

use std::sync::Arc;

use http::{Method, StatusCode, request};

use crate::{
    codec::Event,
    headers::event_stream_head::{LAST_EVENT_ID, head_with, plain_headers},
    log::EventId,
    observe::Observers,
    rejection::{Rejection, RejectionReason},
    replay::{Gap, Subscription, recorded_stream::RecordedStream},
};

/// Reports a gap to the observers, with the stream if it is known.
pub(super) fn observe(
    stream: Option<&Arc<RecordedStream>>,
    observers: &Observers,
    reason: &'static str,
) {
    match stream.and_then(|stream| stream.live.as_ref()) {
        Some(live) => live.count_gap_report(reason),
        None => observers.each(|observer| observer.gap(None, reason)),
    }
}

/// The response that reports a gap to the client: a status, or a gap event and then the events in the log of `rest`.
pub(super) fn response(
    on_gap: Gap,
    client: &request::Parts,
    reason: &str,
    rest: Option<Arc<RecordedStream>>,
) -> Result<Subscription, Rejection> {
    let status = match on_gap {
        Gap::Status(status) => Some(status),
        Gap::Event if client.method != Method::GET => Some(StatusCode::GONE),
        Gap::Event => None,
    };
    if let Some(status) = status {
        let text = format!("the stream cannot be resumed without a gap: {reason}\n");
        let rejection = Rejection::new(status, text);
        return Err(rejection.because(RejectionReason::Resume));
    }
    let mut event = Event::new(format!(r#"{{"reason":"{reason}"}}"#));
    // Setting a value fails only if it has line ends. These have none.
    let _ = event.set_event("gap");
    let stream = rest.as_ref().map(|rest| rest.id);
    let head = rest.as_ref().map(|rest| rest.head());
    let reader = rest.map(|rest| {
        let (oldest, last) = rest.log.oldest_or_last();
        if let Some((stream, position)) = rest.id_prefix().zip(last) {
            // The log is empty. Without this id, the client would resume from the same event again, and get the same gap.
            let _ = event.set_id(EventId { stream, position }.to_string());
        }
        rest.subscribe(oldest)
    });
    if reader.is_none() {
        // An empty id makes the client begin anew when it reconnects. A client with the id in its URL sends it again unless it has
        // another id.
        let is_in_url = !client.headers.contains_key(LAST_EVENT_ID);
        let id = is_in_url.then(|| EventId::NONE.to_string());
        let _ = event.set_id(id.unwrap_or_default());
    }
    Ok(Subscription {
        stream,
        head: head.unwrap_or_else(|| head_with(plain_headers())),
        reader,
        first: Some(event.into_block().into_raw()),
    })
}
