//! The settings that apply to one request.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use http::{StatusCode, Version, response};

use crate::{
    codec::{Decoder, OversizedEvent},
    downstream::keep_alive::KeepAlive,
    headers::content_type::is_event_stream,
    intercept::{IntoMakeInterceptor, MakeInterceptor},
    live::Watchdog,
    rejection::{Rejection, RejectionReason},
    replay::Replay,
    session::SessionMapping,
};

/// The settings for the event streams of one request.
///
/// A layer has a default policy, which its setters fill. [`SseProxyLayer::policy`](crate::SseProxyLayer::policy) chooses a
/// policy for each request. `Policy` has the same setters as the layer.
///
/// ```
/// use std::sync::Arc;
/// use tower_sse_proxy::{Event, Policy, SseProxyLayer};
///
/// let open = Arc::new(Policy::default());
/// let layer = SseProxyLayer::default()
///     .intercept(|event: Event| (!event.data().contains("secret")).then_some(event))
///     .policy(move |request, default| {
///         if request.headers.contains_key("x-trusted") {
///             Arc::clone(&open) // no interceptors
///         } else {
///             default
///         }
///     });
/// ```
#[derive(Clone)]
pub struct Policy {
    pub(crate) intercepts: Vec<Arc<dyn MakeInterceptor>>,
    pub(crate) max_event_bytes: usize,
    /// The limit was set, so that it applies to streams that would otherwise pass untouched.
    pub(crate) limits_events: bool,
    pub(crate) oversized_event: OversizedEvent,
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) strip_comments: bool,
    pub(crate) detect: Detect,
    inspect_json: Option<usize>,
    pub(crate) blocked_status: StatusCode,
    pub(crate) sessions: Option<Arc<SessionMapping>>,
    pub(crate) replay: Option<Arc<Replay>>,
    pub(crate) rejection: Option<Rejection>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) watchdog: Option<Arc<Watchdog>>,
    pub(crate) early_head: Option<Duration>,
    read_ahead: usize,
}

/// The default of [`Policy::read_ahead`], in bytes.
const READ_AHEAD: usize = 1 << 20;

pub(crate) type Detect = Arc<dyn Fn(&response::Parts) -> bool + Send + Sync>;

impl Policy {
    /// Appends an interceptor to the chain. It sees the events that the interceptors before it let through.
    ///
    /// Takes a [`MakeInterceptor`], or a function `Fn(Event) -> impl Into<Verdict>`; see [`intercept`](crate::intercept). The
    /// argument of a closure has to be annotated: `|event: Event|`.
    ///
    /// While an interceptor is installed, the layer answers with 502 instead of an event stream that it cannot read: one in another
    /// charset than UTF-8, in a content coding that cannot be decoded, or cut into a range (206). It does the same for a response
    /// with a `Content-Type` that is malformed in a way that some clients read as `text/event-stream` (`text /event-stream`), unless
    /// [`detect`](Self::detect) takes it for an event stream, which the interceptors then see. A body that begins with a byte order
    /// mark of UTF-16, UTF-32 or UTF-7 fails before its first byte with [`NotUtf8`](crate::ErrorKind::NotUtf8).
    pub fn intercept<M>(mut self, interceptor: impl IntoMakeInterceptor<M>) -> Self {
        self.intercepts
            .push(Arc::new(interceptor.into_make_interceptor()));
        self
    }

