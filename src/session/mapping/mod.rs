//! The rules of session mapping: where session ids are, and when a session ends.

mod error;
mod translate;

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderName, Method, StatusCode, request, response};

pub use self::error::MappingError;
use super::{credentials::check_cookie_name, endpoint_url, location::IdLocation};

/// The locations of session ids in requests, responses and events, and the rules for the end of a session.
///
/// ```
/// use http::HeaderName;
/// use tower_sse_proxy::{SseProxyLayer, session::{MemoryStore, SessionMapping}};
///
/// let mapping = SessionMapping::header(HeaderName::from_static("x-session"));
/// let layer = SseProxyLayer::new(MemoryStore::default()).sessions(mapping);
/// ```
///
/// * In requests, the layer replaces the client session id by the upstream session id, in [headers](Self::in_header),
///   [cookies](Self::in_cookie) and the [query](Self::in_query). It never changes a request body.
/// * In responses, the layer replaces the upstream session id by the client session id: in the head of every response, and in event
///   streams in [a member of JSON data](Self::in_data) or in the [URL of an `endpoint` event](Self::in_endpoint). It changes no other
///   data.
///
/// The layer binds an upstream session id in the [store](super::SessionStore) when the upstream first sends it.
///
/// # Errors of a request
///
/// | status | when |
/// |---|---|
/// | 400 | a session id is malformed, two session ids differ, or one location other than a cookie has two ids |
/// | 404 | the session is unknown, or belongs to another [owner](crate::SseProxyLayer::owner) |
/// | 502 | the response has a malformed session id |
/// | 503 | the store failed, or has no room |
///
/// The upstream does not receive a request with status 400 or 404, nor one whose session the store could not look up. It has received
/// the request if the status is 502, or if the store could not bind an id in the response. [`ignore_unknown`](Self::ignore_unknown)
/// changes 400 and 404.
#[derive(Clone)]
pub struct SessionMapping {
    locations: Vec<IdLocation>,
    pointers: Vec<Arc<str>>,
    endpoint: bool,
    /// Removed from requests and responses.
    stripped: Vec<IdLocation>,
    upstream_origins: Vec<String>,
    /// Without the slash at its end.
    mount_path: String,
    ignore_unknown: bool,
    end_when: EndPredicate,
    store_timeout: Duration,
}

type EndPredicate = Arc<dyn Fn(&request::Parts, &response::Parts) -> bool + Send + Sync>;

impl SessionMapping {
    /// Creates a mapping without locations: the layer maps no session ids. Add locations with the methods below.
    pub fn none() -> Self {
        Self {
            locations: Vec::new(),
            pointers: Vec::new(),
            endpoint: false,
            stripped: Vec::new(),
            upstream_origins: Vec::new(),
            mount_path: String::new(),
            ignore_unknown: false,
            end_when: Arc::new(|_, _| false),
            store_timeout: Duration::from_secs(2),
        }
    }

    /// Maps session ids in the header of this name, in requests and responses.
    pub fn header(name: HeaderName) -> Self {
        Self::none().in_header(name)
    }

    /// Maps session ids in the cookie of this name; see [`in_cookie`](Self::in_cookie).
    ///
    /// # Errors
    /// No cookie can have this name (RFC 6265 section 4.1.1).
    pub fn cookie(name: impl Into<Arc<str>>) -> Result<Self, MappingError> {
        Self::none().in_cookie(name)
    }

    /// Also maps session ids in the header of this name, in requests and responses.
    ///
    /// Some servers read `_` in a header name as `-`. The layer therefore treats a header that differs only in that as the same header.
    pub fn in_header(mut self, name: HeaderName) -> Self {
        self.locations.push(IdLocation::Header(name));
        self
    }

