//! What a reverse proxy changes and rejects in HTTP messages, whatever its client and its server are.

use std::{
    error,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// The hop-by-hop header fields (RFC 9110 7.6.1, and older ones).
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The host that the client has asked: its `Host` field, or the authority of an HTTP/2 request. Removes the field, because the upstream
/// has its own.
pub fn take_host(headers: &mut HeaderMap, uri: &Uri) -> Option<HeaderValue> {
    let authority = || HeaderValue::from_str(uri.authority()?.as_str()).ok();
    headers.remove(header::HOST).or_else(authority)
}

/// Removes `Content-Length` from a message with both fields: `Transfer-Encoding` applies (RFC 9112 6.3).
pub fn remove_ambiguous_length(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// Sets the `X-Forwarded-*` fields of a request that came from `peer` over plain HTTP. The client's values of `Host` and `Proto` are
/// replaced, because the upstream must be able to trust them.
pub fn set_forwarded(headers: &mut HeaderMap, host: Option<HeaderValue>, peer: Option<IpAddr>) {
    match host {
        Some(host) => headers.insert("x-forwarded-host", host),
        None => headers.remove("x-forwarded-host"),
    };
    headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
    let Some(peer) = peer.map(|peer| peer.to_string()) else {
        return;
    };
    let before = headers.get_all("x-forwarded-for").iter();
    let mut chain: Vec<_> = before.filter_map(|value| value.to_str().ok()).collect();
    chain.push(&peer);
    if let Ok(chain) = HeaderValue::from_str(&chain.join(", ")) {
        headers.insert("x-forwarded-for", chain);
    }
}

/// An error and its sources, one after the other.
pub fn causes<'a>(
    error: &'a (dyn error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Whether the error comes from the client's request body, and not from the upstream.
pub fn is_client_error(error: &(dyn error::Error + 'static)) -> bool {
    let mut of_hyper = causes(error).filter_map(|error| error.downcast_ref::<hyper::Error>());
    // The client's error is the source of an error of the upstream's connection.
    of_hyper.any(hyper::Error::is_user) && of_hyper.next().is_some()
}

/// The reason to reject a request, with its status, or `None` if the request can be forwarded.
pub fn rejection<B>(request: &Request<B>) -> Option<(StatusCode, &'static str)> {
    if request.method() == Method::CONNECT {
        return Some((
            StatusCode::METHOD_NOT_ALLOWED,
            "CONNECT is not supported by this gateway.
",
        ));
    }
    let headers = request.headers();
    if !is_chunked_at_most(headers) {
        // A recipient must not forward a transfer coding that it does not implement (RFC 9112 6.1).
        return Some((
            StatusCode::NOT_IMPLEMENTED,
            "The only supported transfer coding is chunked.\n",
        ));
    }
    let hosts = headers.get_all(header::HOST).iter().count();
    let needs_one = request.version() == Version::HTTP_11;
    if hosts > 1 || (needs_one && hosts == 0) {
        // RFC 9112 3.2.
        return Some((
            StatusCode::BAD_REQUEST,
            "A request must have exactly one Host field.\n",
        ));
    }
    None
}

/// Whether a message has no transfer coding except `chunked`, which hyper decodes.
pub fn is_chunked_at_most(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// Removes the hop-by-hop fields, and those that `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !is_end_to_end(name))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Whether a field must be forwarded even if `Connection` names it. Without its `Content-Type`, a body would pass without
/// inspection, and without `Mcp-Protocol-Version`, the upstream would apply another version of MCP than the gateway. RFC 9110 7.6.1
/// forbids senders to name end-to-end fields in `Connection`.
fn is_end_to_end(name: &HeaderName) -> bool {
    ["content-", "mcp-"]
        .iter()
        .any(|prefix| name.as_str().starts_with(prefix))
        || [
            header::AUTHORIZATION,
            header::CACHE_CONTROL,
            header::COOKIE,
            header::HOST,
            header::SET_COOKIE,
        ]
        .contains(name)
}

/// Joins several cookie fields: HTTP/2 allows them, HTTP/1.1 allows only one (RFC 9113 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Removes hop-by-hop fields from the trailers of a body. hyper resets an HTTP/2 stream with such a field and drops unsent data.
pub struct CleanTrailers(pub Incoming);

impl Body for CleanTrailers {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                remove_hop_by_hop(trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
