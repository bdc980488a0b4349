//! The rules: where ids live, and when a session is over.

mod translate;

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderName, Method, StatusCode, request, response};

use super::{endpoint, location::IdLocation};

/// Where session ids live, so that the layer can put its own in the place of the upstream's and the other way round.
///
/// ```
/// use tower_sse_proxy::{SseProxyLayer, session::{MemoryStore, SessionMapping}};
///
/// let layer = SseProxyLayer::new(MemoryStore::default()).sessions(SessionMapping::header("x-session"));
/// ```
///
/// * Towards the upstream an id is translated in the head of a request: in [headers](Self::in_header),
///   [cookies](Self::in_cookie) and the [query](Self::in_query). Request bodies are never changed.
/// * Towards the client it is translated in the head of every response, event stream or not, and inside an event stream where
///   a rule names a place in its data: [a member of JSON](Self::in_data), or the [URL of an `endpoint`](Self::in_endpoint). All
///   other data is data.
///
/// The first id that an upstream gives is bound in the [store](super::SessionStore). A request with an id that is malformed,
/// with two that differ, or with one twice in the same place is answered 400; one with an id that is not known, or belongs to another
/// [owner](crate::SseProxyLayer::owner), 404, and the upstream is not asked. If the store fails the answer is 503.
#[derive(Clone)]
pub struct SessionMapping {
    places: Vec<IdLocation>,
    pointers: Vec<Arc<str>>,
    endpoint: bool,
    hidden: Vec<IdLocation>,
    origins: Vec<String>,
    prefix: String,
    forgets_unknown: bool,
    ends: Ends,
    store_timeout: Duration,
}

type Ends = Arc<dyn Fn(&request::Parts, &response::Parts) -> bool + Send + Sync>;

impl SessionMapping {
    /// No sessions: a start for rules of your own.
    pub fn none() -> Self {
        Self {
            places: Vec::new(),
            pointers: Vec::new(),
            endpoint: false,
            hidden: Vec::new(),
            origins: Vec::new(),
            prefix: String::new(),
            forgets_unknown: false,
            ends: Arc::new(|_, _| false),
            store_timeout: Duration::from_secs(2),
        }
    }

    /// Sessions whose id is in a header of this name, both ways.
    ///
    /// # Panics
    /// If it is no name of a header.
    pub fn header(name: &str) -> Self {
        Self::none().in_header(name)
    }

    /// Sessions whose id is in a cookie of this name; see [`in_cookie`](Self::in_cookie).
    pub fn cookie(name: impl Into<Box<str>>) -> Self {
        Self::none().in_cookie(name)
    }

    /// Ids are in a header of this name, both ways.
    ///
    /// # Panics
    /// If it is no name of a header.
    pub fn in_header(mut self, name: &str) -> Self {
        self.places.push(IdLocation::Header(header_name(name)));
        self
    }

    /// Ids are in a cookie of this name: `Cookie` in requests, `Set-Cookie` in responses, whose attributes stay as they are.
    ///
    /// A browser sends a cookie for longer than the session may last: see [`forget_unknown`](Self::ignore_unknown). Say also who
    /// the [owner](crate::SseProxyLayer::owner) is: cookies are not part of it unless they are
    /// [named](super::Credentials::cookie), so all requests without an `Authorization` or an API key have the same owner.
    ///
    /// ```
    /// use tower_sse_proxy::{SseProxyLayer, session::{MemoryStore, SessionMapping}};
    ///
    /// /// What a layer further out puts into the extensions of a request when it has proved who sent it.
    /// #[derive(Clone)]
    /// struct User(String);
    ///
    /// let sessions = SessionMapping::none()
    ///     .in_cookie("sid")
    ///     .ignore_unknown()
    ///     .ends_when(|request, response| request.uri.path() == "/logout" && response.status.is_success());
    /// let layer = SseProxyLayer::new(MemoryStore::default())
    ///     .sessions(sessions)
    ///     .owner(|request| Some(request.extensions.get::<User>()?.0.clone()));
    /// ```
    ///
    /// # Panics
    /// If no cookie can have this name.
    pub fn in_cookie(mut self, name: impl Into<Box<str>>) -> Self {
        let name = name.into();
        let fine = |byte| u8::is_ascii_graphic(&byte) && !b"=;".contains(&byte);
        assert!(
            !name.is_empty() && name.bytes().all(fine),
            "`{name}` is no name of a cookie"
        );
        self.places.push(IdLocation::Cookie(name));
        self
    }

    /// Ids are in a parameter of the query of this name, in any case, in requests.
    ///
    /// # Panics
    /// If the name is empty.
    pub fn in_query(mut self, name: impl Into<Box<str>>) -> Self {
        let name = name.into();
        assert!(!name.is_empty(), "a parameter of a query has a name");
        self.places.push(IdLocation::Query(name));
        self
    }

    /// Ids are in the JSON data of events, at this [pointer](https://www.rfc-editor.org/rfc/rfc6901) (`/session/id`), as a string.
    /// Data without one stays as it is, and so does the rest of data that has one.
    ///
    /// # Panics
    /// If it is no JSON Pointer.
    pub fn in_data(mut self, pointer: impl Into<Arc<str>>) -> Self {
        let pointer = pointer.into();
        let mut escapes = pointer.split('~').skip(1);
        assert!(
            (pointer.is_empty() || pointer.starts_with('/'))
                && escapes.all(|escape| escape.starts_with(['0', '1'])),
            "`{pointer}` is no JSON Pointer, as `/session/id`"
        );
        self.pointers.push(pointer);
        self
    }

