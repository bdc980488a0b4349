//! The layer, which is its own builder.

#[cfg(feature = "replay")]
mod replay;
#[cfg(feature = "sessions")]
mod sessions;

use std::{fmt, sync::Arc, time::Duration};

use http::{StatusCode, request, response};
use tower_layer::Layer;

#[cfg(feature = "reconnect")]
use crate::reconnect::Reconnect;
use crate::{
    codec::OversizedEvent,
    downstream::keep_alive::KeepAlive,
    intercept::IntoMakeInterceptor,
    live::Watchdog,
    observe::{OnClose, StreamLimits, StreamObserver, StreamRecord},
    policy::Policy,
    reconnect::NoReconnect,
    service::SseProxy,
    session::Credentials,
    state::LayerState,
    streams::Streams,
};

/// A layer that reads the event streams of a service, and lets interceptors change them event by event while they stream.
///
/// It wraps any `Service<Request<_>, Response = Response<B>>`: an axum router, a tonic server, a hyper or reqwest client in front
/// of an upstream. The `Content-Type` alone decides whether a response is an event stream; other responses pass untouched, except for
/// JSON bodies that the interceptors [may see](Self::inspect_json). One request to the layer is one request to the service.
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
///     .intercept(redact) // interceptors run in this order, for each event
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
/// A layer with nothing configured changes no byte of a head or a body. With any setting that reads streams:
///
/// * Each complete event passes the [interceptors](crate::intercept), and so does every other byte of the stream: comments, ids,
///   `retry`, unknown fields, and an unfinished block at the end. A block that no interceptor changes is forwarded
///   byte-identical.
/// * An event is sent as soon as it is complete and allowed. Events that are ready together are sent together.
/// * The layer removes the header fields that describe the upstream's bytes: `Content-Length`, `ETag`, digests, ranges and
///   `Content-Encoding`; digests also in trailers. It also removes the fields that allow a cache to store the stream: `Age`, `Expires`,
///   and those for one kind of cache, such as `CDN-Cache-Control` (RFC 9213) and `X-Accel-Expires`. It sets
///   `Cache-Control: no-store, no-transform`, `Incremental: ?1` (RFC 10036) and `X-Accel-Buffering: no`. A gateway acts for the origin
///   (RFC 9110 3.7), so an upstream's own `no-transform` does not bind it.
/// * While interceptors or replay are installed, a stream that the layer cannot read is answered with 502: another charset than UTF-8,
///   or a content coding that cannot be decoded. With the feature `decompression`, gzip, deflate, br and zstd are decoded; other codings
///   are removed from the request's `Accept-Encoding`. While interceptors are installed, a range (206) is answered with 502, too;
///   without them, it passes untouched.
/// * The response to a `HEAD` request has the same head and no body.
/// * [Session](crate::session) ids are translated before the interceptors run, so interceptors see the ids of the client.
/// * If the upstream fails, an event is too large, or an interceptor fails, the body ends with an [error] after the events that
///   were allowed before it. The server then cuts the connection (HTTP/1.1) or resets the stream (HTTP/2), so that the client
///   does not mistake the cut for a clean end.
/// * With [`reconnect`](crate::reconnect), the layer asks the upstream to continue after its connection broke.
/// * With [`replay`](crate::replay), a task reads the upstream into a log, and a client that reconnects with `Last-Event-ID` misses
///   nothing. The upstream continues for a grace period without a client.
/// * Otherwise, dropping the response or its future cancels the upstream request. The server has to notice that a client
///   disconnected: hyper's HTTP/1 server does not while it has unread input (a pipelined request, an extra line end), nor while it
///   waits for a client that does not read. The gateway example watches its sockets for that.
///
/// # Diagnostics
///
/// A stream is observed while [`observe`](Self::observe), [`streams`](Self::streams), a limit on open streams, a [`Watchdog`] or
/// [`early_head`](Self::early_head) is in use. An observed stream has a [`tracing`] span `event_stream` at the level info, with the target
/// `tower_sse_proxy` and the fields `route`, `method` and, at its end, `outcome`. The span opens in the span of the request, and closes
/// when the stream ends. Interceptors run in it.
///
/// Each event stream that does not end cleanly emits one [`tracing`] event, with the target `tower_sse_proxy` and these fields:
///
/// | field | value |
/// |---|---|
/// | `reason` | why the stream ended, see below |
/// | `cause` | for `rejected`: `content coding`, `charset`, `range`, `malformed content type`, `not UTF-8`, `incremental` (a JSON body with `Incremental: ?1`), or why a session id could not be translated; for `interceptor_failed`: `time limit` or `panic` |
/// | `route` | the label set by [`route`](Self::route), if any |
/// | `duration_ms` | milliseconds since the response head |
/// | `events` | number of events that passed all interceptors; absent if the layer does not read the stream |
///
/// | `reason` | level | when |
/// |---|---|---|
/// | an [outcome](crate::observe::StreamOutcome) other than `completed` | warn, `client_left` debug | the stream ended, or the layer answered with 502 because interceptors could not read it |
/// | `stalled` with the cause `slow client` | warn | a client of a recorded stream was too slow, and its body was cut; the stream continues. Or the client of a stream that is not observed was too far behind an [HTTP/2 upstream](Self::read_ahead) |
///
/// A stream that an interceptor ends by [`Verdict::End`](crate::intercept::Verdict::End) ends cleanly: its outcome is `blocked`, and it is
/// not logged.
///
/// A [JSON body](Self::inspect_json) that the layer does not forward emits one event at the level warn, with the fields `reason`, `cause`,
/// `route` and `duration_ms`. The reason is `blocked` (dropped or blocked by an interceptor), `overflow` (larger than the limit),
/// `upstream_error` (it broke, or cannot be decoded), `interceptor_failed` or `rejected`.
///
/// A recorded stream emits one event, however many clients read it; a client that lagged adds one. Event data, ids, header values,
/// paths and error texts are never recorded.
///
/// # Requirements
///
/// The service is `Clone + Send + 'static` with a `Send` future and a `Send` error, and its bodies yield [`Bytes`](bytes::Bytes).
/// Errors of the service pass through unchanged; failures of the layer itself are responses. Keep-alive, interceptors with
/// deadlines or time limits, and streams that fail need tokio's timer when the body is polled.
/// [Sessions](crate::session) and [replay](crate::replay) need a tokio runtime.
///
/// A layer is cheap to clone. Clones share interceptors, session store and recorded streams.
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

