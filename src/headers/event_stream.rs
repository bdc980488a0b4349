//! Heads: what a request may ask for, and what a response may still claim, when the body is inspected.

use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{self, CACHE_CONTROL},
    response,
};

use crate::headers::content_type::settle_content_type;

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

/// The head of a success.
pub(crate) fn head_with(headers: HeaderMap) -> response::Parts {
    let (mut head, ()) = Response::new(()).into_parts();
    head.headers = headers;
    head
}

/// The head of a stream that tells of nothing but a gap.
pub(crate) fn plain_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mime = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, mime);
    of_event_stream(&mut headers);
    headers
}
