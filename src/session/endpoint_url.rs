//! The `endpoint` event of the first MCP transport (2024-11-05, HTTP with SSE): its data is a URL that identifies the session.
//! The URL of the upstream is resolved here, and the URL for the client is made here.

use std::fmt;

use fluent_uri::{Uri, UriRef};
use http::{HeaderMap, header::HOST};

use super::{SessionId, UpstreamSessionId};
use crate::headers::query::escaped;

/// The query parameter with the session id, in the URL that a client receives.
const PARAMETER: &str = "sessionId";

/// The query parameters in which servers put a session id. In a request, both are read as a client session id.
pub(super) const PARAMETERS: [&str; 2] = [PARAMETER, "session_id"];

/// The prefix of an `endpoint` in a store. An id from a header or a cookie cannot start with it, because it contains a space.
const PREFIX: &str = "endpoint ";

/// The origin of the base URL for relative URLs. `.invalid` is never a real host (RFC 2606 section 2).
const BASE_ORIGIN: &str = "http://endpoint.invalid";

/// Resolves the URL in an `endpoint` event against the URL of the stream (RFC 3986 section 5), and returns its path and query.
///
/// The session id can be in any part of the URL. The client therefore receives no part of it.
///
/// # Errors
/// The text is not a URL, or the URL is neither of the origin of the stream nor of one of `origins`.
pub(super) fn resolve(
    endpoint: &str,
    stream: &http::Uri,
    headers: &HeaderMap,
    origins: &[String],
) -> Result<String, EndpointError> {
    let endpoint = UriRef::parse(endpoint.trim()).map_err(|_| EndpointError::Malformed)?;
    let base = format!("{BASE_ORIGIN}{}", stream.path());
    let base = Uri::parse(base.as_str()).map_err(|_| EndpointError::Malformed)?;
    let url = endpoint
        .resolve_against(&base)
        .map_err(|_| EndpointError::Malformed)?;
    let authority = url.authority().ok_or(EndpointError::Malformed)?.as_str();
    let origin = normalize(url.scheme().as_str(), authority);
    let host = stream.authority().map(|host| host.as_str().as_bytes());
    let host = host.or_else(|| headers.get(HOST).map(|host| host.as_bytes()));
    let is_host_of_request =
        host.is_some_and(|host| host.eq_ignore_ascii_case(authority.as_bytes()));
    let is_allowed = origins.contains(&origin);
    let is_http = matches!(url.scheme().as_str(), "http" | "https");
    if !(origin == BASE_ORIGIN || is_allowed || (is_host_of_request && is_http)) {
        return Err(EndpointError::OtherOrigin);
    }
    let path = url.path().as_str();
    // A URL reference that starts with two slashes names another host (RFC 3986 section 4.2).
    if !path.starts_with('/') || path.starts_with("//") {
        return Err(EndpointError::Malformed);
    }
    Ok(match url.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    })
}

/// Parses and normalizes an origin. Returns `None` if the text is not an origin. One `/` at the end is ignored.
pub(super) fn origin(text: &str) -> Option<String> {
    let url = Uri::parse(text).ok()?;
    let authority = url.authority()?.as_str();
    let has_no_path =
        matches!(url.path().as_str(), "" | "/") && !url.has_query() && !url.has_fragment();
    (has_no_path && !authority.is_empty()).then(|| normalize(url.scheme().as_str(), authority))
}

/// The origin in lower case, without the default port of its scheme.
fn normalize(scheme: &str, authority: &str) -> String {
    let scheme = scheme.to_ascii_lowercase();
    let port = match &*scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let authority = authority.strip_suffix(port).unwrap_or(authority);
    format!("{scheme}://{}", authority.to_ascii_lowercase())
}

/// The path and query that the client of a stream receives: the mount path, the path of the stream, and the client session id.
pub(super) fn client_path(mount_path: &str, stream: &http::Uri, id: &SessionId) -> String {
    let path = format!("{mount_path}{}", stream.path());
    // A URL reference that starts with two slashes names another host (RFC 3986 section 4.2).
    let path = path.trim_start_matches(['/', '\\']);
    format!("/{path}?{PARAMETER}={}", escaped(id.as_str()))
}

/// The upstream session id of an `endpoint`, for a store. A server may send the same URL in each stream, and each stream is
/// a session of its own: the number of the stream makes the id unique.
pub(super) fn to_id(target: &str, stream: u64) -> UpstreamSessionId {
    UpstreamSessionId::new(format!("{PREFIX}{stream:x} {target}"))
}

/// The path and query of the upstream, or `None` if the id is not that of an `endpoint`.
pub(super) fn target_of(id: &UpstreamSessionId) -> Option<&str> {
    let (_, target) = id.as_str().strip_prefix(PREFIX)?.split_once(' ')?;
    Some(target)
}

