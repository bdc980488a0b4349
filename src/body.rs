//! The response body of the layer: [`SseBody`].

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tower::BoxError;

use crate::{
    downstream::{
        early::{Early, EarlyStep, Failing},
        keep_alive::KeepAlive,
        stream::Stream,
        untouched::Untouched,
        whole::Whole,
    },
    error::{Error, ErrorKind},
    live::Attached,
    log::Reader,
    observe::{StreamReport, StreamSlot},
    rejection::Rejection,
    session::{SessionLease, SessionMapping},
    upstream::{Pull, body::RawBody},
};

pin_project! {
    /// The body of a response that went through [`SseProxy`](crate::SseProxy).
    ///
    /// If the response is not an event stream, or if no setting of the layer applies to it, this is the body of the upstream: the
    /// same frames, trailers, size hint and errors (by [`source`](std::error::Error::source)). The only change is that session
    /// ids are removed from trailers if sessions are mapped.
    ///
    /// If the layer reads the event stream, polling this body polls the upstream, without a task or a channel:
    ///
    /// * A client that does not read applies backpressure to the upstream.
    /// * Dropping the body cancels the upstream request.
    /// * Events that are ready are merged into one frame. To collect them, the body wakes its own task, until two polls in a row
    ///   bring no new event. After single events it skips this for a while.
    ///
    /// A JSON body that [interceptors](crate::Policy::inspect_json) have seen is in memory as a whole, with its trailers.
    ///
    /// The body of a [recorded](crate::replay) stream reads the log of the stream instead. A task reads the upstream, and
    /// [`Replay`](crate::replay::Replay) says how long it continues without a client.
    ///
    /// # Errors
    ///
    /// See [`Error`](crate::Error). An HTTP/1 server closes the connection and an HTTP/2 server resets the stream as soon as a
    /// body fails, without sending the frames that it has buffered. So the body delays an error until the server has dropped the
    /// frames before it and 100 ms have passed, but for at most 5 s. A reader that keeps all frames, such as one that collects
    /// the body, waits for these 5 s.
    ///
    /// # Panics
    ///
    /// Polling panics outside of a tokio runtime with a timer if there is a [`KeepAlive`](crate::KeepAlive), if an interceptor
    /// has a deadline, or if the stream fails.
    ///
    /// # Example
    ///
    /// The type can be named, boxed and wrapped like any body:
    ///
    /// ```
    /// use axum::body::Body;
    /// use http::{Request, Response};
    /// use http_body_util::BodyExt;
    /// use tower::Service;
    /// use tower_sse_proxy::{SseBody, SseProxy};
    ///
    /// async fn events<S>(mut proxy: SseProxy<S>, request: Request<Body>) -> Result<(), S::Error>
    /// where
    ///     S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    ///     S::Future: Send,
    ///     S::Error: Send,
    /// {
    ///     let mut body: SseBody<Body> = proxy.call(request).await?.into_body();
    ///     while let Some(frame) = body.frame().await {
    ///         match frame {
    ///             Ok(frame) => println!("{frame:?}"),
    ///             Err(error) => println!("cut: {error}"),
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub struct SseBody<B> {
        #[pin]
        kind: Kind<B>,
        // Removes session ids from trailers.
        sessions: Option<Arc<SessionMapping>>,
        // The place of the stream, if the number of streams is limited.
        _slot: Option<Arc<StreamSlot>>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        // A body that is not an event stream, unchanged.
        PassThrough { #[pin] body: B },
        // An event stream that the layer passes on untouched.
        Untouched { #[pin] stream: Untouched<B> },
        // An event stream that the client pulls through the interceptors. Boxed, so that the bodies of other responses stay small.
        Inspected { stream: Pin<Box<Stream<Pull<B>>>>, _lease: Option<SessionLease> },
        // The same for a stream that is observed.
        Attached { stream: Pin<Box<Stream<Attached<B>>>>, _lease: Option<SessionLease> },
        // The reader of a recorded stream.
        Recorded { stream: Pin<Box<Stream<Reader>>> },
        // A stream with an early head, before the upstream has answered.
        Early { early: Box<Early<SseBody<B>>> },
        // The same, once the upstream has answered.
        Late { body: Pin<Box<SseBody<B>>> },
        // A stream that failed behind an early head.
        Failing { stream: Pin<Box<Stream<Failing>>> },
        // A JSON body that the interceptors have seen. Boxed, so that the bodies of other responses stay small.
        Whole { body: Box<Whole> },
        // A text of the layer.
        Fixed { body: Full<Bytes> },
    }
}

impl<B> SseBody<B> {
    /// A body that is not an event stream, unchanged.
    pub(crate) fn pass_through(body: B) -> Self {
        Self {
            kind: Kind::PassThrough { body },
            sessions: None,
            _slot: None,
        }
    }

    /// An event stream that the layer passes on untouched.
    pub(crate) fn untouched(body: RawBody<B>, report: StreamReport) -> Self
    where
        B: Send + 'static,
    {
        let stream = Untouched::new(body, report);
        Self {
            kind: Kind::Untouched { stream },
            sessions: None,
            _slot: None,
        }
    }

    /// A body that the layer has read as a whole.
    pub(crate) fn whole(bytes: Bytes, trailers: Option<HeaderMap>, size_hint: SizeHint) -> Self {
        Self {
            kind: Kind::Whole {
                body: Box::new(Whole::new(bytes, trailers, size_hint)),
            },
            sessions: None,
            _slot: None,
        }
    }

    /// A body with a text of the layer.
    pub(crate) fn fixed(text: impl Into<Bytes>) -> Self {
        Self {
            kind: Kind::Fixed {
                body: Full::new(text.into()),
            },
            sessions: None,
            _slot: None,
        }
    }

    /// The response for a request that the layer rejects.
    pub(crate) fn rejection(rejection: Rejection) -> Response<Self> {
        let (head, body) = rejection.into_parts();
        Response::from_parts(head, Self::fixed(body))
    }

    /// An event stream that the client pulls through the interceptors. The lease of its session ends with the body.
    pub(crate) fn inspected(
        pull: Pull<B>,
        keep_alive: Option<KeepAlive>,
        lease: Option<SessionLease>,
    ) -> Self {
        let stream = Box::pin(Stream::new(pull, keep_alive));
        Self {
            kind: Kind::Inspected {
                stream,
                _lease: lease,
            },
            sessions: None,
            _slot: None,
        }
    }

    /// As [`inspected`](Self::inspected), for a stream that is observed.
    pub(crate) fn attached(
        upstream: Attached<B>,
        keep_alive: Option<KeepAlive>,
        lease: Option<SessionLease>,
    ) -> Self {
        let stream = Box::pin(Stream::new(upstream, keep_alive));
        Self {
            kind: Kind::Attached {
                stream,
                _lease: lease,
            },
            sessions: None,
            _slot: None,
        }
    }

    /// A recorded stream from the position of `reader`: its stored events, then its new ones.
    pub(crate) fn recorded(reader: Reader, keep_alive: Option<KeepAlive>) -> Self {
        let stream = Box::pin(Stream::new(reader, keep_alive));
        Self {
            kind: Kind::Recorded { stream },
            sessions: None,
            _slot: None,
        }
    }

    /// A stream with an early head.
    pub(crate) fn early(
        body: Pin<Box<dyn Future<Output = Self> + Send>>,
        keep_alive: KeepAlive,
    ) -> Self {
        let early = Box::new(Early::new(body, keep_alive));
        Self {
            kind: Kind::Early { early },
            sessions: None,
            _slot: None,
        }
    }

    /// A stream that fails after this last event.
    pub(crate) fn failing(last: Bytes, error: Error) -> Self {
        let stream = Box::pin(Stream::new(Failing::new(last, error), None));
        Self {
            kind: Kind::Failing { stream },
            sessions: None,
            _slot: None,
        }
    }

    /// Holds the place of the stream until the body is dropped.
    pub(crate) fn with_slot(mut self, slot: Option<Arc<StreamSlot>>) -> Self {
        self._slot = slot;
        self
    }

    /// Removes the session ids of this mapping from trailers.
    pub(crate) fn with_session_mapping(mut self, sessions: Option<Arc<SessionMapping>>) -> Self {
        self.sessions = sessions;
        self
    }
}

/// Passes the default of `B` through. Middlewares such as `tower_http::timeout` create responses with such a body.
impl<B: Default> Default for SseBody<B> {
    fn default() -> Self {
        Self::pass_through(B::default())
    }
}

impl<B> Body for SseBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    #[inline] // See `Source::poll_frames` of `Pull`.
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        if let KindProj::Early { early } = this.kind.as_mut().project() {
            match ready!(early.poll(cx)) {
                EarlyStep::Comment(comment) => return Poll::Ready(Some(Ok(Frame::data(comment)))),
                EarlyStep::Response(body) => {
                    let body = Box::pin(body);
                    this.kind.set(Kind::Late { body });
                }
            }
        }
        let frame = match this.kind.project() {
            KindProj::PassThrough { body } => body
                .poll_frame(cx)
                .map_err(|error| Error::with_source(ErrorKind::Upstream, error)),
            KindProj::Untouched { stream } => stream.poll_frame(cx),
            KindProj::Inspected { stream, .. } => stream.as_mut().poll_frame(cx),
            KindProj::Attached { stream, .. } => stream.as_mut().poll_frame(cx),
            KindProj::Recorded { stream } => stream.as_mut().poll_frame(cx),
            KindProj::Early { .. } => Poll::Pending,
            KindProj::Late { body } => body.as_mut().poll_frame(cx),
            KindProj::Failing { stream } => stream.as_mut().poll_frame(cx),
            KindProj::Whole { body } => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            KindProj::Fixed { body } => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
        };
        frame.map_ok(|mut frame| {
            if let (Some(sessions), Some(trailers)) = (this.sessions, frame.trailers_mut()) {
                sessions.strip_trailers(trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::PassThrough { body } => body.is_end_stream(),
            Kind::Untouched { stream } => stream.is_end_stream(),
            Kind::Inspected { stream, .. } => stream.is_done(),
            Kind::Attached { stream, .. } => stream.is_done(),
            Kind::Recorded { stream } => stream.is_done(),
            Kind::Early { .. } => false,
            Kind::Late { body } => body.is_end_stream(),
            Kind::Failing { stream } => stream.is_done(),
            Kind::Whole { body } => body.is_end_stream(),
            Kind::Fixed { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::PassThrough { body } => body.size_hint(),
            Kind::Untouched { stream } => stream.size_hint(),
            Kind::Inspected { .. }
            | Kind::Attached { .. }
            | Kind::Recorded { .. }
            | Kind::Early { .. }
            | Kind::Late { .. }
            | Kind::Failing { .. } => SizeHint::default(),
            Kind::Whole { body } => body.size_hint(),
            Kind::Fixed { body } => body.size_hint(),
        }
    }
}

/// Shows the kind of the body, not its contents.
impl<B> fmt::Debug for SseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::PassThrough { .. } | Kind::Untouched { .. } => "passed through",
            Kind::Inspected { .. } | Kind::Attached { .. } => "event stream",
            Kind::Early { .. } | Kind::Late { .. } | Kind::Failing { .. } => {
                "event stream with an early head"
            }
            Kind::Recorded { .. } => "recorded event stream",
            Kind::Whole { .. } => "JSON body",
            Kind::Fixed { .. } => "text of the layer",
        };
        f.debug_tuple("SseBody").field(&kind).finish()
    }
}
