//! What is kept of streams, for whom, and for how long.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use http::{HeaderName, Request, StatusCode, request, response};
use tower::{BoxError, util::BoxCloneSyncService};
use tower_service::Service;

use crate::log::{Retention, StartAt};
use crate::{codec::Event, upstream::terminal::completes};

/// Keeps what a stream has sent, so that a client which comes back with `Last-Event-ID` misses nothing.
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
/// * **Ids.** Each event gets an id of the layer's own, in the place of the upstream's. It names the stream, unguessably, and the
///   event in it. The upstream never gets to see one. (Or events [keep](Self::preserve_upstream_ids) the ids that they have.)
/// * **Resuming.** A request with such an id in `Last-Event-ID` (WHATWG HTML 9.2.4) is answered with what came after that
///   event, and then with what is still to come, without a call to the service. Only to the same
///   [owner](crate::SseProxyLayer::owner), in the same session, at the same host, path and query: else the id
///   is answered like one that does not exist. (A `GET` with an id that does not have the form of our ids goes to the service as it came,
///   [unless](Self::reject_foreign_ids) there are no others.) The service that would have checked who asks is not asked: a layer
///   further out has to, or [`authorize`](Self::authorize) does. The body of such a request is not read, and what interceptors
///   made of the stream is what they made of it for the request that it began with, whatever
///   [policy](crate::SseProxyLayer::policy) this one has.
/// * **Nothing is sent twice.** Only a `GET` is ever forwarded to continue a stream. A request with `Last-Event-ID` and another
///   method (`POST`, `PUT`, `DELETE` ..) is answered from the log, as far as it goes, and then ends as the stream ended. If nothing
///   is left of the stream, or it broke and the client has all of it, the answer is the status of a [gap](Self::on_gap), 410 unless
///   set. It is never forwarded, also with an id that the layer does not know: the service would do again what was asked for and
///   charge for it again. A stream that was opened by another method than `GET` is not continued by the service either, except
///   with the [`Mcp`](crate::profile::Mcp) profile and with [`Reconnect::resume_with_get`](crate::reconnect::Reconnect::resume_with_get). (A
///   preflight, an `OPTIONS` request without `Last-Event-ID`, is forwarded.)
/// * **Closing.** A stream that was [closed](crate::SseProxyLayer::abort) cannot be resumed: 204 to a `GET`, 410 otherwise.
/// * **Gaps.** What is no longer kept is never passed over in silence; see [`Gap`].
/// * **Leaving.** The upstream goes on sending when its client has left, for as long as [`linger`](Self::grace_period) says.
/// * **Ending.** A clean end is an end. A `GET` that resumes such a stream with nothing missed is answered with 204, at which an
///   `EventSource` stops (WHATWG HTML 9.2.3), and a request with another method with 200 and an empty body; the upstream is not
///   asked again, unless [`continue_after_end`](Self::continue_after_end) says so. If the connection broke, or the answer ended
///   inside an event, and the upstream gave ids, a `GET` with nothing missed is forwarded with the last of them, and the answer
///   continues the stream. What the upstream sends again then, the same id with the same bytes, is not sent on.
///
/// Only answers of status 200 are kept. Its task runs on tokio, unless there is an [executor](Self::executor).
#[derive(Clone)]
pub struct Replay {
    pub(crate) bounds: Retention,
    pub(crate) scope: Arc<str>,
    pub(crate) query: Option<Arc<str>>,
    pub(crate) upstream_ids: bool,
    pub(crate) only_own_ids: bool,
    pub(crate) continues_by_get: bool,
    pub(crate) continues_after_end: bool,
    pub(crate) authorize: Option<Authorize>,
    pub(crate) authorize_timeout: Duration,
    pub(crate) response_headers: Vec<HeaderName>,
    pub(crate) gap: Gap,
    pub(crate) detach: Option<Detach>,
    pub(crate) linger: Duration,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) detached_bytes: u64,
    pub(crate) completes: Completes,
    pub(crate) prime: Option<Prime>,
    pub(crate) share: Option<Share>,
    pub(crate) executor: Executor,
}

pub(crate) type Authorize = BoxCloneSyncService<Request<()>, StatusCode, BoxError>;
pub(crate) type Detach = Arc<dyn Fn(&request::Parts, &response::Parts) -> bool + Send + Sync>;
pub(crate) type Completes = Arc<dyn Fn(&Event) -> bool + Send + Sync>;
pub(crate) type ShareKey = Arc<dyn Fn(&request::Parts) -> Option<String> + Send + Sync>;
pub(crate) type Executor = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

/// What a client is told that cannot have all it missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gap {
    /// A `GET` is answered with an event of the type `gap`, since an `EventSource` cannot read headers and gives up for good on
    /// any status but 200 (WHATWG HTML 9.2.3). Its data is `{"reason":"evicted"}` where some events are no longer kept: then those
    /// follow that are. It is `{"reason":"unknown"}` where nothing is known of the stream, and `{"reason":"failed"}` where the
    /// stream broke and all of it was sent: then the id is reset and the answer ends, so that the client begins anew. (Where the
    /// [address](Replay::query_param) names the event, and not the header, the id becomes one that means so: an address is not reset.)
    ///
    /// Such an answer has no headers of the upstream's, where nothing is known of its stream: what pages of other origins need
    /// (`Access-Control-Allow-Origin`) is for a layer further out to add.
    ///
    /// Any other method is answered with 410: who sent it can read that, and may take what is left of a stream for all of it.
    #[default]
    Event,
    /// This status.
    Status(StatusCode),
}

