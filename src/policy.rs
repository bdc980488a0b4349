//! What applies to a request.

use std::{borrow::Cow, fmt, sync::Arc};

use http::{StatusCode, response};

use crate::{
    codec::{Decoder, OversizedEvent},
    downstream::keep_alive::KeepAlive,
    headers::content_type::is_event_stream,
    intercept::{IntoMakeInterceptor, MakeInterceptor},
    rejection::Rejection,
    replay::Replay,
    session::SessionMapping,
};

/// How the streams of a request are dealt with.
///
/// A layer has a policy for all requests, which its setters fill, and may choose another for some by
/// [`SseProxyLayer::policy`](crate::SseProxyLayer::policy); the setters are the same.
///
/// ```
/// use std::sync::Arc;
/// use tower_sse_proxy::{Event, Policy, SseProxyLayer};
///
/// let open = Arc::new(Policy::default());
/// let layer = SseProxyLayer::default()
///     .intercept(|event: Event| (!event.data().contains("secret")).then_some(event))
///     .policy(move |request| {
///         // Everybody else is guarded.
///         request.headers.contains_key("x-trusted").then(|| Arc::clone(&open))
///     });
/// ```
#[derive(Clone)]
pub struct Policy {
    pub(crate) intercepts: Vec<Arc<dyn MakeInterceptor>>,
    pub(crate) max_event_bytes: usize,
    /// A limit was set, so that it applies to streams with which nothing else is done.
    pub(crate) limits_events: bool,
    pub(crate) overflow: OversizedEvent,
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) strip_comments: bool,
    pub(crate) detect: Detect,
    pub(crate) sessions: Option<Arc<SessionMapping>>,
    pub(crate) replay: Option<Arc<Replay>>,
    pub(crate) rejection: Option<Rejection>,
    pub(crate) route: Option<Arc<str>>,
}

pub(crate) type Detect = Arc<dyn Fn(&response::Parts) -> bool + Send + Sync>;

impl Policy {
    /// Appends an interceptor to the chain: it sees what those before it let through.
    ///
    /// Takes an [`MakeInterceptor`], or a function `Fn(Event) -> impl Into<Verdict>`; see
    /// [`intercept`](crate::intercept). A closure has its argument annotated: `|event: Event|`.
    ///
    /// With at least one installed, an event stream that cannot be read is refused with 502 instead of passed on unseen: one in
    /// a charset other than UTF-8, in a content coding that cannot be decoded, or cut into a range (206). So is a response whose
    /// `Content-Type` is malformed such that some clients read `text/event-stream` in it (`text /event-stream`), unless
    /// [`detect`](Self::detect) says that it is an event stream, and the interceptors see it. A body that begins with a byte order
    /// mark of UTF-16, UTF-32 or UTF-7 is cut before its first byte, with [`NotUtf8`](crate::ErrorKind::NotUtf8).
    pub fn intercept<M>(mut self, interceptor: impl IntoMakeInterceptor<M>) -> Self {
        self.intercepts
            .push(Arc::new(interceptor.into_make_interceptor()));
        self
    }

    /// The limit, in bytes, for one event and for one line, every byte counted; 16 MiB unless set. It bounds
    /// what an unfinished event can make a stream keep. See also [`overflow`](Self::oversized_event).
    pub fn max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self.limits_events = true;
        self
    }

    /// What an event above the limit comes to; unless set, the stream ends there with an error. It never
    /// passes the interceptors unseen.
    pub fn oversized_event(mut self, overflow: OversizedEvent) -> Self {
        self.overflow = overflow;
        self.limits_events = true;
        self
    }

    /// Sends comments while a stream is silent. Off unless set.
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.keep_alive = Some(keep_alive);
        self
    }

    /// Takes the upstream's comments out of the stream. They are passed on unless set.
    pub fn strip_comments(mut self, strip: bool) -> Self {
        self.strip_comments = strip;
        self
    }

    /// Replaces the question whether a response is an event stream, asked of its head; [`is_event_stream`]
    /// unless set. Responses that have no body (1xx, 204, 304) are never asked about.
    ///
    /// It cannot let a response pass whose `Content-Type` is malformed, as told at [`intercept`](Self::intercept).
    pub fn detect(
        mut self,
        detect: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.detect = Arc::new(detect);
        self
    }

    /// Maps sessions by these rules; there are none unless set. The layer's store keeps them:
    /// [`SseProxyLayer::new`](crate::SseProxyLayer::new).
    pub fn sessions(mut self, sessions: SessionMapping) -> Self {
        self.sessions = Some(Arc::new(sessions));
        self
    }

    /// Keeps what streams have sent, for clients that come back. Nothing is kept unless set.
    pub fn replay(mut self, replay: Replay) -> Self {
        self.replay = Some(Arc::new(replay));
        self
    }

    /// Sets the label by which diagnostics name the streams of this policy; none unless set. Use a template, such as
    /// `/chat/{id}`: nothing of a request is recorded, as its path may hold ids and secrets.
    ///
    /// Each event stream that does not end cleanly leaves one `tracing` event; see
    /// [`SseProxyLayer`](crate::SseProxyLayer#diagnostics).
    pub fn route(mut self, label: impl Into<Arc<str>>) -> Self {
        self.route = Some(label.into());
        self
    }

    /// The same without what is kept, and that.
    pub(crate) fn without_replay(mut self) -> (Self, Option<Replay>) {
        let replay = self.replay.take();
        (self, replay.map(|replay| Replay::clone(&replay)))
    }

    /// A policy by which requests are not passed on but answered with this status and text.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use http::StatusCode;
    /// use tower_sse_proxy::{Policy, SseProxyLayer};
    ///
    /// let closed = Arc::new(Policy::reject(StatusCode::FORBIDDEN, "not for everybody\n"));
    /// let layer = SseProxyLayer::default().policy(move |request| {
    ///     request.uri.path().starts_with("/admin").then(|| Arc::clone(&closed))
    /// });
    /// ```
    pub fn reject(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            rejection: Some(Rejection::new(status, text)),
            ..Self::default()
        }
    }

    pub(crate) fn decoder(&self) -> Decoder {
        Decoder::new(self.max_event_bytes)
            .oversized_event(self.overflow)
            .check_utf8(self.inspects())
    }

    /// Whether nothing is done with event streams, so that they pass untouched.
    pub(crate) fn is_transparent(&self) -> bool {
        self.intercepts.is_empty()
            && self.keep_alive.is_none()
            && !self.strip_comments
            && !self.limits_events
            && self.sessions.is_none()
            && self.replay.is_none()
    }

    /// Whether there is something that must not pass unread: for interceptors, or session ids that are translated.
    pub(crate) fn guards(&self) -> bool {
        let sessions = self.sessions.as_ref();
        !self.intercepts.is_empty() || sessions.is_some_and(|sessions| sessions.reads_events())
    }

    /// Whether bytes that cannot be read must not pass.
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
            overflow: OversizedEvent::default(),
            keep_alive: None,
            strip_comments: false,
            detect: Arc::new(is_event_stream),
            sessions: None,
            replay: None,
            rejection: None,
            route: None,
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("intercepts", &self.intercepts.len())
            .field("max_event_bytes", &self.max_event_bytes)
            .field("overflow", &self.overflow)
            .field("keep_alive", &self.keep_alive)
            .field("strip_comments", &self.strip_comments)
            .field("sessions", &self.sessions)
            .field("replay", &self.replay)
            .field("refusal", &self.rejection)
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}
