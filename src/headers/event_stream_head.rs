//! The head of a response that is an event stream.

use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{self, CACHE_CONTROL},
    response,
};

use crate::headers::{
    content_type::reduce_content_type,
    incremental::{INCREMENTAL, set_incremental},
    replaced_body::remove_digests,
};

/// The field with which a client names the last event that it has received (WHATWG HTML 9.2.4).
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// `no` tells nginx not to buffer the response.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Fields that describe the bytes of the upstream's body, without the digests: coding, length, validators and ranges (RFC 9110 8.4,
/// 8.6, 8.8, 14.3, 14.4), and the framing, which the server sets (RFC 9112 6.1).
const DESCRIBES_BODY: [HeaderName; 7] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::TRANSFER_ENCODING,
    header::ETAG,
    header::LAST_MODIFIED,
    header::ACCEPT_RANGES,
    header::CONTENT_RANGE,
];

/// Fields that allow a cache to store a response in spite of its `Cache-Control`, or that describe a stored response: age and expiry
/// (RFC 9111 5.1, 5.3), the surrogate control of W3C's Edge Architecture, and nginx's expiry, which takes precedence over `Cache-Control`.
const ALLOWS_STORING: [HeaderName; 4] = [
    header::AGE,
    header::EXPIRES,
    HeaderName::from_static("surrogate-control"),
    HeaderName::from_static("x-accel-expires"),
];

/// The suffix of the fields for one kind of cache, such as `CDN-Cache-Control`. They take precedence over `Cache-Control` (RFC 9213).
const TARGETED: &str = "-cache-control";

/// Changes the headers of an event stream that the layer decodes and writes.
///
/// Removes the fields that describe the upstream's body or let a cache store it, and reduces `Content-Type` to one value. Sets
/// `Cache-Control: no-store, no-transform`, so that no cache stores the stream and no later proxy changes it. Sets `Incremental: ?1`
/// (RFC 10036) and `X-Accel-Buffering: no` (nginx), so that no later proxy buffers it.
///
/// An upstream's `no-transform` does not forbid these changes: a gateway acts as the origin server for its clients (RFC 9110 3.7).
pub(crate) fn rewrite_headers(headers: &mut HeaderMap) {
    for name in DESCRIBES_BODY.into_iter().chain(ALLOWS_STORING) {
        headers.remove(name);
    }
    remove_targeted(headers);
    remove_digests(headers);
    reduce_content_type(headers);
    let cache = HeaderValue::from_static("no-store, no-transform");
    headers.insert(CACHE_CONTROL, cache);
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    set_incremental(headers);
}

fn remove_targeted(headers: &mut HeaderMap) {
    let names = headers.keys();
    let targeted: Vec<HeaderName> = names
        .filter(|name| name.as_str().ends_with(TARGETED))
        .cloned()
        .collect();
    for name in targeted {
        headers.remove(name);
    }
}

/// The headers of the first response of a recorded stream that later clients of the stream also receive: the fields that do not
/// depend on the client, and the fields for which `is_added` returns true.
///
/// All other fields may be about the first client: CORS headers name its origin, rate limits count its requests, and cookies are
/// for it alone.
pub(crate) fn shared_headers(
    headers: &HeaderMap,
    is_added: impl Fn(&HeaderName) -> bool,
) -> HeaderMap {
    let allowed = [
        header::CONTENT_TYPE,
        header::CONTENT_LANGUAGE,
        // `rewrite_headers` has set these.
        CACHE_CONTROL,
        ACCEL_BUFFERING,
        INCREMENTAL,
    ];
    let fields = headers.iter();
    let fields = fields.filter(|(name, _)| allowed.contains(name) || is_added(name));
    fields
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The head of a response with status 200 and these headers.
pub(crate) fn head_with(headers: HeaderMap) -> response::Parts {
    let (mut head, ()) = Response::new(()).into_parts();
    head.headers = headers;
    head
}

/// The headers of an event stream that the layer creates without a response of an upstream.
pub(crate) fn plain_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mime = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, mime);
    rewrite_headers(&mut headers);
    headers
}