/// Why an `endpoint` event cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointError {
    Malformed,
    OtherOrigin,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndpointError::Malformed => "the upstream's endpoint is not a URL with an absolute path",
            EndpointError::OtherOrigin => {
                "the upstream's endpoint is of another origin, which `SessionMapping::allow_upstream_origin` does not allow"
            }
        })
    }
}

impl std::error::Error for EndpointError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(endpoint: &str) -> Result<String, EndpointError> {
        let stream = "/m/sse?token=1".parse().unwrap();
        let headers = [(HOST, "gateway:80".parse().unwrap())];
        let headers = headers.into_iter().collect();
        let origins =
            ["http://10.0.0.7:9000", "https://Up.example:443/"].map(|text| origin(text).unwrap());
        resolve(endpoint, &stream, &headers, &origins)
    }

    #[test]
    fn relative_and_absolute_urls_resolve_to_a_path() {
        for (endpoint, path) in [
            ("/messages?sessionId=1", "/messages?sessionId=1"),
            ("messages/?session_id=1", "/m/messages/?session_id=1"),
            ("../messages/1", "/messages/1"),
            ("../../../../messages", "/messages"),
            ("?id=1", "/m/sse?id=1"),
            (" /messages/1#here", "/messages/1"),
            ("http://10.0.0.7:9000/messages?id=1", "/messages?id=1"),
            ("HTTP://10.0.0.7:9000/messages", "/messages"),
            ("https://up.example/messages", "/messages"),
            ("https://up.example:443/messages", "/messages"),
            ("http://gateway:80/messages", "/messages"),
            ("https://gateway:80/messages", "/messages"),
        ] {
            assert_eq!(resolved(endpoint).as_deref(), Ok(path), "{endpoint}");
        }
    }

    #[test]
    fn the_default_port_of_a_scheme_is_ignored() {
        let stream = "/m/sse".parse().unwrap();
        for (allowed, endpoint, is_ok) in [
            ("http://up.example:80", "http://up.example/x", true),
            ("HTTP://up.example", "http://up.example:80/x", true),
            ("https://up.example:443", "https://up.example/x", true),
            ("https://up.example", "https://up.example:80/x", false),
            ("http://up.example", "http://up.example:443/x", false),
            ("http://[::80]", "http://[::80]:80/x", true),
            ("http://[::80]", "http://[::]/x", false),
        ] {
            let resolved = resolve(
                endpoint,
                &stream,
                &HeaderMap::new(),
                &[origin(allowed).unwrap()],
            );
            assert_eq!(resolved.is_ok(), is_ok, "{allowed} {endpoint}");
        }
    }

    #[test]
    fn url_of_another_origin_is_an_error() {
        for endpoint in [
            "http://evil.example/messages",
            "//evil.example/messages",
            "https://10.0.0.7:9000/messages",
            "http://10.0.0.7:9001/messages",
            "http://10.0.0.7/messages",
            "http://up.example/messages",
            "https://up.example:80/messages",
            "https://1:443@up.example:443/messages",
            "http://10.0.0.7:9000@evil.example/messages",
            "http://user@10.0.0.7:9000/messages",
            "ftp://gateway:80/messages",
        ] {
            assert_eq!(
                resolved(endpoint),
                Err(EndpointError::OtherOrigin),
                "{endpoint}"
            );
        }
    }

    #[test]
    fn malformed_url_or_path_that_names_a_host_is_an_error() {
        for endpoint in [
            r"\\evil.example\messages",
            r"/\evil.example/messages",
            "/..//evil.example/messages",
            "http://10.0.0.7:9000//evil.example/",
            "http:/messages",
            "mailto:me",
            "/mess ages",
            "/\t/evil.example",
            "/caf\u{e9}",
        ] {
            assert_eq!(
                resolved(endpoint),
                Err(EndpointError::Malformed),
                "{endpoint}"
            );
        }
    }

    #[test]
    fn text_that_is_not_an_origin_is_none() {
        for text in [
            "10.0.0.7:9000",
            "//10.0.0.7",
            "up.example",
            "http://up.example/mcp",
            "http://up.example/?",
            "http://",
            "http:///",
            "",
        ] {
            assert_eq!(origin(text), None, "{text}");
        }
    }

    #[test]
    fn id_of_an_endpoint_differs_from_other_ids() {
        let id = to_id("/messages?id=1", 7);
        assert_eq!(target_of(&id), Some("/messages?id=1"));
        assert_ne!(id, to_id("/messages?id=1", 8));
        assert_eq!(target_of(&UpstreamSessionId::new("/messages")), None);
    }
}
