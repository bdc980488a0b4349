//! The settings of the watchdogs.

use std::{fmt, sync::Arc, time::Duration};

use http::{Request, StatusCode, request};
use tokio::time::Instant;
use tower::BoxError;
use tower_service::Service;

use super::{housekeeper::Housekeeper, jitter::shortened, recheck::Recheck};
use crate::{
    codec::Event,
    observe::{EventClass, LiveStream},
    upstream::stream_watch::Classify,
};

type ExpiresIn = Arc<dyn Fn(&request::Parts) -> Option<Duration> + Send + Sync>;

/// Limits on how long an event stream may be silent, and on its age. Set it with [`Policy::watchdog`](crate::Policy::watchdog).
///
/// A stream that exceeds a limit is reported to [observers](crate::observe::StreamObserver::watchdog) and ends with the outcome
/// [`Stalled`](crate::observe::StreamOutcome::Stalled), or [`Expired`](crate::observe::StreamOutcome::Expired) for its age: the client gets
/// the error event of the stream's API, if the API is known, and then a cut. With [`observe_only`](Self::observe_only) it is only reported.
/// With `reconnect` (feature `reconnect`) the layer first asks a silent upstream to continue.
///
/// Silence is measured by content: comments, pings, and events that carry only metadata do not end it. See [`EventClass`] and
/// [`classify`](Self::classify). Time in which the layer waits for the client or for an interceptor does not count as silence of the
/// upstream.
///
/// A stream that exceeds a limit ends within a second. No limit is set by default; [operating] recommends some.
///
/// [operating]: crate::guide::operating#watchdogs
///
/// ```
/// use std::time::Duration;
/// use tower_sse_proxy::{SseProxyLayer, Watchdog};
///
/// let layer = SseProxyLayer::default().watchdog(
///     Watchdog::default()
///         .head(Duration::from_secs(60))
///         .first_content(Duration::from_secs(900))
///         .content_gap(Duration::from_secs(300))
///         .write_stall(Duration::from_secs(60))
///         .max_age(Duration::from_secs(4 * 3600)),
/// );
/// ```
#[derive(Clone, Default)]
pub struct Watchdog {
    pub(crate) head: Option<Duration>,
    pub(crate) limits: Limits,
    pub(crate) classify: Option<Classify>,
    expires_in: Option<ExpiresIn>,
    recheck: Option<Recheck>,
}

/// The limits of one stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) first_content: Option<Duration>,
    pub(crate) gap: Option<Duration>,
    pub(crate) write_stall: Option<Duration>,
    pub(crate) max_age: Option<Duration>,
    /// The time that the user's function has computed.
    pub(crate) expires_in: Option<Duration>,
    pub(crate) only_observes: bool,
    /// Whether the layer asks a silent upstream to continue before it ends the stream.
    pub(crate) reconnects: bool,
}

impl Limits {
    pub(crate) fn any(&self) -> bool {
        let limits = [self.first_content, self.gap, self.write_stall, self.max_age];
        limits.iter().any(Option::is_some) || self.expires_in.is_some()
    }

    /// When a stream expires whose request arrived at `arrived`. Its maximum age is shortened at random by up to a tenth, so that
    /// streams that began together do not end together.
    pub(crate) fn expires_at(&self, arrived: Instant) -> Option<Instant> {
        let age = self.max_age.map(shortened);
        let at = [age, self.expires_in].into_iter().flatten().min()?;
        // A time that is too far away for the clock is no limit.
        arrived.checked_add(at)
    }
}

impl Watchdog {
    /// Limits the time from the arrival of the request to the head of the upstream's response. Applies to requests whose `Accept`
    /// names `text/event-stream`. The client gets 504 (RFC 9110 15.6.5).
    pub fn head(mut self, limit: Duration) -> Self {
        self.head = Some(limit);
        self
    }

    /// Limits the time from the head of the upstream's response to the first event with content.
    pub fn first_content(mut self, limit: Duration) -> Self {
        self.limits.first_content = Some(limit);
        self
    }

    /// Limits the time between two events with content.
    pub fn content_gap(mut self, limit: Duration) -> Self {
        self.limits.gap = Some(limit);
        self
    }

    /// Limits the time in which the client takes none of the data that is ready for it. Applies to streams that are not recorded: a recorded
    /// stream continues without its clients.
    ///
    /// The layer sees that a client takes something when its server asks for the next frame, of at most 256 KiB. So the limit also ends the
    /// stream of a client that takes less than a frame in that time. It also counts from the head of the response until the server asks for
    /// the first frame: an HTTP/2 server does not ask while the client's flow control window is shut.
    pub fn write_stall(mut self, limit: Duration) -> Self {
        self.limits.write_stall = Some(limit);
        self
    }

