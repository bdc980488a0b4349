//! Copies of headers that use little memory.

use http::{HeaderMap, HeaderName, HeaderValue, request};

/// Headers in one compact buffer, for a response head that is stored for a long time.
///
/// A `HeaderValue` that a server or a client has read is a slice of the connection's read buffer (8 KiB in hyper). The value
/// keeps the whole buffer allocated.
pub(crate) struct StoredHeaders(Box<[u8]>);

impl StoredHeaders {
    /// Copies the headers, in order. A value that is marked as sensitive stays marked.
    pub(crate) fn new<'a>(
        headers: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    ) -> Self {
        let mut stored = Vec::new();
        for (name, value) in headers {
            stored.push(u8::from(value.is_sensitive()));
            for part in [name.as_ref(), value.as_bytes()] {
                stored.extend_from_slice(&part.len().to_ne_bytes());
                stored.extend_from_slice(part);
            }
        }
        Self(stored.into())
    }

    /// The size of the buffer in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The headers as a new map.
    pub(crate) fn to_map(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut rest = &self.0[..];
        while let Some((name, value)) = take_header(&mut rest) {
            headers.append(name, value);
        }
        headers
    }
}

/// Copies the headers and the target of a request out of the connection's read buffer.
pub(crate) fn leave_buffer(request: &mut request::Parts) {
    request.headers = StoredHeaders::new(&request.headers).to_map();
    // A URI that cannot be parsed again keeps its buffer.
    if let Ok(uri) = request.uri.to_string().try_into() {
        request.uri = uri;
    }
}

/// Takes the first header of `rest`.
fn take_header(rest: &mut &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let is_sensitive = *rest.split_off_first()? != 0;
    let name = HeaderName::from_bytes(take_part(rest)?).ok()?;
    let mut value = HeaderValue::from_bytes(take_part(rest)?).ok()?;
    value.set_sensitive(is_sensitive);
    Some((name, value))
}

/// Takes a length and as many bytes.
fn take_part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = rest.split_off(..size_of::<usize>())?;
    rest.split_off(..usize::from_ne_bytes(len.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copied_request_equals_the_original_and_shares_no_memory() {
        let buffer = bytes::Bytes::from_static(b"/a/b?c=%20&d value");
        let path = http::uri::PathAndQuery::from_maybe_shared(buffer.slice(..12)).unwrap();
        let value = HeaderValue::from_maybe_shared(buffer.slice(13..)).unwrap();
        for uri in [path.as_str(), "http://host:80/a?b", "/", "*"] {
            let request = http::Request::get(uri).header("x-own", value.clone());
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            let before = parts.clone();
            leave_buffer(&mut parts);
            assert_eq!((&parts.uri, &parts.headers), (&before.uri, &before.headers));
            let values = (parts.headers["x-own"].as_bytes(), value.as_bytes());
            assert_ne!(values.0.as_ptr(), values.1.as_ptr());
        }
    }

    #[test]
    fn stored_headers_equal_the_original() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", &b"text/event-stream"[..]),
            ("x-own", b""),
            ("x-own", b"\xe9 \t latin"),
            ("vary", b"accept"),
        ] {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers.get_mut("vary").unwrap().set_sensitive(true);
        let stored = StoredHeaders::new(&headers).to_map();
        assert_eq!(stored, headers);
        assert!(stored["vary"].is_sensitive() && !stored["x-own"].is_sensitive());
        assert!(StoredHeaders::new([]).to_map().is_empty());
    }
}