impl<R> SseProxyLayer<R> {
    /// Reconnects when the upstream connection breaks, without the client noticing: with a
    /// [`Backoff`](crate::reconnect::Backoff) or with all settings of [`Reconnect`]. Applies to all requests of the layer, whatever
    /// their [policy](Self::policy).
    ///
    /// The layer makes the second request itself, with an empty body, so the request body type has to implement [`Default`].
    /// hyper's does not; [`Reconnect`] shows how to box it. The layer's type becomes `SseProxyLayer<Reconnect>`.
    #[cfg(feature = "reconnect")]
    pub fn reconnect(self, reconnect: impl Into<Reconnect>) -> SseProxyLayer<Reconnect> {
        SseProxyLayer {
            state: self.state,
            reconnect: reconnect.into(),
        }
    }

    /// Sets the function that computes the owner of a request, for example from a principal that an outer layer has
    /// authenticated and put into the extensions. `None` is the anonymous owner.
    ///
    /// Only the owner that opened a session can use it. With [`replay`](Self::replay), only the owner that opened a stream can
    /// resume it, and clients [share](crate::replay::Replay::share_by) streams only with clients of the same owner.
    ///
    /// Unless set, the owner is made of the request's [`Credentials`]: `Authorization` and the usual headers for API keys. A
    /// client with credentials that change during a session (a refreshed token) loses the session; set this function then. Sessions
    /// and streams from before a login belong to the anonymous owner, not to the user. For streams that are the same for all
    /// clients, `.owner(|_| Some("everybody"))` makes all clients one owner.
    ///
    /// Replaces [`credentials`](Self::credentials), and is replaced by it: the last call wins.
    ///
    /// ```
    /// use tower_sse_proxy::SseProxyLayer;
    ///
    /// #[derive(Clone)]
    /// struct User(String); // inserted into the extensions by an outer layer
    ///
    /// let layer = SseProxyLayer::default()
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

