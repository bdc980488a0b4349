//! Requests that a browser was tricked into.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{
    FutureExt, TryFutureExt,
    future::{Either, MapOk, Ready, ready},
};
use http::{
    Request, Response, StatusCode,
    header::{HOST, ORIGIN},
    request,
};
use http_body::Body;
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use crate::{body::SseBody, rejection::Rejection};

/// Which origins may send requests, and to which hosts: what keeps a web page from using a server on the reader's own machine or
/// network, also by a name of its own that resolves to it (DNS rebinding). MCP demands it of servers (2025-03-26 and later,
/// "Security Warning" of the Streamable HTTP transport), and a proxy that puts another `Host` in front of a server takes over its
/// duty.
///
/// A request with an `Origin` must have one, and one that is listed: compared as a whole, so that no part of another will do. One
/// without passes: it is not from a web page. The host of each request must be listed, with its port if it has one. There are
/// no patterns. Browsers leave a port away that goes without saying (`:443` of https).
///
/// It is a layer by itself; what is not allowed is answered 403.
///
/// ```
/// use tower::{Layer, ServiceExt, service_fn};
/// use http::{Request, Response, StatusCode};
/// use http_body_util::Full;
/// use tower_sse_proxy::profile::OriginCheckLayer;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let upstream = service_fn(|_: Request<()>| async {
///     Ok::<_, std::io::Error>(Response::new(Full::<bytes::Bytes>::from("hi")))
/// });
/// let check = OriginCheckLayer::new(["localhost:8080"], ["http://localhost:8080"]);
/// let request = Request::get("/").header("host", "localhost:8080").header("origin", "http://evil.example");
/// let response = check.layer(upstream).oneshot(request.body(()).unwrap()).await.unwrap();
/// assert_eq!(response.status(), StatusCode::FORBIDDEN);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct OriginCheckLayer {
    hosts: Arc<[String]>,
    origins: Arc<[String]>,
}

impl OriginCheckLayer {
    /// Allows these hosts (`example.com`, `localhost:8080`) and these origins (`https://example.com`; with `[""]` none).
    pub fn new<H: Into<String>, O: Into<String>>(
        hosts: impl IntoIterator<Item = H>,
        origins: impl IntoIterator<Item = O>,
    ) -> Self {
        Self {
            hosts: named(hosts),
            // As it is copied from a browser: an origin ends without one.
            origins: named(origins)
                .iter()
                .map(|origin| origin.trim_end_matches('/').to_owned())
                .collect(),
        }
    }

    /// Whether a request may pass.
    pub fn allows(&self, request: &request::Parts) -> bool {
        self.foreign(request).is_none()
    }

    /// What is not allowed about a request.
    pub(super) fn foreign(&self, request: &request::Parts) -> Option<Foreign> {
        let mut origins = request.headers.get_all(ORIGIN).iter();
        let origin_allowed = match (origins.next(), origins.next()) {
            (None, _) => true,
            (Some(origin), None) => self.origins.iter().any(|allowed| allowed == origin),
            (Some(_), Some(_)) => false,
        };
        if !origin_allowed {
            return Some(Foreign::Origin);
        }
        // HTTP/2 has it in the target, and so may HTTP/1; where both have one, both count.
        let target = request.uri.authority().map(|host| host.as_str().as_bytes());
        let headers = request.headers.get_all(HOST).iter();
        let mut hosts = headers.map(|host| host.as_bytes()).chain(target).peekable();
        let host_allowed = hosts.peek().is_some()
            && hosts.all(|host| {
                let mut allowed = self.hosts.iter();
                allowed.any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(host))
            });
        (!host_allowed).then_some(Foreign::Host)
    }
}

/// What a request has that is not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    Origin,
    Host,
}

impl Foreign {
    pub(super) fn text(self) -> &'static str {
        match self {
            Foreign::Origin => "requests of this origin are not allowed\n",
            Foreign::Host => "requests to this host are not allowed, with its port if it has one\n",
        }
    }
}

/// An empty name is nobody's: it is what is left of a list without one.
fn named<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Arc<[String]> {
    let names = names.into_iter().map(Into::into);
    names.filter(|name| !name.is_empty()).collect()
}

impl<S> Layer<S> for OriginCheckLayer {
    type Service = OriginCheck<S>;

    fn layer(&self, inner: S) -> OriginCheck<S> {
        OriginCheck {
            inner,
            check: self.clone(),
        }
    }
}

/// A service behind an [`OriginCheckLayer`].
#[derive(Clone)]
pub struct OriginCheck<S> {
    inner: S,
    check: OriginCheckLayer,
}

/// The future of [`OriginCheck`].
pub type OriginCheckFuture<F, B, E> = Either<
    Ready<Result<Response<SseBody<B>>, E>>,
    MapOk<F, fn(Response<B>) -> Response<SseBody<B>>>,
>;

impl<S, ReqB, B> Service<Request<ReqB>> for OriginCheck<S>
where
    S: Service<Request<ReqB>, Response = Response<B>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<SseBody<B>>;
    type Error = S::Error;
    type Future = OriginCheckFuture<S::Future, B, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let (parts, body) = request.into_parts();
        if let Some(foreign) = self.check.foreign(&parts) {
            let refusal = Rejection::new(StatusCode::FORBIDDEN, foreign.text());
            return ready(Ok(SseBody::rejection(refusal))).left_future();
        }
        let passed: fn(Response<B>) -> Response<SseBody<B>> =
            |response| response.map(SseBody::pass_through);
        let response = self.inner.call(Request::from_parts(parts, body));
        response.map_ok(passed).right_future()
    }
}

impl<S> fmt::Debug for OriginCheck<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedOrigin")
            .field("check", &self.check)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_may_pass() {
        let check = OriginCheckLayer::new(["here:1", ""], ["http://app"]);
        let allows = |host: &str, origin: Option<&str>| {
            let mut request = Request::get("/").header(HOST, host);
            if let Some(origin) = origin {
                request = request.header(ORIGIN, origin);
            }
            check.allows(&request.body(()).unwrap().into_parts().0)
        };
        assert!(allows("here:1", None) && allows("HERE:1", Some("http://app")));
        assert!(!allows("here:2", None) && !allows("", None));
        assert!(!allows("here:1", Some("http://App")) && !allows("here:1", Some("")));
        let nowhere = Request::get("/").body(()).unwrap().into_parts().0;
        assert!(!check.allows(&nowhere));
    }
}
