//! The layer, which is its own builder.

use std::{fmt, sync::Arc};

use http::{request, response};
use tower_layer::Layer;

use crate::{
    codec::OversizedEvent,
    downstream::keep_alive::KeepAlive,
    intercept::IntoMakeInterceptor,
    log::StreamId,
    policy::Policy,
    reconnect::{NoReconnect, Reconnect},
    replay::{Quota, Replay},
    service::SseProxy,
    session::{AnyStore, Credentials, SessionMapping, SessionStore},
    state::LayerState,
};

/// Wraps a service such that the event streams it answers with are read, and can be changed, event by event
/// while they flow.
///
/// Put it around any `Service<Request<_>, Response = Response<B>>`: an axum router, a tonic server, a hyper or
/// reqwest client that fetches from an upstream. Which responses are event streams is told by their
/// `Content-Type` alone; all others pass untouched. One request to the layer is one request to the service.
///
/// ```
/// use std::time::Duration;
/// use axum::{Router, response::sse::{self, Sse}, routing::get};
/// use tower_sse_proxy::{Event, KeepAlive, SseProxyLayer};
///
/// async fn chat() -> Sse<impl futures_util::Stream<Item = Result<sse::Event, std::convert::Infallible>>> {
///     let words = ["my", "password", "is", "hunter2"];
///     Sse::new(futures_util::stream::iter(words.map(|word| Ok(sse::Event::default().data(word)))))
/// }
///
/// fn redact(mut event: Event) -> Event {
///     if event.data().contains("hunter2") {
///         event.set_data("*******");
///     }
///     event
/// }
///
/// let layer = SseProxyLayer::default()
///     .intercept(redact)                                     // run in this order, per event
///     .intercept(|event: Event| (event.data() != "password").then_some(event))
///     .keep_alive(KeepAlive::new(Duration::from_secs(15)))
///     .max_event_bytes(1 << 20);
/// let app: Router = Router::new().route("/chat", get(chat)).layer(layer);
/// # use tower::ServiceExt;
/// # use http_body_util::BodyExt;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # let request = axum::extract::Request::get("/chat").body(axum::body::Body::empty()).unwrap();
/// # let body = app.oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
/// # assert_eq!(body, "data: my\n\ndata: is\n\ndata: *******\n\n");
/// # });
/// ```
///
/// # What happens to an event stream
///
/// * Every complete event goes through the [interceptors](crate::intercept), and so does everything else that
///   reaches the client: comments, ids, `retry`, unknown fields, and what an upstream leaves unfinished at its
///   end. Unless an interceptor changes it, it leaves as it came, byte for byte.
/// * An event leaves as soon as it is complete and allowed; events that are ready together leave together.
/// * The head loses what is no longer true (`Content-Length`, `ETag`, digests, ranges, `Content-Encoding`) and
///   gets `Cache-Control: no-store, no-transform` and `X-Accel-Buffering: no`. The operator of a gateway acts
///   for the origin, so an upstream's own `no-transform` is overruled.
/// * With interceptors installed, what they could not read is refused with 502: a charset other than UTF-8, a
///   range (206), a content coding. With the feature `decompression`, gzip, deflate, br and zstd are decoded;
///   codings that are not are taken out of the request's `Accept-Encoding`. A `HEAD` request is answered
///   with the same head.
/// * [Session](crate::session) ids are translated before the interceptors see an event, which see what the client sees.
/// * When the upstream breaks, an event is too large or an interceptor fails, the body ends with an [error]
///   after what was allowed before it, so that the client sees a cut and not an end.
/// * With [`reconnect`](crate::reconnect), an upstream that breaks off is asked to go on.
/// * With [`replay`](crate::replay), events get ids, and a client that comes back with the last one it has misses nothing. A task
///   then moves the stream, and the upstream goes on for a while without a client.
/// * Otherwise, dropping the response, or the future before it, drops the upstream's. That a client has left is for the server to
///   see: hyper's HTTP/1 does not while it has input left (the next request, a line end too many), nor while it waits for
///   a client that does not read. The gateway example watches its sockets for that.
///
/// A layer with nothing configured does not read event streams: it changes no byte of a head or a body. Nor is a range (206) of
/// one changed while no interceptors are installed.
///
/// # Diagnostics
///
/// Each event stream that does not end cleanly leaves one [`tracing`] event, of the target `tower_sse_proxy` and with these fields:
///
/// | field | value |
/// |---|---|
/// | `reason` | why it ended; see below |
/// | `cause` | with `rejected`: `content coding`, `charset`, `range`, `malformed content type` or `interceptor panicked`; with `session_error`: a text of the crate's own |
/// | `route` | the label set by [`route`](Self::route), if one is set |
/// | `duration_ms` | since its head, in milliseconds |
/// | `events` | the events that went through all interceptors; absent if the layer does not read the stream |
///
/// | `reason` | level | when |
/// |---|---|---|
/// | `client_left` | debug | the response body was dropped before its end, or no client came back within the [grace period](Replay::grace_period) |
/// | `truncated` | warn | the upstream ended the body inside an event |
/// | `upstream_error` | warn | the upstream's body failed, and no other response continued it |
/// | `overflow` | warn | an event was larger than [`max_event_bytes`](Self::max_event_bytes) |
/// | `not_utf8` | warn | the body began with a byte order mark of another encoding |
/// | `interceptor_failed` | warn | an interceptor failed, panicked, or took longer than its time limit |
/// | `session_error` | warn | a session id could not be translated |
/// | `rejected` | warn | it was answered with 502, as interceptors could not read it |
/// | `expired` | warn | a recorded stream reached its [maximum age](Replay::max_age) |
/// | `cancelled` | warn | [`abort`](Self::abort) ended a recorded stream |
/// | `shutdown` | warn | the task of a recorded stream was dropped, as its runtime ended |
/// | `lagged` | warn | a client of a recorded stream was too slow, and was cut; the stream goes on |
///
/// A recorded stream leaves one event, however many clients read it; only a `lagged` client adds its own. Neither data, ids, header
/// values, paths nor the texts of errors are recorded.
///
/// # What it needs
///
/// The service is `Clone + Send + 'static` with a `Send` future and a `Send` error, and its bodies carry [`Bytes`](bytes::Bytes).
/// Errors of the service are passed on as they are. Keep-alive, interceptors with deadlines or time limits, and
/// streams that break need tokio's timer at the time the body is polled, and [sessions](crate::session) and
/// [replay](crate::replay) need its runtime; nothing else does.
///
/// A layer is cheap to clone, and clones share their interceptors and the store of their sessions.
///
/// [error]: crate::Error
#[derive(Clone)]
pub struct SseProxyLayer<R = NoReconnect> {
    state: Arc<LayerState>,
    reconnect: R,
}

