//! `Accept-Encoding`: which content codings the upstream may choose (RFC 9110 12.5.3).

use http::{
    HeaderValue, Method,
    header::{ACCEPT, ACCEPT_ENCODING},
    request,
};

use crate::headers::{
    content_encoding::is_known,
    list::{elements, members},
};

/// Removes codings from `Accept-Encoding` that the layer cannot decode, if the response may be an event stream, or JSON that the layer
/// inspects. If no coding is left, the value becomes `identity`.
///
/// Any request may be answered with JSON, such as a problem (RFC 9457).
///
/// LLM SDKs send `Accept-Encoding: gzip` with every request. Without the feature `decompression`, the layer could not inspect the
/// compressed stream.
pub(crate) fn narrow_accept_encoding(request: &mut request::Parts, inspects_json: bool) {
    let may_be_read = inspects_json || may_stream(request);
    if !request.headers.contains_key(ACCEPT_ENCODING) || !may_be_read {
        return;
    }
    let decodable: Vec<&[u8]> = request
        .headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .flat_map(|value| elements(value.as_bytes()))
        .filter(|element| {
            // `codings [ ";" OWS "q=" qvalue ]`
            let end = element.iter().position(|&b| b == b';');
            let name = element[..end.unwrap_or(element.len())].trim_ascii_end();
            is_known(name) || name.eq_ignore_ascii_case(b"identity")
        })
        .collect();
    let narrowed = HeaderValue::from_bytes(&decodable.join(&b", "[..]))
        .ok()
        .filter(|narrowed| !narrowed.is_empty())
        .unwrap_or(HeaderValue::from_static("identity"));
    request.headers.insert(ACCEPT_ENCODING, narrowed);
}

/// Whether the response may be an event stream. `false` only for a `GET` with an `Accept` that excludes event streams: LLM SDKs
/// send `Accept: application/json` in the `POST` that starts a stream.
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
        narrowed_for(false, method, accept, encodings)
    }

    fn narrowed_for(json: bool, method: Method, accept: Option<&str>, encodings: &str) -> String {
        let mut request = http::Request::builder()
            .method(method)
            .header(ACCEPT_ENCODING, encodings);
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        let mut request = request.body(()).unwrap().into_parts().0;
        narrow_accept_encoding(&mut request, json);
        let all = request.headers.get_all(ACCEPT_ENCODING).iter();
        let all: Vec<_> = all.map(|value| value.to_str().unwrap()).collect();
        assert_eq!(all.len(), 1);
        all[0].to_owned()
    }

    #[test]
    fn codings_that_cannot_be_decoded_are_removed() {
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
        let identity = narrowed(Method::GET, None, "compress, identity;q=0.5");
        assert_eq!(identity, "identity;q=0.5");
    }

    #[test]
    fn accept_encoding_of_a_request_that_cannot_stream_is_unchanged() {
        for accept in [
            "image/png, application/json",
            "image/png; x=\"a, text/event-stream\"",
            "text/event-streaming",
        ] {
            let unchanged = narrowed(Method::GET, Some(accept), "br, x-new");
            assert_eq!(unchanged, "br, x-new", "{accept}");
            let narrowed = narrowed_for(true, Method::GET, Some(accept), "identity, x-new");
            assert_eq!(narrowed, "identity", "{accept}");
        }
    }
}
