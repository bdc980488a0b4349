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
        .flat_map(|value| elements(value.as_bytes()))
        .filter(|member| {
            let end = member.iter().position(|&b| b == b';');
            let name = member[..end.unwrap_or(member.len())].trim_ascii_end();
            is_known(name) || name.eq_ignore_ascii_case(b"identity")
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
