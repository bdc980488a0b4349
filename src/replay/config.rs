//! The configuration of recorded streams.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderName, Request, StatusCode, request, response};
use tower::{BoxError, util::BoxCloneSyncService};
use tower_service::Service;

use crate::log::{Retention, StartAt};
use crate::{
    codec::Event,
    upstream::{CompleteWhen, terminal::completes},
};

/// Records event streams, so that a client that reconnects with `Last-Event-ID` misses no event.
///
/// ```
/// use std::time::Duration;
/// use tower_sse_proxy::{SseProxyLayer, replay::{Retention, Replay}};
///
/// let layer = SseProxyLayer::default().replay(
///     Replay::default()
///         .retention(Retention::default().events(500).age(Duration::from_secs(60)))
///         .grace_period(Duration::from_secs(30)),
/// );
/// ```
///
/// Only responses with status 200 are recorded. Each recorded stream has a task, which runs on tokio unless an
/// [`executor`](Self::executor) is set.
///
/// # Event ids
///
/// The layer replaces the id of each event by an [`EventId`](crate::replay::EventId), which names the stream and the event. No client can
/// guess such an id, and the upstream never gets it. The [`StreamId`](crate::replay::StreamId) of a recorded stream is also in the
/// extensions of its responses. With [`preserve_upstream_ids`](Self::preserve_upstream_ids), events keep their ids.
///
/// # Resuming
///
/// A request with such an id in `Last-Event-ID` (WHATWG HTML 9.2.4) gets the events after that event, and then the events to come. The
/// service is not called. The request must have the same [owner](crate::SseProxyLayer::owner), session, host, path and query as the
/// request that opened the stream; for a [shared](Self::share_by) stream, the key replaces path and query. For any other request the id
/// is unknown. A `GET` with an id of another form goes to the service, unless [`reject_foreign_ids`](Self::reject_foreign_ids) is set.
///
/// * **Authorization.** The service, which may check credentials, is not called. Check them in a layer outside of this one, or with
///   [`authorize`](Self::authorize).
/// * **Interceptors** ran when the events were recorded, with the request that opened the stream. The
///   [policy](crate::SseProxyLayer::policy) of the request that resumes has no effect on them.
/// * The body of the request is not read.
///
/// # Methods other than `GET`
///
/// Only a `GET` is ever forwarded to continue a stream. A request with `Last-Event-ID` and another method gets the recorded events, and its
/// response ends as the stream ended. If events were evicted, if the stream is unknown, or if it broke and the client has all its recorded
/// events, the response has the status of a [gap](Self::on_gap), 410 by default. The request is never forwarded, because the service would
/// repeat the action and its cost. A stream that another method opened is not continued by the upstream, except with the
/// [`Mcp`](crate::profile::Mcp) profile and with [`Reconnect::resume_with_get`](crate::reconnect::Reconnect::resume_with_get). An `OPTIONS`
/// request without `Last-Event-ID` is forwarded.
///
/// # Gaps
///
/// If an event after `Last-Event-ID` was evicted, or the stream is unknown, the client gets a report; see [`Gap`].
///
/// # Without a client
///
/// The upstream continues for the [`grace_period`](Self::grace_period) after its last client has left.
///
/// # The end of a stream
///
/// A clean end is final. A `GET` that resumes an ended stream, and has all its events, gets 204, at which an `EventSource` stops
/// (WHATWG HTML 9.2.3), and so does a `HEAD`. Any other method gets 200 and an empty body. The upstream is not called, unless
/// [`continue_after_end`](Self::continue_after_end) is set.
///
/// If the connection broke, or the response ended inside an event, and the upstream gave ids, then the `GET` of a client that has all
/// events is forwarded with the last of these ids, and the response continues the stream. Events that the upstream repeats, with the same
/// id and the same bytes, are dropped.
///
/// A stream that was [closed](crate::Streams::close) cannot be resumed: a `GET` or `HEAD` gets 204, any other method gets
/// 410.
#[derive(Clone)]
pub struct Replay {
    pub(crate) retention: Retention,
    pub(crate) namespace: Arc<str>,
    pub(crate) query_param: Option<Arc<str>>,
    pub(crate) preserve_upstream_ids: bool,
    pub(crate) reject_foreign_ids: bool,
    pub(crate) continue_by_get: bool,
    pub(crate) continue_after_end: bool,
    pub(crate) authorize: Option<Authorize>,
    pub(crate) authorize_timeout: Duration,
    pub(crate) response_headers: Vec<HeaderName>,
    pub(crate) on_gap: Gap,
    pub(crate) detach_when: Option<DetachWhen>,
    pub(crate) grace_period: Duration,
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_detached_bytes: u64,
    pub(crate) complete_when: CompleteWhen,
    pub(crate) priming_event: Option<PrimingEvent>,
    pub(crate) share: Option<Share>,
    pub(crate) executor: Executor,
}

