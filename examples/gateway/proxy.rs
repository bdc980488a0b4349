//! The upstream as a tower service: a plain reverse proxy, which knows nothing about event streams.

use std::{fmt, future::Future, io, net::SocketAddr, pin::Pin, task::Context, task::Poll};

use bytes::Bytes;
use http::{
    Request, Response, StatusCode, Uri, Version,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::Service;

use crate::{
    connector::connector,
    http_rules::{self, CleanTrailers},
    tunnel,
};

/// The address of a client, in the extensions of its requests.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

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
        let scheme = origin.scheme().cloned().unwrap_or(Scheme::HTTP);
        let authority = origin.authority().cloned();
        Ok(Self {
            client: Client::builder(TokioExecutor::new())
                .http1_max_buf_size(READ_BUFFER)
                .build(connector(&scheme, None)?),
            scheme,
            authority: authority.ok_or_else(|| io::Error::other("the upstream has no host"))?,
        })
    }

    /// Rewrites a request for the upstream: URI, version, hop-by-hop and `X-Forwarded-*` fields.
    fn rewritten(&self, request: Request<Body>) -> Result<Request<Body>, http::Error> {
        let (mut parts, body) = request.into_parts();
        let peer = parts.extensions.get::<Peer>().copied();
        let host = http_rules::take_host(&mut parts.headers, &parts.uri);
        http_rules::remove_ambiguous_length(&mut parts.headers);
        let upgrade = tunnel::requested_upgrade(&parts.headers);
        http_rules::remove_hop_by_hop(&mut parts.headers);
        if let Some(upgrade) = upgrade {
            tunnel::set_upgrade(&mut parts.headers, upgrade);
        }
        http_rules::join_cookies(&mut parts.headers);
        let peer = peer.map(|Peer(peer)| peer.ip());
        http_rules::set_forwarded(&mut parts.headers, host, peer);
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
        if let Some((status, why)) = http_rules::rejection(&request) {
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
            Err(error) if http_rules::is_client_error(&error) => {
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
        // hyper decodes only `chunked`. The layer could not inspect a body with another transfer coding.
        if !http_rules::is_chunked_at_most(response.headers()) {
            return Ok(status_response(
                StatusCode::BAD_GATEWAY,
                "The upstream used an unsupported transfer coding.\n",
            ));
        }
        http_rules::remove_ambiguous_length(response.headers_mut());
        let upgrade = tunnel::requested_upgrade(response.headers());
        http_rules::remove_hop_by_hop(response.headers_mut());
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

fn status_response(status: StatusCode, text: &'static str) -> Response<Body> {
    let body = Full::from(text).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn empty() -> Body {
    Full::default().map_err(|never| match never {}).boxed()
}