    /// Also maps session ids in the cookie of this name: in `Cookie` of requests and in `Set-Cookie` of responses. The attributes of
    /// `Set-Cookie` are not changed.
    ///
    /// A browser sends a cookie after the session has expired: see [`ignore_unknown`](Self::ignore_unknown). Also configure the
    /// [owner](crate::SseProxyLayer::owner). Cookies are not part of the owner unless they are
    /// [named](super::Credentials::cookie), so all requests without `Authorization` and without an API key have the same owner.
    ///
    /// ```
    /// use tower_sse_proxy::{SseProxyLayer, session::{MappingError, MemoryStore, SessionMapping}};
    ///
    /// /// An outer layer that authenticates requests puts it into their extensions.
    /// #[derive(Clone)]
    /// struct User(String);
    ///
    /// # fn main() -> Result<(), MappingError> {
    /// let mapping = SessionMapping::cookie("sid")?
    ///     .ignore_unknown()
    ///     .end_when(|request, response| request.uri.path() == "/logout" && response.status.is_success());
    /// let layer = SseProxyLayer::new(MemoryStore::default())
    ///     .sessions(mapping)
    ///     .owner(|request| Some(request.extensions.get::<User>()?.0.clone()));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// No cookie can have this name (RFC 6265 section 4.1.1).
    pub fn in_cookie(mut self, name: impl Into<Arc<str>>) -> Result<Self, MappingError> {
        let name = name.into();
        check_cookie_name(&name)?;
        self.locations.push(IdLocation::Cookie(name));
        Ok(self)
    }

    /// Also maps session ids in the query parameter of this name, in requests. Upper and lower case are equal in the name.
    ///
    /// # Errors
    /// The name is empty.
    pub fn in_query(mut self, name: impl Into<Box<str>>) -> Result<Self, MappingError> {
        let name = name.into();
        if name.is_empty() {
            return Err(MappingError::EmptyParameterName);
        }
        self.locations.push(IdLocation::Query(name));
        Ok(self)
    }

    /// Also maps session ids in the JSON data of events: the string at this JSON Pointer (RFC 6901), such as `/session/id`. An event
    /// without a string there is not changed.
    ///
    /// # Errors
    /// The text is not a JSON Pointer (RFC 6901 section 3).
    pub fn in_data(mut self, pointer: impl Into<Arc<str>>) -> Result<Self, MappingError> {
        let pointer = pointer.into();
        let starts_well = pointer.is_empty() || pointer.starts_with('/');
        let mut escapes = pointer.split('~').skip(1);
        if !starts_well || !escapes.all(|escape| escape.starts_with(['0', '1'])) {
            return Err(MappingError::JsonPointer((*pointer).into()));
        }
        self.pointers.push(pointer);
        Ok(self)
    }

    /// Also maps the URL in the data of an `endpoint` event, which identifies the session in the first MCP transport (2024-11-05, HTTP
    /// with SSE).
    ///
    /// The client receives an absolute path instead: the path of the stream, with the client session id in the parameter
    /// `sessionId`. The layer sends requests to that path to the upstream's URL. A URL of another origin ends the stream with an
    /// error, unless [`allow_upstream_origin`](Self::allow_upstream_origin) allows it. The session is removed when the stream closes.
    ///
    /// The layer therefore changes the path of such a request. If the inner service is an axum router, put the layer around the
    /// router, as in the example of [`mount_path`](Self::mount_path). `Router::layer` does not work: it runs the layer after
    /// the router has chosen a route, so that the router answers the client's `POST` with 405.
    pub fn in_endpoint(mut self) -> Self {
        self.endpoint = true;
        self.locations.extend(endpoint_parameters());
        self
    }

    /// Allows an `endpoint` event to name a URL of this origin, such as `http://10.0.0.7:9000`. By default, only relative URLs and URLs
    /// with the host of the client's request are allowed. The default port of a scheme may be left out. One `/` at the end is ignored.
    ///
    /// # Errors
    /// The text is not an origin: a scheme, a host and optionally a port (RFC 6454 section 4).
    pub fn allow_upstream_origin(
        mut self,
        origin: impl Into<Box<str>>,
    ) -> Result<Self, MappingError> {
        let text = origin.into();
        match endpoint_url::origin(&text) {
            Some(origin) => self.upstream_origins.push(origin),
            None => return Err(MappingError::Origin(text)),
        }
        Ok(self)
    }

