//! The event ids that a request names.

use http::HeaderMap;

use crate::{headers::event_stream_head::LAST_EVENT_ID, log::EventId};

/// The events that a request names in `Last-Event-ID`, in order. `None` stands for an id in a form that the layer does not give.
///
/// Several fields are one list to some servers and clients (RFC 9110 5.3), so a comma separates ids.
pub(crate) fn named_events(headers: &HeaderMap) -> impl Iterator<Item = Option<EventId>> {
    let values = headers.get_all(LAST_EVENT_ID).iter();
    let values = values.flat_map(|value| value.as_bytes().split(|&b| b == b','));
    values.map(parse)
}

/// Whether one of the ids in `Last-Event-ID` has the form that the layer gives.
pub(crate) fn names_own_event(headers: &HeaderMap) -> bool {
    named_events(headers).flatten().next().is_some()
}

/// Whether the request has a `Last-Event-ID` that is not empty. (A client with no id sends none, WHATWG HTML 9.2.3.)
pub(crate) fn has_last_event_id(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(LAST_EVENT_ID).iter();
    values.any(|value| !value.as_bytes().trim_ascii().is_empty())
}

/// Parses an id in the form that the layer gives. Blanks around it have no meaning (RFC 9110 5.5).
pub(crate) fn parse(value: &[u8]) -> Option<EventId> {
    let value = std::str::from_utf8(value.trim_ascii()).ok()?;
    value.parse().ok()
}