/// Which requests ride on one stream.
#[derive(Clone)]
pub(crate) struct Share {
    pub(crate) by: ShareKey,
    pub(crate) join: StartAt,
}

/// What a stream begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prime {
    pub(crate) retry: Option<Duration>,
}

impl Replay {
    /// How much is kept of each stream.
    pub fn retention(mut self, bounds: Retention) -> Self {
        self.bounds = bounds;
        self
    }

    /// Names the place that the paths of requests are in; none unless set. A router that nests others takes away the beginning of
    /// a path: with a name for each, streams of the same rest are told apart.
    pub fn namespace(mut self, name: impl Into<Arc<str>>) -> Self {
        self.scope = name.into();
        self
    }

    /// Takes the last id from this parameter of the query, too, if there is no `Last-Event-ID`: for clients that cannot set a
    /// header. None unless set. The name and the value are decoded once, as forms are (WHATWG URL 5.1), and the name is compared
    /// without case.
    ///
    /// The service never sees the parameter. An id that is not one of the layer's reaches it in `Last-Event-ID`. Several
    /// different ids, and a value that no header can hold, are answered with 400.
    pub fn query_param(mut self, parameter: impl Into<Arc<str>>) -> Self {
        self.query = Some(parameter.into());
        self
    }

    /// Leaves events the ids that the upstream gave them, and finds a stream by those; off unless set.
    ///
    /// Such an id is looked for only among the streams of the same owner, who has to be somebody, in the same session, at the same
    /// host, path and query; among several it is that of the stream which began last. One that is not found, or no longer kept, is in
    /// a `GET` for the upstream, which knows what came after it or does not: nobody is told of a [gap](Gap). Events without an id come
    /// again to a client that has seen them since the last id. For clients that make something of ids, or share them with others;
    /// else the layer's own are safer.
    pub fn preserve_upstream_ids(mut self, keep: bool) -> Self {
        self.upstream_ids = keep;
        self
    }

    /// Takes an id that is not found for one of ours that is lost, whatever its form, and tells of a [gap](Gap). Off unless set: in
    /// a `GET` it goes to the service, which may have given it to a client that came around the layer. For services that make nothing of
    /// ids: what they begin anew would pass for what follows on an id that was cut off or made up.
    pub fn reject_foreign_ids(mut self, only: bool) -> Self {
        self.only_own_ids = only;
        self
    }

    /// Streams that another method than `GET` opened are continued by `GET`, as the protocol says.
    pub(crate) fn continues_by_get(mut self) -> Self {
        self.continues_by_get = true;
        self
    }

    /// Asks the upstream again after a clean end. Off unless set: a clean end is the end of the stream, and a `GET` that resumes it
    /// with nothing missed is answered with 204.
    ///
    /// For an upstream that ends each answer after a while and expects its clients to come back. A `GET` of a client that has all
    /// events is then forwarded, with the last id that the upstream gave, and its answer continues the same stream. If the upstream
    /// gave no id, the request is forwarded as one that comes for the first time, and its answer is a new stream: whatever the
    /// upstream sends again then, the client gets again. Neither happens once the stream is [complete](Self::complete_when).
    /// Only a stream that was opened by `GET` is continued. (The [`Mcp`](crate::profile::Mcp) profile sets this,
    /// for streams of `POST` too.)
    pub fn continue_after_end(mut self, again: bool) -> Self {
        self.continues_after_end = again;
        self
    }

    /// Asks this service about each request that would resume a stream, before anything is looked up, and about each that would
    /// [join](Self::share_by) one: a success (2xx) lets it, any other status is the answer. The request is the client's, with its
    /// extensions and without its body. Requests that the service inside answers are for that service to decide about.
    ///
    /// The answer is 503 if this service fails, panics, answers with an informational status (1xx), or takes longer than
    /// [`authorize_timeout`](Self::authorize_timeout). A client that is refused has no effect on the stream.
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

    /// How long [`authorize`](Self::authorize) may take; 2 s unless set.
    pub fn authorize_timeout(mut self, limit: Duration) -> Self {
        self.authorize_timeout = limit;
        self
    }

    /// Adds a header of the first response to the responses of clients that resume or join its stream.
    ///
    /// The others get `Content-Type`, `Content-Language` and the header of the [session](crate::session::SessionMapping::header), if there
    /// are any, and nothing else of what the upstream said to the first client: its CORS headers name another origin, its rate
    /// limits count other requests. Add a header only if its value is right for all clients of a stream; a layer further out
    /// can compute the ones that are not.
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

    /// What a client is told that cannot have all it missed; [`Gap::Event`] unless set.
    pub fn on_gap(mut self, gap: Gap) -> Self {
        self.gap = gap;
        self
    }