pub(crate) type Authorize = BoxCloneSyncService<Request<()>, StatusCode, BoxError>;
pub(crate) type DetachWhen = Arc<dyn Fn(&request::Parts, &response::Parts) -> bool + Send + Sync>;
pub(crate) type ShareKey = Arc<dyn Fn(&request::Parts) -> Option<String> + Send + Sync>;
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
pub(crate) type Executor = Arc<dyn Fn(Task) + Send + Sync>;

/// How a client learns that it cannot get all events it missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gap {
    /// A `GET` gets an event of type `gap`, with one of these values as its data. The default.
    ///
    /// * `{"reason":"evicted"}`: events were evicted. The remaining events follow.
    /// * `{"reason":"unknown"}`: the stream is unknown. The response ends.
    /// * `{"reason":"failed"}`: the stream broke, and the client has all its recorded events. The response ends.
    ///
    /// In the last two cases the event resets the client's last event id, so that the client begins anew. A client that names the event
    /// in the [query parameter](Replay::query_param) gets a special id with the same effect, because after a reset it would send the id in
    /// its URL again. The response for an unknown stream has no header fields of an upstream. A layer outside of this one has to add the
    /// fields that pages of other origins need (`Access-Control-Allow-Origin`).
    ///
    /// An event is the only report that an `EventSource` can read: it cannot read header fields, and it stops for good at any status
    /// but 200 (WHATWG HTML 9.2.3).
    ///
    /// A request of another method gets status 410. Its client can read a status, and could mistake the remaining events for the complete
    /// rest of the stream.
    #[default]
    Event,
    /// A request of any method gets this status.
    Status(StatusCode),
}

/// Which requests share a stream.
#[derive(Clone)]
pub(crate) struct Share {
    pub(crate) by: ShareKey,
    pub(crate) from: StartAt,
}

/// The event with which a stream begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PrimingEvent {
    pub(crate) retry: Option<Duration>,
}

impl Replay {
    /// Sets how much of each stream its log keeps. The default is 1 MiB for 5 minutes; see [`Retention`].
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Sets the namespace of the paths by which streams are found. Equal paths in two namespaces name different streams. Empty by default.
    ///
    /// A router that nests other routers strips a part of the path. With a namespace for each nested router, streams with the same
    /// remaining path differ.
    pub fn namespace(mut self, name: impl Into<Arc<str>>) -> Self {
        self.namespace = name.into();
        self
    }

    /// Reads the last event id from this query parameter if a request has no `Last-Event-ID`. Off by default. For clients that cannot set
    /// header fields.
    ///
    /// Name and value are decoded once, as in forms (WHATWG URL 5.1), and the name is compared without case. The service never gets the
    /// parameter: an id that is not the layer's own is sent to it in `Last-Event-ID`. If the parameter occurs several times, an id of the
    /// layer counts; without one, different ids get status 400. So does a value that is not a valid header value.
    pub fn query_param(mut self, parameter: impl Into<Arc<str>>) -> Self {
        self.query_param = Some(parameter.into());
        self
    }

    /// Keeps the ids that the upstream gave to its events, and finds streams by these ids. Off by default.
    ///
    /// Such an id finds streams of the same owner, session, host, path and query only. The owner must not be anonymous. Of several streams
    /// with the id, the latest is resumed. A `GET` with an id that is unknown or evicted is forwarded, without a report of a
    /// [gap](Gap), because the upstream may know the id, unless [`reject_foreign_ids`](Self::reject_foreign_ids) is set. After a reconnect,
    /// a client gets events without an id again if they came after the last id it has.
    ///
    /// For clients that interpret ids, or share them with other clients. Otherwise the ids of the layer are safer.
    pub fn preserve_upstream_ids(mut self, preserve: bool) -> Self {
        self.preserve_upstream_ids = preserve;
        self
    }

    /// Reports a [gap](Gap) for every unknown `Last-Event-ID`, instead of forwarding a `GET`. Off by default.
    ///
    /// By default, a `GET` with an id of another form than the layer's goes to the service, which may have given the id to a client that
    /// bypassed the layer. Set this for services that ignore ids: their response would begin anew, and the client would take it for
    /// the continuation.
    pub fn reject_foreign_ids(mut self, reject: bool) -> Self {
        self.reject_foreign_ids = reject;
        self
    }

    /// Continues streams that another method opened by `GET`, as MCP does.
    pub(crate) fn continue_by_get(mut self) -> Self {
        self.continue_by_get = true;
        self
    }