impl Default for SseProxyLayer {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            reconnect: NoReconnect,
        }
    }
}

impl SseProxyLayer {
    /// A layer whose [sessions](Self::sessions) are in this store. ([`default`](Self::default) is one with a
    /// [`MemoryStore`](crate::session::MemoryStore).)
    pub fn new(store: impl SessionStore) -> Self {
        let mut layer = Self::default();
        Arc::make_mut(&mut layer.state).store = AnyStore::new(store);
        layer
    }
}

impl<R> SseProxyLayer<R> {
    /// Asks an upstream that has broken off to go on, behind its client's back: by a [`Backoff`](crate::reconnect::Backoff) or by the
    /// rules of a [`Reconnect`]. It holds for all requests of the layer, whatever their [policy](Self::policy).
    ///
    /// A request without a body has to be made for that, so the service's requests have bodies that are [`Default`]. hyper's are
    /// not: see [`Reconnect`] for what boxes them. The layer's type becomes `SseProxyLayer<Reconnect>`, in an axum `State` too.
    pub fn reconnect(self, reconnect: impl Into<Reconnect>) -> SseProxyLayer<Reconnect> {
        SseProxyLayer {
            state: self.state,
            reconnect: reconnect.into(),
        }
    }

    /// Maps the sessions of clients to those of the upstream, by these rules. See [`session`](crate::session).
    pub fn sessions(self, sessions: SessionMapping) -> Self {
        self.with(|policy| policy.sessions(sessions))
    }