    /// Limits the size of one event and of one line, in bytes, counting every byte. 16 MiB unless set; at least 16 bytes, and below 4 GiB.
    /// See also [`oversized_event`](Self::oversized_event).
    ///
    /// This bounds the memory that an unfinished event holds, and the time for which one event holds its thread. While an event arrives,
    /// other tasks of the thread run after every 256 KiB. The complete event passes the layer and all interceptors in one poll, because
    /// they need it whole, in a time that is linear in its size: 16 MiB take about 10 ms with an interceptor that searches the data, 0.1 s
    /// with a text window, and 0.5 s with a window that masks all of the text.
    pub fn max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self.limits_events = true;
        self
    }

    /// Sets what happens to an event above the limit. Unless set, the stream ends with an error. Such an event never passes the
    /// interceptors unseen.
    pub fn oversized_event(mut self, oversized: OversizedEvent) -> Self {
        self.oversized_event = oversized;
        self.limits_events = true;
        self
    }

    /// Sends comments while a stream is silent. Off unless set.
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.keep_alive = Some(keep_alive);
        self
    }

    /// Removes the upstream's comments from the stream. Off unless set.
    pub fn strip_comments(mut self, strip: bool) -> Self {
        self.strip_comments = strip;
        self
    }

    /// Sets the function that decides by the head whether a response is an event stream. [`is_event_stream`] unless set. It is
    /// not called for responses without a body (1xx, 204, 304).
    ///
    /// It cannot let a response with a malformed `Content-Type` pass; see [`intercept`](Self::intercept).
    pub fn detect(
        mut self,
        detect: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.detect = Arc::new(detect);
        self
    }

    /// Lets the interceptors see JSON bodies of at most this size, in decoded bytes. Off unless set: such bodies then pass untouched.
    ///
    /// Model APIs and MCP servers answer the same call as an event stream or as one JSON body. With this setting, both shapes pass
    /// the same chain. It applies to responses of any status with a JSON media type (`application/json`, or a type that ends in
    /// `+json`), and has no effect without interceptors. A response without a body passes untouched: to `HEAD`, with status 1xx, 204
    /// or 304, or with an empty body.
    ///
    /// The layer reads the whole body before it sends the head of the response. The body becomes the data of one
    /// [`Event`](crate::Event), in which each line end is an LF. The interceptors are opened with the shape
    /// [`Json`](crate::intercept::BodyShape::Json), see this event, and then the end. If none of the factories opens an interceptor, the
    /// body passes unread.
    ///
    /// | the interceptors | the client gets |
    /// |---|---|
    /// | forward the event, data unchanged | the same head and the same bytes, in the upstream's content coding |
    /// | forward one event with other data | this data as the body, with its `Content-Length`, and without `Content-Encoding`, `ETag` and digests; the line ends are those of the old body if both have as many lines |
    /// | forward no event, [block](crate::intercept::Verdict::block) it, or [end](crate::intercept::Verdict::End) the stream | [`blocked_status`](Self::blocked_status), 403 unless set |
    /// | fail, panic, exceed a time limit, or forward several events | 502 |
    ///
    /// Comments and other blocks that an interceptor adds are dropped, and so are the fields of the event other than its data.
    ///
    /// In place of a body that is not forwarded, the client gets a JSON object with an `error`. Its `type` is `blocked` or
    /// `uninspectable`. The SDKs of model APIs find its `message`.
    ///
    /// # Errors
    /// The client gets 502 if the interceptors cannot read the body, or might read it differently from the client: it is larger than the
    /// limit, is in another charset than UTF-8 or ASCII, is not well-formed UTF-8, begins as UTF-16, UTF-32 or UTF-7 does, is a range (206),
    /// has a content coding that cannot be decoded, or breaks. The client gets 501 with `Proxy-Status` if the response has
    /// `Incremental: ?1` (RFC 10036), which asks intermediaries not to wait for the whole body. Data that is not JSON is not an error: the
    /// interceptors decide about it.
    ///
    /// # Memory and cancellation
    /// The layer holds a body, its decoded form and the event, each at most a small multiple of the limit. `max_event_bytes` does not
    /// apply. If the client disconnects, the upstream request and the interceptors are cancelled. No limit applies to the time in which the
    /// body has to arrive; tower's `Timeout` around the layer sets one.
    ///
    /// ```
    /// use tower_sse_proxy::{Event, SseProxyLayer};
    ///
    /// let layer = SseProxyLayer::default()
    ///     .inspect_json(1 << 20)
    ///     .intercept(|event: Event| (!event.data().contains("secret")).then_some(event));
    /// ```
    pub fn inspect_json(mut self, limit: usize) -> Self {
        self.inspect_json = Some(limit);
        self
    }

    /// Sets the status of the response in place of a JSON body that an interceptor drops or blocks. 403 unless set. The body of the
    /// response is an error object. See [`inspect_json`](Self::inspect_json).
    pub fn blocked_status(mut self, status: StatusCode) -> Self {
        self.blocked_status = status;
        self
    }

    /// Maps client session ids to upstream session ids. Off unless set. The store of the layer keeps the sessions; see
    /// [`SseProxyLayer::new`](crate::SseProxyLayer::new).
    #[cfg(feature = "sessions")]
    pub fn sessions(mut self, sessions: SessionMapping) -> Self {
        self.sessions = Some(Arc::new(sessions));
        self
    }

    /// Records streams, so that clients can resume them. Off unless set.
    #[cfg(feature = "replay")]
    pub fn replay(mut self, replay: Replay) -> Self {
        self.replay = Some(Arc::new(replay));
        self
    }

    /// Sets the label of the streams in diagnostics. None unless set. Use a template such as `/chat/{id}`: a path may hold ids and
    /// secrets, so the layer records nothing of the request itself.
    ///
    /// Each event stream that does not end cleanly emits one `tracing` event; see
    /// [`SseProxyLayer`](crate::SseProxyLayer#diagnostics).
    pub fn route(mut self, label: impl Into<Arc<str>>) -> Self {
        self.route = Some(label.into());
        self
    }

    /// Limits how long a stream may be silent, and its age. Off unless set. See [`Watchdog`].
    pub fn watchdog(mut self, watchdog: Watchdog) -> Self {
        self.watchdog = Some(Arc::new(watchdog));
        self
    }

    /// Sends the response head and comments after this time if the upstream has not answered. Off unless set.
    ///
    /// Applies to `GET` and `POST` requests whose `Accept` names `text/event-stream`. Some proxies and clients give up on a response
    /// whose head does not arrive for a minute, while a model may think for longer.
    ///
    /// With an early head, the client gets status 200 and none of the upstream's header fields, whatever the upstream answers later. If the
    /// upstream's response is not an event stream with status 200, the client gets an error event and then a cut. The error event has the
    /// form of the model API that the request's path names, or else the type `error`. A request that may open a session has no early head, because its session id is in the
    /// head.
    pub fn early_head(mut self, after: Duration) -> Self {
        self.early_head = Some(after);
        self
    }

    /// Limits how far an event stream that arrives over HTTP/2 is read ahead of its client, in bytes. 1 MiB unless set; 0 turns reading
    /// ahead off.
    ///
    /// HTTP clients send all requests to an HTTP/2 upstream on one connection. hyper's client closes it when too many small frames lie
    /// unread, and unread large frames fill the flow control window that all streams share. So one client that does not read would break or
    /// stop the streams of others. While a client does not read, a task of the layer reads its stream into a buffer. At the limit,
    /// the layer cuts the stream with the outcome [`Stalled`](crate::observe::StreamOutcome::Stalled): at once if its frames have less than
    /// 256 bytes on average, otherwise when the client has taken nothing for 30 seconds.
    ///
    /// Applies to event streams whose response has the version HTTP/2, inside a tokio runtime. [operating] says how to configure hyper's
    /// client.
    ///
    /// [operating]: crate::guide::operating#http2-upstreams
    pub fn read_ahead(mut self, bytes: usize) -> Self {
        self.read_ahead = bytes;
        self
    }

    /// Returns the read-ahead limit, in bytes, for a response with this head. `None` if the layer does not read its body ahead.
    pub(crate) fn read_ahead_of(&self, parts: &response::Parts) -> Option<usize> {
        let reads_ahead = parts.version == Version::HTTP_2 && self.read_ahead > 0;
        reads_ahead.then_some(self.read_ahead)
    }

    /// Removes the replay settings, and returns both.
    #[cfg(feature = "mcp")]
    pub(crate) fn without_replay(mut self) -> (Self, Option<Replay>) {
        let replay = self.replay.take();
        (self, replay.map(|replay| Replay::clone(&replay)))
    }

    /// Creates a policy that answers each request with this status and text. The service is not called.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use http::StatusCode;
    /// use tower_sse_proxy::{Policy, SseProxyLayer};
    ///
    /// let closed = Arc::new(Policy::reject(StatusCode::FORBIDDEN, "forbidden\n"));
    /// let layer = SseProxyLayer::default().policy(move |request, default| {
    ///     if request.uri.path().starts_with("/admin") { Arc::clone(&closed) } else { default }
    /// });
    /// ```
    pub fn reject(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            rejection: Some(Rejection::new(status, text).because(RejectionReason::Policy)),
            ..Self::default()
        }
    }

    pub(crate) fn decoder(&self) -> Decoder {
        Decoder::new(self.max_event_bytes)
            .oversized_event(self.oversized_event)
            .check_utf8(self.inspects())
    }

    /// Whether no setting needs to read an event stream, so that it may pass untouched.
    pub(crate) fn is_transparent(&self) -> bool {
        self.intercepts.is_empty()
            && self.keep_alive.is_none()
            && !self.strip_comments
            && !self.limits_events
            && self.sessions.is_none()
            && self.replay.is_none()
    }

    /// The largest JSON body that interceptors see, in decoded bytes. `None` if JSON bodies pass untouched.
    pub(crate) fn json_limit(&self) -> Option<usize> {
        self.inspect_json.filter(|_| !self.intercepts.is_empty())
    }

    /// Whether interceptors or the session stage have to see each event.
    pub(crate) fn guards(&self) -> bool {
        let sessions = self.sessions.as_ref();
        !self.intercepts.is_empty() || sessions.is_some_and(|sessions| sessions.reads_events())
    }

    /// Whether a stream that the layer cannot read must not pass.
    pub(crate) fn inspects(&self) -> bool {
        self.guards() || self.replay.is_some()
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            intercepts: Vec::new(),
            limits_events: false,
            max_event_bytes: Decoder::DEFAULT_LIMIT,
            oversized_event: OversizedEvent::default(),
            keep_alive: None,
            strip_comments: false,
            detect: Arc::new(is_event_stream),
            inspect_json: None,
            blocked_status: StatusCode::FORBIDDEN,
            sessions: None,
            replay: None,
            rejection: None,
            route: None,
            watchdog: None,
            early_head: None,
            read_ahead: READ_AHEAD,
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("intercepts", &self.intercepts.len())
            .field("max_event_bytes", &self.max_event_bytes)
            .field("oversized_event", &self.oversized_event)
            .field("keep_alive", &self.keep_alive)
            .field("strip_comments", &self.strip_comments)
            .field("inspect_json", &self.inspect_json)
            .field("sessions", &self.sessions)
            .field("replay", &self.replay)
            .field("refusal", &self.rejection)
            .field("route", &self.route)
            .field("watchdog", &self.watchdog)
            .field("early_head", &self.early_head)
            .field("read_ahead", &self.read_ahead)
            .finish_non_exhaustive()
    }
}