    /// The path under which the layer is mounted, such as `/tools`, if an outer router removes it from requests, as axum's
    /// `Router::nest` does. The layer puts it before the path in an `endpoint` event. Default: empty. One or more `/` at the end
    /// are ignored.
    ///
    /// ```
    /// use axum::{Router, routing::{get, post}};
    /// use tower::Layer;
    /// use tower_sse_proxy::{SseProxyLayer, session::{MappingError, SessionMapping}};
    /// # async fn stream() {}
    /// # async fn message() {}
    ///
    /// # fn main() -> Result<(), MappingError> {
    /// let tools = Router::new().route("/sse", get(stream)).route("/messages", post(message));
    /// let mapping = SessionMapping::none().in_endpoint().mount_path("/tools")?;
    /// let layer = SseProxyLayer::default().sessions(mapping);
    /// let app: Router = Router::new().nest_service("/tools", layer.layer(tools));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The text is neither empty nor an absolute path, or it has a query or a fragment.
    pub fn mount_path(mut self, path: impl Into<Box<str>>) -> Result<Self, MappingError> {
        let path = path.into();
        let is_absolute = path.is_empty() || path.starts_with('/');
        if !is_absolute || path.contains(['?', '#']) {
            return Err(MappingError::MountPath(path));
        }
        self.mount_path = path.trim_end_matches('/').to_owned();
        Ok(self)
    }

    /// Removes the header of this name from requests and responses. Use it for the session header of a protocol where the upstream
    /// must not have sessions.
    pub fn strip_header(mut self, name: HeaderName) -> Self {
        self.stripped.push(IdLocation::Header(name));
        self
    }

    /// Removes the query parameters `sessionId` and `session_id` from requests. They carry the session id of an
    /// [`endpoint`](Self::in_endpoint) event.
    pub fn strip_endpoint(mut self) -> Self {
        self.stripped.extend(endpoint_parameters());
        self
    }

    /// Forwards a request without its session id if the id is unknown, of another owner, malformed, or ambiguous, instead of answering it
    /// with 404 or 400. The upstream can then open a new session. Use it for cookies: a browser sends a cookie
    /// until it receives a new one, also after the session has expired.
    pub fn ignore_unknown(mut self) -> Self {
        self.ignore_unknown = true;
        self
    }

    /// Ends the session of a request if the predicate returns true for the request and its response. The layer then removes the session
    /// from the store, and answers later requests with its id with 404. Default: never; sessions end by the timeouts of the store.
    ///
    /// The layer calls the predicate only for requests that belong to a session. The request has the client's ids, the response has the
    /// upstream's.
    pub fn end_when(
        mut self,
        predicate: impl Fn(&request::Parts, &response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.end_when = Arc::new(predicate);
        self
    }

    /// Ends a session on a successful response to a `DELETE`, and on a 404 to any method but `GET`, as MCP specifies (revision
    /// 2025-11-25, "Session Management"). A 404 to a `GET` does not end the session, because servers without a `GET` stream
    /// also answer so. If the session has ended, the next `POST` receives 404 too. Replaces [`end_when`](Self::end_when).
    pub fn end_on_delete_or_404(self) -> Self {
        self.end_when(|request, response| {
            let is_unknown = response.status == StatusCode::NOT_FOUND;
            (is_unknown && request.method != Method::GET)
                || (request.method == Method::DELETE && response.status.is_success())
        })
    }

    /// The time limit for each call to the store. Default: 2 s. It needs tokio's timer. After the limit, the request is answered with
    /// 503, or the event stream ends with an error.
    pub fn store_timeout(mut self, limit: Duration) -> Self {
        self.store_timeout = limit;
        self
    }
}

fn endpoint_parameters() -> impl Iterator<Item = IdLocation> {
    endpoint_url::PARAMETERS
        .iter()
        .map(|name| IdLocation::Query((*name).into()))
}

impl fmt::Debug for SessionMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionMapping")
            .field("locations", &self.locations)
            .field("in_data", &self.pointers)
            .field("in_endpoint", &self.endpoint)
            .field("upstream_origins", &self.upstream_origins)
            .field("mount_path", &self.mount_path)
            .field("stripped", &self.stripped)
            .field("ignore_unknown", &self.ignore_unknown)
            .field("store_timeout", &self.store_timeout)
            .finish_non_exhaustive()
    }
}