    /// Sets the header fields and cookies that make up the [owner](Self::owner) of a request. [`Credentials::default`] unless
    /// set. Name the cookie here if logins use one.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        let state = Arc::make_mut(&mut self.state);
        state.owners.set_credentials(credentials);
        self
    }

    /// Sets the secret key with which owners are hashed: use 32 random bytes. Random for each layer unless set.
    ///
    /// Processes that share a session store need the same key: otherwise each answers 404 to the sessions of the others. If the store
    /// survives a restart of the process, the key has to survive it, too.
    pub fn owner_key(mut self, key: impl AsRef<[u8]>) -> Self {
        let state = Arc::make_mut(&mut self.state);
        state.owners.set_key(key.as_ref());
        self
    }

    /// Appends an interceptor to the chain: a function of an event, a function of the
    /// [`StreamHead`](crate::intercept::StreamHead) that makes an interceptor with its own state for each stream, or any
    /// [`MakeInterceptor`](crate::intercept::MakeInterceptor). See [`Policy::intercept`].
    pub fn intercept<M>(self, interceptor: impl IntoMakeInterceptor<M>) -> Self {
        self.with(|policy| policy.intercept(interceptor))
    }

    /// Limits the number of event streams that have a client, over all services of the layer. No limit unless set.
    ///
    /// At the limit, the layer answers with 503 and a random `Retry-After` (RFC 9110 10.2.3). It rejects a request whose `Accept` names
    /// `text/event-stream` before it calls the service, and any other request when its response turns out to be an event stream. A stream
    /// with several clients counts once.
    pub fn max_streams(self, streams: usize) -> Self {
        self.with_limits(|limits| limits.streams = Some(streams))
    }

    /// Limits the number of event streams of one [owner](Self::owner) that have a client. No limit unless set. See
    /// [`max_streams`](Self::max_streams).
    pub fn max_streams_per_owner(self, streams: usize) -> Self {
        self.with_limits(|limits| limits.streams_per_owner = Some(streams))
    }

    /// Limits the memory, in bytes, that all open streams of the layer hold in buffers: unfinished events, events that wait for an
    /// interceptor, and frames that the server has not taken. No limit unless set; each stream is limited by
    /// [`max_event_bytes`](Self::max_event_bytes).
    ///
    /// When it is exceeded, the stream that holds the most ends, with the outcome [`Overflow`](crate::observe::StreamOutcome::Overflow).
    /// The logs of recorded streams have a separate limit, [`max_replay_bytes`](Self::max_replay_bytes). Each interceptor limits the blocks
    /// that it stores itself, for example by [`max_held_bytes`](crate::intercept::TextWindow::max_held_bytes).
    /// [`Streams::buffered_bytes`] returns the present amount.
    pub fn max_buffered_bytes(self, bytes: usize) -> Self {
        self.with_limits(|limits| limits.buffered_bytes = Some(bytes))
    }

    fn with_limits(mut self, set: impl FnOnce(&mut StreamLimits)) -> Self {
        Arc::make_mut(&mut self.state).set_stream_limits(set);
        self
    }

    /// Returns a handle that lists, closes, taps and drains the event streams of this layer and its clones. See [`Streams`].
    ///
    /// The handle sees streams that open after the first call of this method. Setters of limits discard the list of streams, so call this
    /// after the last of them.
    pub fn streams(&self) -> Streams {
        let state = &self.state;
        Streams::new(Arc::clone(&state.live), Arc::clone(&state.streams))
    }

    /// Sends the response head early if the upstream is slow. Off unless set. See [`Policy::early_head`].
    pub fn early_head(self, after: Duration) -> Self {
        self.with(|policy| policy.early_head(after))
    }

    /// Limits how far an event stream that arrives over HTTP/2 is read ahead of its client, in bytes. 1 MiB unless set; 0 turns reading
    /// ahead off. See [`Policy::read_ahead`].
    pub fn read_ahead(self, bytes: usize) -> Self {
        self.with(|policy| policy.read_ahead(bytes))
    }

    /// Limits the size of one event, in bytes. 16 MiB unless set. See [`Policy::max_event_bytes`].
    pub fn max_event_bytes(self, bytes: usize) -> Self {
        self.with(|policy| policy.max_event_bytes(bytes))
    }

    /// Sets what happens to an event above the limit. Unless set, the stream ends with an error. See
    /// [`Policy::oversized_event`].
    pub fn oversized_event(self, oversized: OversizedEvent) -> Self {
        self.with(|policy| policy.oversized_event(oversized))
    }

    /// Sends comments while a stream is silent. Off unless set. See [`Policy::keep_alive`].
    pub fn keep_alive(self, keep_alive: KeepAlive) -> Self {
        self.with(|policy| policy.keep_alive(keep_alive))
    }

    /// Sets the label of the streams in diagnostics. None unless set. See [`Policy::route`] and [diagnostics](#diagnostics).
    pub fn route(self, label: impl Into<Arc<str>>) -> Self {
        self.with(|policy| policy.route(label))
    }

    /// Limits how long a stream may be silent, and its age. Off unless set. See [`Watchdog`].
    pub fn watchdog(self, watchdog: Watchdog) -> Self {
        self.with(|policy| policy.watchdog(watchdog))
    }

    /// Adds an observer, which the layer calls when an event stream opens, makes progress and ends. See [`observe`](crate::observe).
    ///
    /// While a layer has an observer, it reads every event stream that it can read, as it does with an interceptor.
    pub fn observe(mut self, observer: impl StreamObserver) -> Self {
        Arc::make_mut(&mut self.state).observe(Arc::new(observer));
        self
    }

    /// Adds a function that is called with the record of each event stream at its end. See
    /// [`StreamObserver::closed`](crate::observe::StreamObserver::closed).
    pub fn on_close(self, closed: impl Fn(&StreamRecord) + Send + Sync + 'static) -> Self {
        self.observe(OnClose(closed))
    }

    /// Removes the upstream's comments. Off unless set. See [`Policy::strip_comments`].
    pub fn strip_comments(self, strip: bool) -> Self {
        self.with(|policy| policy.strip_comments(strip))
    }

    /// Sets the function that decides by the head whether a response is an event stream. See [`Policy::detect`].
    pub fn detect(self, detect: impl Fn(&response::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.with(|policy| policy.detect(detect))
    }

    /// Lets the interceptors see JSON bodies of at most this size, in decoded bytes. Off unless set. See [`Policy::inspect_json`].
    pub fn inspect_json(self, limit: usize) -> Self {
        self.with(|policy| policy.inspect_json(limit))
    }

    /// Sets the status of the response in place of a JSON body that an interceptor drops or blocks. 403 unless set. See
    /// [`Policy::inspect_json`].
    pub fn blocked_status(self, status: StatusCode) -> Self {
        self.with(|policy| policy.blocked_status(status))
    }

    /// Sets a function that chooses the policy of each request by its head: header fields, or extensions that an outer layer has
    /// set.
    ///
    /// The function also gets the layer's default policy, which the other setters fill, and returns it for requests without rules
    /// of their own. A policy that is derived from it keeps its interceptors:
    /// `Arc::new(Policy::clone(&default).intercept(..))` adds one, at the cost of a few reference counts. Make interceptors with
    /// patterns outside of the function. A policy that is built anew replaces it **entirely**: neither the interceptors nor the
    /// sessions of the layer apply then. Session store, [`owner`](Self::owner) and [`owner_key`](Self::owner_key) always
    /// apply.
    ///
    /// The function runs once for each request, before the service is called. [`Policy`] has an example.
    pub fn policy<P: Into<Arc<Policy>>>(
        mut self,
        choose: impl Fn(&request::Parts, Arc<Policy>) -> P + Send + Sync + 'static,
    ) -> Self {
        let choose = move |request: &request::Parts, default| choose(request, default).into();
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