    /// Calls the upstream again after a clean end, when a client resumes. Off by default: a clean end is final, and a `GET` with nothing
    /// missed gets 204.
    ///
    /// For an upstream that ends each response after a while and expects its clients to reconnect. The `GET` of a client that has all
    /// events is then forwarded with the last id of the upstream, and the response continues the same stream. If the upstream gave no id,
    /// the request is forwarded without one, and the response is a new stream: the client may get events again. Neither happens to a
    /// stream that is [complete](Self::complete_when). A stream that another method than `GET` opened is continued only if it would be
    /// after a [broken connection](Self#methods-other-than-get). The [`Mcp`](crate::profile::Mcp) profile sets this.
    pub fn continue_after_end(mut self, again: bool) -> Self {
        self.continue_after_end = again;
        self
    }

    /// Sets a service that authorizes each request that would resume a stream or [join](Self::share_by) one. By default all are admitted.
    ///
    /// The service gets the client's request with its extensions and without its body. It is called before the layer looks for
    /// the stream that a request names. A success (2xx) admits the request. Any other status is the response. The status is 503 if the
    /// service fails, panics, returns an informational status (1xx), or takes longer than [`authorize_timeout`](Self::authorize_timeout). A
    /// rejected client has no effect on the stream. Requests that go to the service inside are not checked here.
    ///
    /// ```
    /// use http::{Request, StatusCode};
    /// use tower::service_fn;
    /// use tower_sse_proxy::replay::Replay;
    ///
    /// let replay = Replay::default().authorize(service_fn(|request: Request<()>| async move {
    ///     let known = request.headers().get("authorization").is_some_and(|token| token == "Bearer mine");
    ///     Ok::<_, std::convert::Infallible>(if known { StatusCode::OK } else { StatusCode::UNAUTHORIZED })
    /// }));
    /// ```
    pub fn authorize<A>(mut self, service: A) -> Self
    where
        A: Service<Request<()>, Response = StatusCode> + Clone + Send + Sync + 'static,
        A::Error: Into<BoxError>,
        A::Future: Send + 'static,
    {
        let service = tower::util::MapErr::new(service, Into::into);
        self.authorize = Some(BoxCloneSyncService::new(service));
        self
    }

    /// Sets the time limit of [`authorize`](Self::authorize). The default is 2 seconds.
    pub fn authorize_timeout(mut self, limit: Duration) -> Self {
        self.authorize_timeout = limit;
        self
    }

    /// Adds a header field of the first response to the responses of clients that resume or join its stream.
    ///
    /// Without this, such responses have only `Content-Type`, `Content-Language`, the header of the
    /// [session](crate::session::SessionMapping::header), and the fields that the layer sets on every event stream. Other fields of the
    /// first response are about its client: CORS fields name its origin, rate limits count its requests. Add a field only if its value is
    /// right for all clients of a stream. A layer outside of this one can compute the others.
    ///
    /// ```
    /// use http::HeaderName;
    /// use tower_sse_proxy::replay::Replay;
    ///
    /// let replay = Replay::default().response_header(HeaderName::from_static("x-model"));
    /// ```
    pub fn response_header(mut self, name: HeaderName) -> Self {
        self.response_headers.push(name);
        self
    }

    /// Sets how a client learns that it cannot get all events it missed. The default is [`Gap::Event`].
    pub fn on_gap(mut self, gap: Gap) -> Self {
        self.on_gap = gap;
        self
    }

