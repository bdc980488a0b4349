//! A reverse proxy as a tower service, for axum: it knows nothing about event streams. The examples share it.

pub mod connector;
pub mod http_rules;

use std::{
    error::Error,
    fmt,
    future::{self, Future, Ready},
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    error_handling::HandleError,
    extract::{ConnectInfo, Request},
    response::{IntoResponse, Response},
};
use http::{StatusCode, Uri, Version};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{Layer, Service};

use connector::connector;
use http_rules::CleanTrailers;

/// How long a connection to the upstream may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long the upstream may take until the head of its response. A model that does not stream thinks for minutes; the SDKs of model APIs
/// wait this long, too.
const HEAD_LIMIT: Duration = Duration::from_secs(600);

/// Forwards requests to one upstream over pooled HTTP/1.1 connections.
///
/// If the upstream fails before the head of its response, the service returns a [`Failure`], so that a layer around it can tell this from
/// a response of the upstream. [`behind`](Self::behind) makes the responses.
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

    /// Puts the service behind a layer. If the upstream fails, the client gets 502; if it is too slow, 504.
    pub fn behind<L: Layer<Self>>(self, layer: &L) -> Answering<L::Service> {
        HandleError::new(layer.layer(self), future::ready)
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

    async fn forward(self, request: Request) -> Result<Response, Failure> {
        if let Some(rejection) = http_rules::rejection(&request) {
            return Ok(rejection.into_response());
        }
        let Ok(request) = self.rewrite(request) else {
            let rejection = (StatusCode::BAD_REQUEST, "The URI cannot be forwarded.\n");
            return Ok(rejection.into_response());
        };
        let answer = tokio::time::timeout(HEAD_LIMIT, self.client.request(request)).await;
        let mut response = match answer.map_err(|_| Failure::TooSlow)? {
            Ok(response) => response,
            Err(error) if http_rules::is_client_error(&error) => {
                let rejection = (StatusCode::BAD_REQUEST, "The request body is incomplete.\n");
                return Ok(rejection.into_response());
            }
            Err(error) => return Err(Failure::of(&error)),
        };
        // hyper decodes only `chunked`, and no request that is forwarded asks for another protocol.
        if !http_rules::is_chunked_at_most(response.headers())
            || response.status() == StatusCode::SWITCHING_PROTOCOLS
        {
            return Err(Failure::Failed);
        }
        http_rules::remove_ambiguous_length(response.headers_mut());
        http_rules::remove_hop_by_hop(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|body| Body::new(CleanTrailers(body))))
    }
}

/// A service that answers with a response if the inner service fails.
pub type Answering<S> = HandleError<S, fn(Failure) -> Ready<Failure>, ()>;

/// Why the upstream did not answer.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    Failed,
    TooSlow,
}

impl Failure {
    /// Logs the cause. The response does not name it, because it may contain internal addresses.
    fn of(error: &(dyn Error + 'static)) -> Self {
        let innermost = http_rules::causes(error).last();
        let innermost = innermost.map(ToString::to_string).unwrap_or_default();
        tracing::warn!("a request was not forwarded: {innermost}");
        let mut causes = http_rules::causes(error);
        let timed_out = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
        if causes.any(|error| error.downcast_ref().is_some_and(timed_out)) {
            Self::TooSlow
        } else {
            Self::Failed
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "the upstream failed",
            Self::TooSlow => "the upstream is too slow",
        })
    }
}

impl Error for Failure {}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Failed => (StatusCode::BAD_GATEWAY, "The upstream failed.\n"),
            Self::TooSlow => (StatusCode::GATEWAY_TIMEOUT, "The upstream is too slow.\n"),
        }
        .into_response()
    }
}

impl Service<Request> for Forward {
    type Response = Response;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        Box::pin(self.clone().forward(request))
    }
}
