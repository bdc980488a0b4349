//! The head of a response whose body the layer has replaced as a whole.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields with a digest of the body (RFC 9530, and its extension for content without coding; RFC 3230 and RFC 1864, which it replaces).
pub(crate) const DIGESTS: [HeaderName; 5] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("unencoded-digest"),
];

/// Changes the headers of a response whose body was replaced by one of this length, in bytes.
///
/// Removes the fields that describe the upstream's bytes: coding, validator, ranges, digests and framing (RFC 9110 8.4, 8.8.3, 14.3;
/// RFC 9112 6.1), and sets `Content-Length`. All other fields stay, `Last-Modified` among them: the upstream's resource has not
/// changed.
pub(crate) fn rewrite_headers(headers: &mut HeaderMap, bytes: usize) {
    for name in [
        header::CONTENT_ENCODING,
        header::TRANSFER_ENCODING,
        header::ETAG,
        header::ACCEPT_RANGES,
        header::CONTENT_RANGE,
    ] {
        headers.remove(name);
    }
    remove_digests(headers);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
}

/// Removes the fields with a digest of the body from headers or trailers.
pub(crate) fn remove_digests(fields: &mut HeaderMap) {
    for name in DIGESTS {
        fields.remove(name);
    }
}
