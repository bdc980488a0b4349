//! The `endpoint` event of MCP's first transport (2024-11-05, HTTP with SSE): a URL that is the session.

use std::fmt;

use fluent_uri::{Uri, UriRef};
use http::{HeaderMap, header::HOST};

use super::UpstreamSessionId;

/// The parameter by which a client's endpoint names its session.
pub(super) const PARAMETER: &str = "sessionId";

/// How servers spell it. A request that has one of them speaks of a session, and of one of ours.
pub(super) const SPELLINGS: [&str; 2] = [PARAMETER, "session_id"];

/// Before an endpoint in a store. An id that is sent in a header has no space.
const MARK: &str = "endpoint ";

/// A base that no endpoint names by itself.
const HERE: &str = "http://endpoint.invalid";

/// What the upstream told to post to: a path and a query, as it resolves against the stream's own URL.
///
/// The id may be anywhere in it, so all of it is kept from the client, which gets a URL of its own for it.
pub(super) fn target(
    endpoint: &str,
    stream: &http::Uri,
    headers: &HeaderMap,
    origins: &[String],
) -> Result<String, EndpointError> {
    let endpoint = UriRef::parse(endpoint.trim()).map_err(|_| EndpointError::Malformed)?;
    let base = format!("{HERE}{}", stream.path());
    let base = Uri::parse(base.as_str()).map_err(|_| EndpointError::Malformed)?;
    let url = endpoint
        .resolve_against(&base)
        .map_err(|_| EndpointError::Malformed)?;
    let authority = url.authority().ok_or(EndpointError::Malformed)?.as_str();
    let origin = origin_of(url.scheme().as_str(), authority);
    let own = stream.authority().map(|own| own.as_str().as_bytes());
    let own = own.or_else(|| headers.get(HOST).map(|host| host.as_bytes()));
    let own = own.is_some_and(|own| own.eq_ignore_ascii_case(authority.as_bytes()));
    let named = origins.contains(&origin);
    let http = matches!(url.scheme().as_str(), "http" | "https");
    if !(origin == HERE || named || (own && http)) {
        return Err(EndpointError::Elsewhere);
    }
    let path = url.path().as_str();
    // Two slashes are the beginning of another host to whoever reads them without the rest.
    if !path.starts_with('/') || path.starts_with("//") {
        return Err(EndpointError::Malformed);
    }
    Ok(match url.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    })
}

/// An origin as it is compared, or `None` if it is none. One `/` behind it is forgiven.
pub(super) fn origin(text: &str) -> Option<String> {
    let url = Uri::parse(text).ok()?;
    let authority = url.authority()?.as_str();
    let bare = matches!(url.path().as_str(), "" | "/") && !url.has_query() && !url.has_fragment();
    (bare && !authority.is_empty()).then(|| origin_of(url.scheme().as_str(), authority))
}

/// Without the port that goes without saying: who says it and who does not mean the same.
fn origin_of(scheme: &str, authority: &str) -> String {
    let scheme = scheme.to_ascii_lowercase();
    let port = match &*scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let authority = authority.strip_suffix(port).unwrap_or(authority);
    format!("{scheme}://{}", authority.to_ascii_lowercase())
}

/// An endpoint as a store keeps it. Servers may tell every stream the same URL, and each is a session of its own.
pub(super) fn as_id(target: &str, stream: u64) -> UpstreamSessionId {
    UpstreamSessionId::new(format!("{MARK}{stream:x} {target}"))
}

/// The path and query to post to, if the id is that of an endpoint.
pub(super) fn of_id(id: &UpstreamSessionId) -> Option<&str> {
    let (_, target) = id.as_str().strip_prefix(MARK)?.split_once(' ')?;
    Some(target)
}

/// Why an endpoint cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointError {
    Malformed,
    Elsewhere,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndpointError::Malformed => "the upstream's endpoint is not a URL",
            EndpointError::Elsewhere => {
                "the upstream's endpoint is of another origin; `Sessions::upstream_origin` names those that are its own"
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
            ["http://10.0.0.7:9000", "https://Up.example:443/"].map(|of| origin(of).unwrap());
        target(endpoint, &stream, &headers, &origins)
    }

    #[test]
    fn every_form_of_an_endpoint_resolves_to_a_path() {
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
    fn the_port_that_a_scheme_has_anyway_makes_no_difference() {
        let stream = "/m/sse".parse().unwrap();
        for (named, endpoint, fine) in [
            ("http://up.example:80", "http://up.example/x", true),
            ("HTTP://up.example", "http://up.example:80/x", true),
            ("https://up.example:443", "https://up.example/x", true),
            ("https://up.example", "https://up.example:80/x", false),
            ("http://up.example", "http://up.example:443/x", false),
            ("http://[::80]", "http://[::80]:80/x", true),
            ("http://[::80]", "http://[::]/x", false),
        ] {
            let resolved = target(
                endpoint,
                &stream,
                &HeaderMap::new(),
                &[origin(named).unwrap()],
            );
            assert_eq!(resolved.is_ok(), fine, "{named} {endpoint}");
        }
    }

    #[test]
    fn an_endpoint_elsewhere_is_refused_however_it_is_spelled() {
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
                Err(EndpointError::Elsewhere),
                "{endpoint}"
            );
        }
    }

    #[test]
    fn what_is_no_url_or_could_be_read_as_another_host_is_refused() {
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
    fn what_is_no_origin_is_none() {
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
    fn an_endpoint_is_told_from_an_id() {
        let id = as_id("/messages?id=1", 7);
        assert_eq!(of_id(&id), Some("/messages?id=1"));
        assert_ne!(id, as_id("/messages?id=1", 8));
        assert_eq!(of_id(&UpstreamSessionId::new("/messages")), None);
    }
}
