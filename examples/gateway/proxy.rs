//! The upstream as a tower service: a plain reverse proxy, which knows nothing about event streams.

use std::{fmt, future::Future, io, net::SocketAddr, pin::Pin, task::Context, task::Poll};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::Service;

use crate::tunnel;

/// The address of a client, in the extensions of its requests.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The hop-by-hop header fields (RFC 9110 7.6.1, and older ones).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The largest read buffer of a connection to the upstream, in bytes. It stays allocated while a stream is silent.
pub const READ_BUFFER: usize = 64 << 10;

/// The body of a request or a response.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// Sends requests to an upstream over pooled HTTP/1.1 connections.
#[derive(Clone)]
pub struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    scheme: Scheme,
    authority: Authority,
}

impl Upstream {
    pub fn new(origin: &Uri) -> Result<Self, io::Error> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let scheme = origin.scheme().cloned().unwrap_or(Scheme::HTTP);
        let tls = HttpsConnectorBuilder::new();
        // Reads the trusted root certificates only for https, so that http works in a container without any.
        let tls = if scheme == Scheme::HTTPS {
            tls.with_native_roots()?
        } else {
            tls.with_tls_config(no_roots())
        };
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        let authority = origin.authority().cloned();
        Ok(Self {
            client: Client::builder(TokioExecutor::new())
                .http1_max_buf_size(READ_BUFFER)
                .build(connector),
            scheme,
            authority: authority.ok_or_else(|| io::Error::other("the upstream has no host"))?,
        })
    }

    /// Rewrites a request for the upstream: URI, version, hop-by-hop and `X-Forwarded-*` fields.
    fn rewritten(&self, request: Request<Body>) -> Result<Request<Body>, http::Error> {
        let (mut parts, body) = request.into_parts();
        let peer = parts.extensions.get::<Peer>().copied();
        let host = parts
            .headers
            .remove(header::HOST)
            .or_else(|| parts.uri.host().and_then(|_| authority(&parts.uri)));
        // If a request has both, Transfer-Encoding applies, and Content-Length must not be forwarded (RFC 9112 6.3).
        if parts.headers.contains_key(header::TRANSFER_ENCODING) {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        let upgrade = tunnel::requested_upgrade(&parts.headers);
        remove_hop_by_hop(&mut parts.headers);
        if let Some(upgrade) = upgrade {
            tunnel::set_upgrade(&mut parts.headers, upgrade);
        }
        join_cookies(&mut parts.headers);
        // Replaces the client's value: the upstream must be able to trust this field.
        match host {
            Some(host) => parts.headers.insert("x-forwarded-host", host),
            None => parts.headers.remove("x-forwarded-host"),
        };
        parts
            .headers
            .insert("x-forwarded-proto", HeaderValue::from_static("http"));
        if let Some(Peer(peer)) = peer {
            let before = parts.headers.get_all("x-forwarded-for").iter();
            let mut chain: Vec<_> = before.filter_map(|value| value.to_str().ok()).collect();
            let peer = peer.ip().to_string();
            chain.push(&peer);
            let chain = HeaderValue::from_str(&chain.join(", "))?;
            parts.headers.insert("x-forwarded-for", chain);
        }
        let path = parts.uri.path_and_query().cloned();
        parts.uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path.unwrap_or(PathAndQuery::from_static("/")))
            .build()?;
        parts.version = Version::HTTP_11;
        Ok(Request::from_parts(parts, body))
    }

    async fn fetch(self, mut request: Request<Body>) -> Result<Response<Body>, Unanswered> {
        if request.method() == Method::CONNECT {
            return Ok(status_response(
                StatusCode::METHOD_NOT_ALLOWED,
                "CONNECT is not supported by this gateway.\n",
            ));
        }
        if let Some((status, why)) = malformed(&request) {
            return Ok(status_response(status, why));
        }
        let client_side = tunnel::requested_upgrade(request.headers())
            .is_some()
            .then(|| hyper::upgrade::on(&mut request));
        let request = match self.rewritten(request) {
            Ok(request) => request,
            Err(error) => {
                tracing::info!("cannot forward a request: {error}");
                return Ok(status_response(
                    StatusCode::BAD_REQUEST,
                    "The request cannot be forwarded.\n",
                ));
            }
        };
        let mut response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) if is_client_error(&error) => {
                tracing::info!("cannot forward the body of a request: {error}");
                return Ok(status_response(
                    StatusCode::BAD_REQUEST,
                    "The request body is incomplete or malformed.\n",
                ));
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                tracing::warn!("the upstream did not answer: {error}: {cause}");
                return Err(Unanswered);
            }
        };
        if response.headers().contains_key(header::TRANSFER_ENCODING) {
            // hyper decodes only `chunked`. The layer could not inspect a body with another transfer coding.
            if !is_chunked_at_most(response.headers()) {
                return Ok(status_response(
                    StatusCode::BAD_GATEWAY,
                    "The upstream used an unsupported transfer coding.\n",
                ));
            }
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        let upgrade = tunnel::requested_upgrade(response.headers());
        remove_hop_by_hop(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(client_side), Some(upgrade)) = (client_side, upgrade) else {
                return Ok(status_response(
                    StatusCode::BAD_GATEWAY,
                    "The upstream switched protocols without a request for it.\n",
                ));
            };
            tunnel::set_upgrade(response.headers_mut(), upgrade);
            tunnel::open(client_side, hyper::upgrade::on(&mut response));
            return Ok(response.map(|_| empty()));
        }
        Ok(response.map(|body| CleanTrailers(body).boxed()))
    }
}

/// The upstream did not answer. The client gets [its response](Self::response).
#[derive(Debug)]
pub struct Unanswered;

impl Unanswered {
    pub fn response(&self) -> Response<Body> {
        status_response(StatusCode::BAD_GATEWAY, "The upstream did not answer.\n")
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the upstream did not answer")
    }
}

impl std::error::Error for Unanswered {}

/// Removes hop-by-hop fields from the trailers of a body. hyper resets an HTTP/2 stream with such a field and drops unsent data.
struct CleanTrailers(Incoming);

impl hyper::body::Body for CleanTrailers {
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

impl Service<Request<Body>> for Upstream {
    type Response = Response<Body>;
    type Error = Unanswered;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let upstream = self.clone();
        Box::pin(upstream.fetch(request))
    }
}

/// Whether the error comes from the client's request body, and not from the upstream.
fn is_client_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut of_hyper = causes.filter_map(|error| error.downcast_ref::<hyper::Error>());
    // The client's error is the source of an error of the upstream's connection.
    of_hyper.any(hyper::Error::is_user) && of_hyper.next().is_some()
}

/// The reason to reject a malformed request, with its status, or `None` if the request can be forwarded.
fn malformed<B>(request: &Request<B>) -> Option<(StatusCode, &'static str)> {
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
fn is_chunked_at_most(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
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
fn join_cookies(headers: &mut HeaderMap) {
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

fn authority(uri: &Uri) -> Option<HeaderValue> {
    HeaderValue::from_str(uri.authority()?.as_str()).ok()
}

fn status_response(status: StatusCode, text: &'static str) -> Response<Body> {
    let body = Full::from(text).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn empty() -> Body {
    Full::default().map_err(|never| match never {}).boxed()
}

fn no_roots() -> rustls::ClientConfig {
    rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}
