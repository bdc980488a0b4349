//! A reverse proxy as a tower service, for axum: it knows nothing about event streams. The examples share it.

pub mod connector;
pub mod http_rules;

use std::{
    convert::Infallible,
    error::Error,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request},
    response::{IntoResponse, Response},
};
use http::{StatusCode, Uri, Version};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::Service;

use connector::connector;
use http_rules::CleanTrailers;

/// How long a connection to the upstream may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long the upstream may take until the head of its response. A model that does not stream thinks for minutes; the SDKs of model APIs
/// wait this long, too.
const HEAD_LIMIT: Duration = Duration::from_secs(600);

/// Forwards requests to one upstream over pooled HTTP/1.1 connections. If the upstream fails, the client gets 502, if it is too slow, 504.
///
/// A client that disconnects cancels its request: the server then drops the future or the body, and hyper closes the upstream connection.
#[derive(Clone)]
pub struct Forward {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    base: Uri,
}

impl Forward {
    /// `base` is a URL. A path in it is put before the path of each request.
    pub fn to(base: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let base: Uri = base.parse()?;
        let (Some(scheme), None) = (base.scheme(), base.query()) else {
            return Err(format!("not the base URL of an upstream: {base}").into());
        };
        let connector = connector(scheme, Some(CONNECT_LIMIT))?;
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, base })
    }

    /// Rewrites a request for the upstream: URI, version, and the fields that are about a connection.
    fn rewrite(&self, request: Request) -> Result<Request, http::Error> {
        let (mut parts, body) = request.into_parts();
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map(|ConnectInfo(peer)| peer.ip());
        let host = http_rules::take_host(&mut parts.headers, &parts.uri);
        http_rules::remove_ambiguous_length(&mut parts.headers);
        http_rules::remove_hop_by_hop(&mut parts.headers);
        http_rules::join_cookies(&mut parts.headers);
        http_rules::set_forwarded(&mut parts.headers, host, peer);
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = format!("{}{path}", self.base.path().trim_end_matches('/'));
        let mut uri = self.base.clone().into_parts();
        uri.path_and_query = Some(path.parse()?);
        parts.uri = Uri::from_parts(uri)?;
        parts.version = Version::HTTP_11;
        Ok(Request::from_parts(parts, body))
    }

    async fn forward(self, request: Request) -> Response {
        if let Some(rejection) = http_rules::rejection(&request) {
            return rejection.into_response();
        }
        let Ok(request) = self.rewrite(request) else {
            return (StatusCode::BAD_REQUEST, "The URI cannot be forwarded.\n").into_response();
        };
        let answer = tokio::time::timeout(HEAD_LIMIT, self.client.request(request)).await;
        let mut response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return failure(&error).into_response(),
            Err(_) => return TOO_SLOW.into_response(),
        };
        // hyper decodes only `chunked`, and no request that is forwarded asks for another protocol.
        if !http_rules::is_chunked_at_most(response.headers())
            || response.status() == StatusCode::SWITCHING_PROTOCOLS
        {
            return FAILED.into_response();
        }
        http_rules::remove_ambiguous_length(response.headers_mut());
        http_rules::remove_hop_by_hop(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        response.map(|body| Body::new(CleanTrailers(body)))
    }
}

const FAILED: (StatusCode, &str) = (StatusCode::BAD_GATEWAY, "The upstream failed.\n");
const TOO_SLOW: (StatusCode, &str) = (StatusCode::GATEWAY_TIMEOUT, "The upstream is too slow.\n");

/// The answer to a request that hyper could not forward. Only the log names the cause, which may contain internal addresses.
fn failure(error: &(dyn Error + 'static)) -> (StatusCode, &'static str) {
    let innermost = http_rules::causes(error).last();
    let innermost = innermost.map(ToString::to_string).unwrap_or_default();
    tracing::warn!("a request was not forwarded: {innermost}");
    let mut causes = http_rules::causes(error);
    let timed_out = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    if http_rules::is_client_error(error) {
        (StatusCode::BAD_REQUEST, "The request body is incomplete.\n")
    } else if causes.any(|error| error.downcast_ref().is_some_and(timed_out)) {
        TOO_SLOW
    } else {
        FAILED
    }
}

impl Service<Request> for Forward {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let response = self.clone().forward(request);
        Box::pin(async { Ok(response.await) })
    }
}