    /// Says whose a request is: by a principal that a layer further out has proved and put into the extensions, say. `None` is
    /// nobody in particular. A session can be used by who opened it and by nobody else; with [`replay`](Self::replay), so can what
    /// is kept of a stream, and clients [share](Replay::share_by) one only with those of the same owner.
    ///
    /// Unless set, the owner is the request's [`Credentials`]: `Authorization` and the usual headers for API keys. Where such a
    /// credential changes during a session (a token that is refreshed), the session is lost with it: set this. What was opened
    /// before a login is nobody's in particular, and so not the user's after it. For streams that are the same for everybody,
    /// `.owner(|_| Some("everybody"))` makes one owner of all.
    ///
    /// This and [`credentials`](Self::credentials) replace each other: the one that is called last holds.
    ///
    /// ```
    /// use tower_sse_proxy::{SseProxyLayer, session::SessionMapping};
    ///
    /// #[derive(Clone)]
    /// struct User(String); // put into the extensions by a layer further out
    ///
    /// let layer = SseProxyLayer::default()
    ///     .sessions(SessionMapping::header("x-session"))
    ///     .owner(|request| Some(request.extensions.get::<User>()?.0.clone()));
    /// ```
    pub fn owner<P: Into<Vec<u8>>>(
        mut self,
        principal: impl Fn(&request::Parts) -> Option<P> + Send + Sync + 'static,
    ) -> Self {
        let principal = move |request: &request::Parts| principal(request).map(Into::into);
        let state = Arc::make_mut(&mut self.state);
        state.owners.set_principal(Arc::new(principal));
        self
    }