    /// Limits the age of a stream, from the arrival of the request on. The limit of each stream is shortened at random by up to a
    /// tenth, so that streams that began together do not end together.
    pub fn max_age(mut self, limit: Duration) -> Self {
        self.limits.max_age = Some(limit);
        self
    }

    /// Sets a function that computes from the head of a request how long its stream may run, counted from the arrival of the request:
    /// usually until a token of the client expires. `None` is no limit.
    pub fn expires_in(
        mut self,
        expires_in: impl Fn(&request::Parts) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.expires_in = Some(Arc::new(expires_in));
        self
    }

    /// Checks again and again whether the client may still read its stream, with this time between two checks. The time of each stream is
    /// shortened at random by up to a tenth.
    ///
    /// The service gets the request that opened the stream, with its extensions and without its body. A success (2xx) lets the stream
    /// continue. Any other final status ends it with the outcome [`Revoked`](crate::observe::StreamOutcome::Revoked); a recorded stream
    /// can then no longer be resumed.
    ///
    /// If the service fails, panics, returns an informational status (1xx), or takes longer than 10 seconds or the time between two
    /// checks, the stream continues, because an outage of the service would otherwise end all streams at once. After three such checks in a
    /// row the stream ends as revoked.
    ///
    /// The service is called in a separate task. A shared stream is checked with the request that opened it; the clients that join it are
    /// checked by [`Replay::authorize`](crate::replay::Replay::authorize). A time of zero is taken for one second.
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::{Request, StatusCode};
    /// use tower::service_fn;
    /// use tower_sse_proxy::Watchdog;
    ///
    /// let session = service_fn(|request: Request<()>| async move {
    ///     let is_valid = request.headers().contains_key("authorization"); // ask the session store here
    ///     Ok::<_, std::convert::Infallible>(if is_valid { StatusCode::OK } else { StatusCode::UNAUTHORIZED })
    /// });
    /// let watchdog = Watchdog::default().recheck(session, Duration::from_secs(60));
    /// ```
    pub fn recheck<S>(mut self, service: S, every: Duration) -> Self
    where
        S: Service<Request<()>, Response = StatusCode> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        self.recheck = Some(Recheck::new(service, every));
        self
    }

    /// Sets the function that classifies events. Unless set, the layer knows the events of MCP and of the model APIs of OpenAI,
    /// Anthropic and Gemini; any other event is content, unless it has no data or its name is `ping`, `keepalive`, `keep-alive` or
    /// `heartbeat`.
    ///
    /// The layer calls it for complete and unfinished events. Of the events that arrive together, it is not called for those after the
    /// first one with content.
    pub fn classify(
        mut self,
        classify: impl Fn(&Event) -> EventClass + Send + Sync + 'static,
    ) -> Self {
        self.classify = Some(Arc::new(classify));
        self
    }

    /// Continues a stream with another request, as if the connection had broken, if its upstream is silent for longer than
    /// [`first_content`](Self::first_content) or [`content_gap`](Self::content_gap). Off by default.
    ///
    /// It applies to streams that the layer [reconnects](crate::SseProxyLayer::reconnect). The limit begins anew with the next request.
    /// If the upstream sends no content for as long again, or does not answer, the stream ends. The [delay](crate::reconnect::Backoff) before
    /// the request does not count.
    #[cfg(feature = "reconnect")]
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.limits.reconnects = reconnect;
        self
    }

    /// Reports streams that exceed a limit, and does not end them. Off by default.
    pub fn observe_only(mut self, observe_only: bool) -> Self {
        self.limits.only_observes = observe_only;
        self
    }

    /// Starts the checks whether this client may still read its stream, which opens now.
    pub(crate) fn start_recheck(
        &self,
        live: &Arc<LiveStream>,
        client: &Arc<request::Parts>,
        housekeeper: &Arc<Housekeeper>,
    ) {
        if let Some(recheck) = &self.recheck {
            recheck.start(live, client, !self.limits.only_observes, housekeeper);
        }
    }

    /// The limits of the stream that this request opens.
    pub(crate) fn limits_for(&self, client: Option<&request::Parts>) -> Limits {
        let expires_in = self.expires_in.as_ref().zip(client);
        Limits {
            expires_in: expires_in.and_then(|(expires_in, client)| expires_in(client)),
            ..self.limits
        }
    }
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog")
            .field("head", &self.head)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
