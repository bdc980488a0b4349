//! The `Accept` field of a request (RFC 9110 12.5.1).

use http::{HeaderMap, header::ACCEPT};

use crate::headers::list::members;

/// Whether a request names `text/event-stream` in `Accept`. Ranges such as `*/*` do not count: most clients send one.
pub(crate) fn asks_for_event_stream(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter();
    let mut ranges = values.flat_map(|value| members(value.as_bytes()));
    ranges.any(|range| range.essence().eq_ignore_ascii_case(b"text/event-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_asks_for_a_stream_by_its_name_only() {
        let asks = |values: &[&'static str]| {
            let values = values.iter().map(|value| (ACCEPT, value.parse().unwrap()));
            asks_for_event_stream(&values.collect())
        };
        assert!(asks(&["text/event-stream"]));
        assert!(asks(&["application/json, Text/Event-Stream;q=0.5"]));
        assert!(asks(&["application/json", "text/event-stream"]));
        assert!(!asks(&[]));
        assert!(!asks(&["*/*", "text/*"]));
        assert!(!asks(&[r#"application/json;note="text/event-stream""#]));
    }
}