    /// The session is the URL in the data of an `endpoint` event, as in the first transport of MCP (2024-11-05, HTTP with SSE).
    ///
    /// The client gets a URL of its own: an absolute path, which is that of the stream, with the id as the parameter
    /// `sessionId`. What it sends there goes to the upstream's URL, whatever form that has and wherever in it the upstream's id is.
    /// A URL of another origin, that is not [named](Self::allow_upstream_origin) either, ends the stream with an error. The session is
    /// forgotten when the stream closes.
    ///
    /// A request thus leaves the layer with another path than it came with. Where the service inside is an axum router with a route
    /// for each, the layer goes around the router, as in [`mounted_at`](Self::mount_path): what `Router::layer` adds runs when the
    /// route is chosen already, and the client's POST is answered 405.
    pub fn in_endpoint(mut self) -> Self {
        self.endpoint = true;
        self.places.extend(endpoint_parameters());
        self
    }

    /// An origin, as `http://10.0.0.7:9000`, by which an `endpoint` event may name the upstream. A relative URL needs none, nor
    /// does one with the host that the client has asked.
    ///
    /// # Panics
    /// If it is no origin.
    pub fn allow_upstream_origin(mut self, origin: impl Into<String>) -> Self {
        let origin = origin.into();
        match endpoint::origin(&origin) {
            Some(origin) => self.origins.push(origin),
            None => panic!("`{origin}` is no origin, as http://host:port"),
        }
        self
    }

    /// The path under which the layer is mounted, as `/tools`, if the requests it sees have lost it, as they have inside of
    /// `Router::nest` of axum: for the URL that a client gets in an `endpoint` event.
    ///
    /// ```
    /// use axum::{Router, routing::{get, post}};
    /// use tower::Layer;
    /// use tower_sse_proxy::{SseProxyLayer, session::SessionMapping};
    /// # async fn stream() {}
    /// # async fn message() {}
    ///
    /// let tools = Router::new().route("/sse", get(stream)).route("/messages", post(message));
    /// let layer = SseProxyLayer::default().sessions(SessionMapping::none().in_endpoint().mount_path("/tools"));
    /// let app: Router = Router::new().nest_service("/tools", layer.layer(tools));
    /// ```
    ///
    /// # Panics
    /// If it is no path.
    pub fn mount_path(mut self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        assert!(
            (prefix.is_empty() || prefix.starts_with('/')) && !prefix.contains(['?', '#']),
            "`{prefix}` is no path, as `/tools`"
        );
        self.prefix = prefix.trim_end_matches('/').to_owned();
        self
    }

    /// Takes a header away from requests and responses: for a header that would carry an id where there are no sessions.
    ///
    /// # Panics
    /// If it is no name of a header.
    pub fn strip_header(mut self, name: &str) -> Self {
        self.hidden.push(IdLocation::Header(header_name(name)));
        self
    }

    /// Takes the parameters that name the session of an [endpoint](Self::in_endpoint) away from requests.
    pub fn without_endpoint(mut self) -> Self {
        self.hidden.extend(endpoint_parameters());
        self
    }

    /// A request with an unknown id, or another owner's, goes on without it instead of being answered 404, and so does one whose
    /// ids are malformed or differ instead of 400; the upstream then opens a session as if it were the first. For cookies: a
    /// browser cannot know that one has expired, or is from before there was a proxy, and sends it until it gets another.
    pub fn ignore_unknown(mut self) -> Self {
        self.forgets_unknown = true;
        self
    }

    /// Says by a request and its response whether the session of the request is over: it is then forgotten, and its id answered
    /// 404. Asked of requests that have one. Never, unless set: sessions end by the times of the store.
    ///
    /// It sees both as they came: the request with the client's ids, the response with the upstream's.
    pub fn ends_when(
        mut self,
        ends: impl Fn(&request::Parts, &response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.ends = Arc::new(ends);
        self
    }

    /// Sessions end with a `DELETE` that succeeds, and with a 404 of the upstream: where the session is what a request with its
    /// id is about, as in MCP. Not with a 404 to a `GET`, which is also what servers answer that have no such route; if the session
    /// is over, the next `POST` shows it. See [`ends_when`](Self::ends_when).
    pub fn end_on_delete_or_404(self) -> Self {
        self.ends_when(|request, response| {
            let gone = response.status == StatusCode::NOT_FOUND;
            (gone && request.method != Method::GET)
                || (request.method == Method::DELETE && response.status.is_success())
        })
    }

    /// How long a call of the store may take; 2 s unless set. Needs tokio's timer.
    pub fn store_timeout(mut self, limit: Duration) -> Self {
        self.store_timeout = limit;
        self
    }
}

fn endpoint_parameters() -> impl Iterator<Item = IdLocation> {
    endpoint::SPELLINGS
        .iter()
        .map(|name| IdLocation::Query((*name).into()))
}

fn header_name(name: &str) -> HeaderName {
    match name.parse() {
        Ok(name) => name,
        Err(_) => panic!("`{name}` is no name of a header"),
    }
}

impl fmt::Debug for SessionMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("places", &self.places)
            .field("in_data", &self.pointers)
            .field("in_endpoint", &self.endpoint)
            .field("upstream_origins", &self.origins)
            .field("mounted_at", &self.prefix)
            .field("without", &self.hidden)
            .field("forget_unknown", &self.forgets_unknown)
            .field("store_timeout", &self.store_timeout)
            .finish_non_exhaustive()
    }
}
