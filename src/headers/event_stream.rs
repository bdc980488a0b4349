//! Heads: what a request may ask for, and what a response may still claim, when the body is inspected.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{self, ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL},
    request,
};

use crate::{
    headers::{content_type::settle_content_type, list::members},
    upstream::body,
};

/// By which a client says what it has (WHATWG HTML 9.2.4).
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Fields that speak of the bytes as the upstream sent them: lengths, validators, digests and ranges
/// (RFC 9110 8.6, 8.8, 14.3, 14.4; RFC 9530), and the framing that belongs to the server (RFC 9112 6.1).
const OF_THE_OLD_BODY: [HeaderName; 11] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::TRANSFER_ENCODING,
    header::ETAG,
    header::LAST_MODIFIED,
    header::ACCEPT_RANGES,
    header::CONTENT_RANGE,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Rewrites the head of an event stream whose body is written anew.
///
/// A gateway acts for the origin (RFC 9110 3.7), so an upstream's `no-transform` does not bind it; what leaves
/// is `no-store, no-transform`, for no cache and no later proxy has anything to gain from a stream, and
/// `X-Accel-Buffering: no`, by which nginx does not buffer it.
pub(crate) fn of_event_stream(headers: &mut HeaderMap) {
    for name in OF_THE_OLD_BODY {
        headers.remove(name);
    }
    settle_content_type(headers);
    let cache = HeaderValue::from_static("no-store, no-transform");
    headers.insert(CACHE_CONTROL, cache);
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

/// The fields of the first response to a recorded stream that later clients of the stream get as well.
///
/// Everything else may be about the first client or the one response: CORS headers name its origin, rate limits count its
/// requests, cookies are its own.
pub(crate) fn of_recording(
    headers: &HeaderMap,
    is_added: impl Fn(&HeaderName) -> bool,
) -> HeaderMap {
    let allowed = [
        header::CONTENT_TYPE,
        header::CONTENT_LANGUAGE,
        // These two are the layer's own by now.
        CACHE_CONTROL,
        ACCEL_BUFFERING,
    ];
    let fields = headers.iter();
    let fields = fields.filter(|(name, _)| allowed.contains(name) || is_added(name));
    fields
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Takes from `Accept-Encoding` what could not be decoded, if the answer may be an event stream. LLM SDKs ask
/// for gzip on every request; an upstream that obeys would make its stream unreadable.
pub(crate) fn narrow_accept_encoding(request: &mut request::Parts) {
    if !request.headers.contains_key(ACCEPT_ENCODING) || !may_stream(request) {
        return;
    }
    let kept: Vec<&[u8]> = request
        .headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| {
            let end = member.iter().position(|&b| b == b';');
            let name = member[..end.unwrap_or(member.len())].trim_ascii_end();
            body::is_known(name) || name.eq_ignore_ascii_case(b"identity")
        })
        .collect();
    let narrowed = HeaderValue::from_bytes(&kept.join(&b", "[..]))
        .ok()
        .filter(|narrowed| !narrowed.is_empty())
        .unwrap_or(HeaderValue::from_static("identity"));
    request.headers.insert(ACCEPT_ENCODING, narrowed);
}

/// Whether the answer may be an event stream. `Accept` says no only on GET: LLM SDKs ask for
/// `application/json` in the POST that starts a stream.
fn may_stream(request: &request::Parts) -> bool {
    let accept = request.headers.get_all(ACCEPT).iter();
    let mut ranges = accept
        .flat_map(|value| members(value.as_bytes()))
        .peekable();
    let wanted = [&b"text/event-stream"[..], b"text/*", b"*/*"];
    request.method != Method::GET
        || ranges.peek().is_none()
        || ranges.any(|range| {
            let essence = range.essence();
            range.is_malformed()
                || wanted
                    .iter()
                    .any(|wanted| essence.eq_ignore_ascii_case(wanted))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrowed(method: Method, accept: Option<&str>, encodings: &str) -> String {
        let mut request = http::Request::builder()
            .method(method)
            .header(ACCEPT_ENCODING, encodings);
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        let mut request = request.body(()).unwrap().into_parts().0;
        narrow_accept_encoding(&mut request);
        let all = request.headers.get_all(ACCEPT_ENCODING).iter();
        let all: Vec<_> = all.map(|value| value.to_str().unwrap()).collect();
        assert_eq!(all.len(), 1);
        all[0].to_owned()
    }

    #[test]
    fn what_cannot_be_decoded_is_not_asked_for() {
        let expected = if cfg!(feature = "decompression") {
            "gzip, deflate;q=0.5"
        } else {
            "identity"
        };
        for (method, accept) in [
            (Method::GET, None),
            (Method::GET, Some("text/html, */*;q=0.1")),
            (Method::GET, Some("Text/Event-Stream")),
            (Method::GET, Some("image/png, text/event-stream;q=\"1")),
            (Method::GET, Some("text / event-stream")),
            (Method::POST, Some("application/json")),
        ] {
            let encodings = "gzip, deflate;q=0.5, compress, *;q=0.1";
            assert_eq!(narrowed(method, accept, encodings), expected);
        }
        let own = narrowed(Method::GET, None, "compress, identity;q=0.5");
        assert_eq!(own, "identity;q=0.5");
    }

    #[test]
    fn a_request_that_cannot_stream_keeps_its_encodings() {
        for accept in [
            "image/png, application/json",
            "image/png; x=\"a, text/event-stream\"",
            "text/event-streaming",
        ] {
            let kept = narrowed(Method::GET, Some(accept), "br, x-new");
            assert_eq!(kept, "br, x-new", "{accept}");
        }
    }
}
