//! The check of `Origin` and `Host`, against requests of foreign web pages.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{HOST, ORIGIN},
    request,
};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use crate::{body::SseBody, rejection::Rejection};

/// Checks the `Origin` and the host of each request, and answers with 403 if one of them is not allowed.
///
/// The check stops a web page from sending requests to a server on the user's machine or network, also through a host name of its
/// own that resolves to that server (DNS rebinding). MCP requires the check of servers (revision 2025-03-26 and later, "Security
/// Warning" of the Streamable HTTP transport). A proxy that changes the `Host` header has to do the check for the server.
///
/// * **Origin:** the header must be absent, or have one value that equals an allowed origin. Browsers leave out the header only in
///   some `GET` and `HEAD` requests (Fetch section 3.2), and a script of another origin cannot read the responses to these.
/// * **Host:** the `Host` header must equal an allowed host, in any case, including the port. So must the authority of an
///   absolute URI. A request without a host is rejected. Browsers leave out the default port of a scheme (`:443` for `https`).
///
/// There are no patterns.
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
    /// Allows these hosts (such as `example.com` or `localhost:8080`) and these origins (such as `https://example.com`). For no
    /// origins, pass `[""]`: empty texts are ignored. A `/` at the end of an origin is ignored.
    pub fn new<H: Into<String>, O: Into<String>>(
        hosts: impl IntoIterator<Item = H>,
        origins: impl IntoIterator<Item = O>,
    ) -> Self {
        Self {
            hosts: non_empty(hosts),
            // Users copy origins from the address bar of a browser, with a slash at the end.
            origins: non_empty(origins)
                .iter()
                .map(|origin| origin.trim_end_matches('/').to_owned())
                .collect(),
        }
    }

    /// Whether the origin and the host of the request are allowed.
    pub fn allows(&self, request: &request::Parts) -> bool {
        self.foreign(request).is_none()
    }

    /// The part of the request that is not allowed, or `None` if both are.
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
        // HTTP/2 has the host in the URI, and HTTP/1 may have it there too. If both are present, both must be allowed.
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

/// The part of a request that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    Origin,
    Host,
}

impl Foreign {
    pub(super) fn text(self) -> &'static str {
        match self {
            Foreign::Origin => "origin not allowed\n",
            Foreign::Host => "host not allowed (compared including the port)\n",
        }
    }
}

/// An empty text would allow requests with an empty host.
fn non_empty<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Arc<[String]> {
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

/// The service of an [`OriginCheckLayer`].
///
/// Errors of the inner service are returned unchanged. Dropping the future drops the call to the inner service.
#[derive(Clone)]
pub struct OriginCheck<S> {
    inner: S,
    check: OriginCheckLayer,
}

pin_project! {
    /// The future of [`OriginCheck`].
    pub struct OriginCheckFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Allowed { #[pin] response: F },
        Rejected { foreign: Foreign },
    }
}

impl<F, B, E> Future for OriginCheckFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<SseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Allowed { response } => {
                let response = ready!(response.poll(cx))?;
                Poll::Ready(Ok(response.map(SseBody::pass_through)))
            }
            StateProjection::Rejected { foreign } => {
                let rejection = Rejection::new(StatusCode::FORBIDDEN, foreign.text());
                Poll::Ready(Ok(SseBody::rejection(rejection)))
            }
        }
    }
}

impl<F> fmt::Debug for OriginCheckFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OriginCheckFuture").finish_non_exhaustive()
    }
}

impl<S, ReqB, B> Service<Request<ReqB>> for OriginCheck<S>
where
    S: Service<Request<ReqB>, Response = Response<B>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<SseBody<B>>;
    type Error = S::Error;
    type Future = OriginCheckFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let state = match self.check.foreign(&parts) {
            Some(foreign) => State::Rejected { foreign },
            None => State::Allowed {
                response: self.inner.call(Request::from_parts(parts, body)),
            },
        };
        OriginCheckFuture { state }
    }
}

impl<S> fmt::Debug for OriginCheck<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OriginCheck")
            .field("check", &self.check)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_hosts_and_origins_are_allowed() {
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
        let without_host = Request::get("/").body(()).unwrap().into_parts().0;
        assert!(!check.allows(&without_host));
    }
}