    /// Sets the request fields that make up the [owner](Self::owner); [`Credentials::default`] unless set. For logins that live
    /// in a cookie: cookies count only by name.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        let state = Arc::make_mut(&mut self.state);
        state.owners.set_credentials(credentials);
        self
    }

    /// The key by which owners are hashed; a random one of the layer's own unless set. Processes that share a store share this
    /// key, or each answers 404 to the sessions of the other; so does one process after a restart, if its store survives that. As
    /// long and as secret as any key: 32 random bytes.
    pub fn owner_key(mut self, key: impl AsRef<[u8]>) -> Self {
        let state = Arc::make_mut(&mut self.state);
        state.owners.set_key(key.as_ref());
        self
    }

    /// Appends an interceptor to the chain: a function of an event, a function of the
    /// [`StreamHead`](crate::intercept::StreamHead) that opens one with a state for each stream, or any
    /// [`MakeInterceptor`](crate::intercept::MakeInterceptor). See [`Policy::intercept`].
    pub fn intercept<M>(self, interceptor: impl IntoMakeInterceptor<M>) -> Self {
        self.with(|policy| policy.intercept(interceptor))
    }

    /// Keeps what streams have sent, for clients that come back. See [`Replay`].
    pub fn replay(self, replay: Replay) -> Self {
        self.with(|policy| policy.replay(replay))
    }

    /// How many bytes the recorded streams of this layer hold together, for [`replay`](Self::replay); 256 MiB unless set.
    ///
    /// What counts is what is allocated: events, with the buffers that they share and what it takes to store them; about 2 KiB for
    /// a stream that has ended; and for one that goes on without a client 6 KiB, 16 KiB for the connection to its upstream, an
    /// unfinished event, and the connection's [read buffer](Self::upstream_buffer). Streams with a client count with their events
    /// alone.
    ///
    /// Where there is no room for more, events are evicted: of the owner's own streams without a client, those first that have
    /// sent nothing for the longest time; and of owners that hold more than this one, their excess only. What a connected client
    /// has not read is never evicted for another stream, nor is anything of its stream for a newer one. If nothing can be
    /// evicted, a stream is still served, but holds no more than its clients have still to read: its upstream is held back until
    /// they have, and a client that resumes it is told of a [gap](crate::replay::Gap).
    pub fn max_replay_bytes(self, bytes: usize) -> Self {
        self.with_quota(|quota| quota.bytes = bytes)
    }

    /// How many bytes are kept of all streams of one [owner](Self::owner); half of [`replay_bytes`](Self::max_replay_bytes) unless
    /// set, so that no single owner can fill the layer. All anonymous requests have one owner.
    pub fn max_replay_bytes_per_owner(self, bytes: usize) -> Self {
        self.with_quota(|quota| quota.bytes_per_owner = Some(bytes))
    }

    /// How many streams may [live on](Replay::grace_period) without a client; 4096 unless set. Above it, the oldest stream of the same
    /// owner ends that is without a client, and if there is no other, the stream that a client has just left.
    pub fn max_detached(self, streams: usize) -> Self {
        self.with_quota(|quota| quota.detached = streams)
    }

    /// How many streams of one [owner](Self::owner) may live on without a client; 256 unless set. Above it the oldest of them ends,
    /// as after its [`linger`](Replay::grace_period): what it has sent can still be resumed.
    pub fn max_detached_per_owner(self, streams: usize) -> Self {
        self.with_quota(|quota| quota.detached_per_owner = streams)
    }

    fn with_quota(mut self, set: impl FnOnce(&mut Quota)) -> Self {
        Arc::make_mut(&mut self.state).set_quota(set);
        self
    }

    /// The largest read buffer, in bytes, of a connection of the service to its upstream; 417,792 unless set, which is the default
    /// of hyper's HTTP/1 client. A stream that goes on without a client keeps it allocated. The layer cannot see its size: it
    /// counts the largest burst of the stream, and this at most, against [`replay_bytes`](Self::max_replay_bytes).
    ///
    /// Set it to what the client is configured with (`http1_max_buf_size` of hyper). With a smaller buffer more streams can go on
    /// without a client in the same memory; below 64 KiB large events cost more system calls.
    pub fn upstream_buffer(mut self, bytes: usize) -> Self {
        Arc::make_mut(&mut self.state).read_buffer = bytes;
        self
    }

    /// How much memory the recorded streams of this layer and its clones hold now, in bytes: what is counted against
    /// [`replay_bytes`](Self::max_replay_bytes).
    pub fn retained_bytes(&self) -> usize {
        self.state.streams.registry.bytes()
    }

    /// Closes a recorded stream. Returns false if there is no such stream.
    ///
    /// The [`StreamId`] is in the [extensions](http::Response::extensions) of each response that reads the stream, and in the
    /// [ids](crate::replay::EventId::stream) of its events, which its client knows.
    ///
    /// The request to the upstream is cancelled, and the bodies of its clients fail with [`Aborted`](crate::ErrorKind::Aborted). The
    /// stream cannot be resumed from then on, also if it has ended: a `GET` with one of its ids is answered with 204, at which an
    /// `EventSource` stops (WHATWG HTML 9.2.3), and any other method with 410. Streams that continued this one, or that it continued,
    /// are closed with it. To other owners the ids are unknown, as they were before. (A client that has not received an id yet sends
    /// none, and its next request is a new one; with [`prime`](Replay::priming_event) every client has an id at once.)
    ///
    /// The layer remembers the last 16,384 closed streams, in 2 MiB at the most. When there are more, the oldest of the owner with
    /// the most closed streams is forgotten, and its ids are answered as [unknown](crate::replay::Gap).
    ///
    /// It does not ask whose the stream is: who knows one of its ids may stop it, unless what calls this says no. Clones of a layer
    /// have the same streams, so one goes around the service and another into the handler. (The setters of
    /// limits begin with none: clone after the last setter.)
    ///
    /// ```
    /// # use tower_sse_proxy::{SseProxyLayer, replay::{EventId, MalformedEventId, Replay}};
    /// # fn stop(last_event_id: &str) -> Result<(), MalformedEventId> {
    /// let layer = SseProxyLayer::default().replay(Replay::default());
    /// // The user has pressed "stop" in a client that has received this id.
    /// let id: EventId = last_event_id.parse()?;
    /// layer.abort(id.stream());
    /// # Ok(()) }
    /// ```
    pub fn abort(&self, stream: StreamId) -> bool {
        self.state.streams.close(stream)
    }

    /// The limit, in bytes, for one event; 16 MiB unless set. See [`Policy::max_event_bytes`].
    pub fn max_event_bytes(self, bytes: usize) -> Self {
        self.with(|policy| policy.max_event_bytes(bytes))
    }

    /// What an event above the limit comes to; unless set, the stream is cut. See [`Policy::oversized_event`].
    pub fn oversized_event(self, overflow: OversizedEvent) -> Self {
        self.with(|policy| policy.oversized_event(overflow))
    }

    /// Sends comments while a stream is silent. Off unless set. See [`Policy::keep_alive`].
    pub fn keep_alive(self, keep_alive: KeepAlive) -> Self {
        self.with(|policy| policy.keep_alive(keep_alive))
    }

    /// Sets the label by which diagnostics name the streams; none unless set. See [`Policy::route`] and
    /// [diagnostics](#diagnostics).
    pub fn route(self, label: impl Into<Arc<str>>) -> Self {
        self.with(|policy| policy.route(label))
    }

    /// Takes the upstream's comments out of the stream. They are passed on unless set. See
    /// [`Policy::strip_comments`].
    pub fn strip_comments(self, strip: bool) -> Self {
        self.with(|policy| policy.strip_comments(strip))
    }

    /// Replaces the question whether a response is an event stream, asked of its head. See [`Policy::detect`].
    pub fn detect(self, detect: impl Fn(&response::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.with(|policy| policy.detect(detect))
    }

    /// Chooses another policy for some requests, by their head: headers, or extensions that a middleware further
    /// out has set. For `None` the one holds that the other setters fill. [`Policy`] has an example.
    ///
    /// A policy that is chosen is all that applies to its requests: **nothing of the other setters does, neither the
    /// interceptors nor the sessions**. The store, the [`owner`](Self::owner) and the [`owner_key`](Self::owner_key) are the
    /// layer's. The function runs once for each request, before the service is called.
    pub fn policy(
        mut self,
        choose: impl Fn(&request::Parts) -> Option<Arc<Policy>> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.state).choose_policy = Some(Arc::new(choose));
        self
    }

    fn with(mut self, set: impl FnOnce(Policy) -> Policy) -> Self {
        let state = Arc::make_mut(&mut self.state);
        let policy = std::mem::take(Arc::make_mut(&mut state.policy));
        state.policy = Arc::new(set(policy));
        self
    }
}

impl<S, R: Clone> Layer<S> for SseProxyLayer<R> {
    type Service = SseProxy<S, R>;

    fn layer(&self, inner: S) -> SseProxy<S, R> {
        SseProxy::new(inner, Arc::clone(&self.state), self.reconnect.clone())
    }
}

impl<R: fmt::Debug> fmt::Debug for SseProxyLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseProxyLayer")
            .field("policy", &self.state.policy)
            .field("per_request", &self.state.choose_policy.is_some())
            .field("reconnect", &self.reconnect)
            .finish()
    }
}