    /// Chooses the streams that continue without a client, by the heads of request and response. All recorded streams by default.
    ///
    /// The upstream of any other stream is cancelled when its last client leaves. Its recorded events can still be resumed.
    pub fn detach_when(
        mut self,
        outlives: impl Fn(&request::Parts, &response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.detach_when = Some(Arc::new(outlives));
        self
    }

    /// Sets how long the upstream continues without a client. The default is one minute.
    ///
    /// The upstream is cancelled earlier if the [owner](crate::SseProxyLayer::max_detached_per_owner) or the
    /// [layer](crate::SseProxyLayer::max_detached) has too many such streams, or if the stream exceeds
    /// [`max_detached_bytes`](Self::max_detached_bytes).
    pub fn grace_period(mut self, time: Duration) -> Self {
        self.grace_period = time;
        self
    }

    /// Sets the maximum duration of a stream, with clients or without, however often it is resumed. Unlimited by default. The stream is cut
    /// after that.
    pub fn max_age(mut self, time: Duration) -> Self {
        self.max_age = Some(time);
        self
    }

    /// Sets how many bytes may be written to the log of a stream while it has no client. The default is 64 MiB. The upstream is cancelled
    /// after that.
    ///
    /// The bytes are those of the events and comments that a client would get: after the interceptors, and with the ids of the layer. The
    /// count starts again at 0 when a client resumes or joins the stream.
    pub fn max_detached_bytes(mut self, bytes: u64) -> Self {
        self.max_detached_bytes = bytes;
        self
    }

    /// Recognizes the event after which a stream is complete. A broken connection is then a clean end, and the upstream is never asked to
    /// continue.
    ///
    /// The default recognizes the terminal events of model APIs: the data `[DONE]`, `message_stop` of Anthropic, and `response.completed`,
    /// `response.incomplete` and `response.failed` of OpenAI's Responses.
    pub fn complete_when(
        mut self,
        completes: impl Fn(&Event) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.complete_when = Arc::new(completes);
        self
    }

    /// Begins each stream with an event that has an id and no data, so that a client can resume before the first event of the upstream. With
    /// `Some`, the event also has a `retry` field with this duration. Off by default.
    ///
    /// This is the priming event of MCP 2025-11-25. Other clients may not expect an event without data. With
    /// [`preserve_upstream_ids`](Self::preserve_upstream_ids) this setting has no effect.
    pub fn priming_event(mut self, retry: Option<Duration>) -> Self {
        self.priming_event = Some(PrimingEvent { retry });
        self
    }

    /// Lets requests with the same key share one stream, so that the upstream gets one request. Off by default. A request with the key
    /// `None` shares no stream.
    ///
    /// Only requests of the same owner, session and host share a stream, whatever the key is. Clients with different tokens therefore have
    /// different streams, unless [`owner`](crate::SseProxyLayer::owner) says otherwise. Cookies count only if they are
    /// [credentials](crate::SseProxyLayer::credentials) or part of the key. If all clients may read the same stream, make them one owner,
    /// and check them in a layer outside of this one, because only the first request reaches the service.
    ///
    /// Only a `GET` or `POST` without an id of the upstream shares a stream. A client that joins gets the [header
    /// fields](Self::response_header) of the first response that all clients may have, and starts as [`share_from`](Self::share_from)
    /// says. The stream continues when the client that opened it leaves.
    ///
    /// The fastest reader sets the pace. A slower reader that misses an evicted event is cut with
    /// [`Lagged`](crate::ErrorKind::Lagged), and can resume. The interceptors run once, with the request that opened the stream. For
    /// interceptors that treat clients differently, use a second layer outside of this one.
    ///
    /// ```
    /// use tower_sse_proxy::{SseProxyLayer, replay::Replay};
    ///
    /// let layer = SseProxyLayer::default()
    ///     .owner(|_| Some("everybody")) // all clients read one feed, whatever their credentials are
    ///     .replay(Replay::default().share_by(|request| Some(request.uri.path().to_owned())));
    /// ```
    pub fn share_by(
        mut self,
        key: impl Fn(&request::Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let from = self.share.map_or(StartAt::Live, |share| share.from);
        let by = Arc::new(key);
        self.share = Some(Share { by, from });
        self
    }

    /// Sets where a client starts to read that joins a [shared](Self::share_by) stream. The default is [`StartAt::Live`].
    pub fn share_from(mut self, start: StartAt) -> Self {
        match &mut self.share {
            Some(share) => share.from = start,
            None => {
                let by = Arc::new(|_: &request::Parts| None);
                self.share = Some(Share { by, from: start });
            }
        }
        self
    }

    /// Sets the function that spawns the tasks of streams. The default is `tokio::spawn`, which panics outside of a runtime.
    ///
    /// A task uses the timers of tokio. A dropped task ends its stream.
    ///
    /// ```
    /// use tower_sse_proxy::replay::Replay;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let runtime = tokio::runtime::Handle::current();
    /// let replay = Replay::default().executor(move |task| drop(runtime.spawn(task)));
    /// # }
    /// ```
    pub fn executor(
        mut self,
        spawn: impl Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync + 'static,
    ) -> Self {
        self.executor = Arc::new(spawn);
        self
    }
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            namespace: "".into(),
            query_param: None,
            preserve_upstream_ids: false,
            reject_foreign_ids: false,
            continue_by_get: false,
            continue_after_end: false,
            authorize: None,
            authorize_timeout: Duration::from_secs(2),
            response_headers: Vec::new(),
            on_gap: Gap::default(),
            detach_when: None,
            grace_period: Duration::from_secs(60),
            max_age: None,
            max_detached_bytes: 64 << 20,
            complete_when: Arc::new(completes),
            priming_event: None,
            share: None,
            executor: Arc::new(|task| drop(tokio::spawn(task))),
        }
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("retention", &self.retention)
            .field("namespace", &self.namespace)
            .field("on_gap", &self.on_gap)
            .field("grace_period", &self.grace_period)
            .field("max_age", &self.max_age)
            .field("shared", &self.share.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_the_settings() {
        let debug = format!("{:?}", Replay::default().max_age(Duration::from_secs(5)));
        assert!(debug.contains("grace_period: 60s"), "{debug}");
        assert!(debug.contains("max_age: Some(5s)"), "{debug}");
    }
}