    /// Which streams outlive their client, by the head of the request and that of the answer; all that are kept unless set.
    /// With the others the upstream is let go of when the last client leaves, and what was sent until then can be resumed.
    pub fn detach_when(
        mut self,
        outlives: impl Fn(&request::Parts, &response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.detach = Some(Arc::new(outlives));
        self
    }

    /// How long the upstream goes on without a client; a minute unless set. It ends sooner if the
    /// [owner](crate::SseProxyLayer::max_detached_per_owner) or the [layer](crate::SseProxyLayer::max_detached) has too many
    /// such streams.
    pub fn grace_period(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// How long a stream may last in all, with clients or without, however often clients resume it; without end unless set. Then
    /// it is cut.
    pub fn max_age(mut self, time: Duration) -> Self {
        self.lifetime = Some(time);
        self
    }

    /// How many bytes an upstream may send without a client before it is let go of; 64 MiB unless set.
    pub fn max_detached_bytes(mut self, bytes: u64) -> Self {
        self.detached_bytes = bytes;
        self
    }

    /// Tells by an event that all of the stream was sent, whatever comes after it: then a broken connection is a clean end too, and
    /// the upstream is never asked to continue. Unless set, by the terminal events of model APIs: the data `[DONE]`, Anthropic's
    /// `message_stop`, and `response.completed`, `response.incomplete` and `response.failed` of OpenAI's Responses.
    pub fn complete_when(
        mut self,
        completes: impl Fn(&Event) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.completes = Arc::new(completes);
        self
    }

    /// Begins each stream with an event that has an id and no data, so that it can be resumed before the first event of the
    /// upstream has come; with a `retry` of this many milliseconds, if there is one. Off unless set.
    ///
    /// It is what MCP 2025-11-25 does. Clients of other kinds may not expect an event without data.
    pub fn priming_event(mut self, retry: Option<Duration>) -> Self {
        self.prime = Some(Prime { retry });
        self
    }

    /// Lets requests with the same key ride on one stream of the upstream, which is asked once. None do unless set, and none for
    /// which the key is `None`. Only those of the same owner, session and host do, whatever the key, and only a `GET` or a `POST`
    /// that names no event of the upstream's: what came after that is for the upstream to send.
    ///
    /// So, unless [`owner`](crate::SseProxyLayer::owner) says otherwise, clients with different tokens have different streams.
    /// Cookies count only if they are [credentials](crate::SseProxyLayer::credentials) or part of the key. Where all clients may
    /// see the same stream, make them one owner, and check them in a layer further out, because only the first request of a
    /// stream gets to the service.
    ///
    /// Whoever comes later gets what [other clients may have](Self::response_header) of the first head, and begins as [`share_from`](Self::share_from) says. What the first one
    /// leaves behind is the others' to use. A reader that is too slow for what is kept is cut, with
    /// [`Lagged`](crate::ErrorKind::Lagged), and can resume; it holds nobody up. The interceptors run once, and see the head of
    /// the request that opened the stream: what differs from client to client is for a second layer outside.
    ///
    /// ```
    /// use tower_sse_proxy::{SseProxyLayer, replay::Replay};
    ///
    /// let layer = SseProxyLayer::default()
    ///     .owner(|_| Some("everybody")) // one feed for all, whatever they prove themselves by
    ///     .replay(Replay::default().share_by(|request| Some(request.uri.path().to_owned())));
    /// ```
    pub fn share_by(
        mut self,
        key: impl Fn(&request::Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let join = self.share.map_or(StartAt::Live, |share| share.join);
        let by = Arc::new(key);
        self.share = Some(Share { by, join });
        self
    }

    /// Where a client begins that joins a [shared](Self::share_by) stream; [`StartAt::Live`] unless set.
    pub fn share_from(mut self, join: StartAt) -> Self {
        match &mut self.share {
            Some(share) => share.join = join,
            None => {
                let by = Arc::new(|_: &request::Parts| None);
                self.share = Some(Share { by, join });
            }
        }
        self
    }

    /// Runs the tasks of streams by this; by `tokio::spawn` unless set, which panics outside of a runtime.
    pub fn executor(
        mut self,
        spawn: impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static,
    ) -> Self {
        self.executor = Arc::new(spawn);
        self
    }
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            bounds: Retention::default(),
            scope: "".into(),
            query: None,
            upstream_ids: false,
            only_own_ids: false,
            continues_by_get: false,
            continues_after_end: false,
            authorize: None,
            authorize_timeout: Duration::from_secs(2),
            response_headers: Vec::new(),
            gap: Gap::default(),
            detach: None,
            linger: Duration::from_secs(60),
            lifetime: None,
            detached_bytes: 64 << 20,
            completes: Arc::new(completes),
            prime: None,
            share: None,
            executor: Arc::new(|task| drop(tokio::spawn(task))),
        }
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("bounds", &self.bounds)
            .field("scope", &self.scope)
            .field("gap", &self.gap)
            .field("linger", &self.linger)
            .field("lifetime", &self.lifetime)
            .field("shared", &self.share.is_some())
            .finish_non_exhaustive()
    }
}
