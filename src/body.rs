//! The body of a response: passed through, or an event stream written anew.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tower::BoxError;

use crate::{
    downstream::{keep_alive::KeepAlive, stream::Stream, unread::Unread},
    error::{Error, ErrorKind},
    log::Reader,
    observe::report::StreamReport,
    rejection::Rejection,
    session::{SessionLease, SessionMapping},
    upstream::Pull,
};

pin_project! {
    /// The body of a response that went through [`SseProxy`](crate::SseProxy).
    ///
    /// Of a response that is not an event stream, or with which the layer does nothing, it is the upstream's body and nothing else: the same frames,
    /// trailers, size hint and errors (by [`source`](std::error::Error::source)). Only session ids are taken out of trailers.
    ///
    /// Of an event stream it pulls the upstream when it is polled: there is no task and no channel, so a client
    /// that does not read holds the upstream back, and dropping the body cancels it. It wakes itself to
    /// collect what is ready, until two polls in a row bring nothing new, or not at all where that has brought nothing for a
    /// while. It needs tokio's timer for keep-alive, for interceptors with deadlines, and after an error. An error is preceded by
    /// a pause in which a server sends what it has buffered, since an HTTP/1 server closes and an HTTP/2 server resets without
    /// doing so. It lasts until the frames before it have been let go of, but at most 5 s: a reader that keeps them, as one that
    /// collects a body does, waits that long.
    ///
    /// It can be named, boxed and wrapped like any body:
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
        sessions: Option<Arc<SessionMapping>>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Passed { #[pin] body: B },
        // An event stream that the layer does not read.
        Unread { #[pin] stream: Unread<B> },
        // Boxed: most responses are not streams and should not carry the room for one.
        Stream { stream: Pin<Box<Stream<Pull<B>>>>, _lease: Option<SessionLease> },
        Kept { stream: Pin<Box<Stream<Reader>>> },
        Own { body: Full<Bytes> },
    }
}

impl<B> SseBody<B> {
    pub(crate) fn passed(body: B) -> Self {
        Self {
            kind: Kind::Passed { body },
            sessions: None,
        }
    }

    /// An event stream that is passed on as it is.
    pub(crate) fn unread(body: B, report: StreamReport) -> Self {
        let stream = Unread::new(body, report);
        Self {
            kind: Kind::Unread { stream },
            sessions: None,
        }
    }

    pub(crate) fn own(text: impl Into<Bytes>) -> Self {
        Self {
            kind: Kind::Own {
                body: Full::new(text.into()),
            },
            sessions: None,
        }
    }

    /// The response for a request that the layer rejects.
    pub(crate) fn rejection(rejection: Rejection) -> Response<Self> {
        let (head, body) = rejection.into_parts();
        Response::from_parts(head, Self::own(body))
    }

    pub(crate) fn stream(
        pull: Pull<B>,
        keep_alive: Option<KeepAlive>,
        lease: Option<SessionLease>,
    ) -> Self {
        let stream = Box::pin(Stream::new(pull, keep_alive));
        Self {
            kind: Kind::Stream {
                stream,
                _lease: lease,
            },
            sessions: None,
        }
    }

    /// What is kept of a stream, and what is still to come.
    pub(crate) fn kept(reader: Reader, keep_alive: Option<KeepAlive>) -> Self {
        let stream = Box::pin(Stream::new(reader, keep_alive));
        Self {
            kind: Kind::Kept { stream },
            sessions: None,
        }
    }

    /// Lets no id out in the trailers.
    pub(crate) fn in_sessions(mut self, sessions: Option<Arc<SessionMapping>>) -> Self {
        self.sessions = sessions;
        self
    }
}

/// The body of a response that some middleware makes up, as `tower_http::timeout` does: that of the default of `B`.
impl<B: Default> Default for SseBody<B> {
    fn default() -> Self {
        Self::passed(B::default())
    }
}

impl<B> Body for SseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        let frame = match this.kind.project() {
            KindProj::Passed { body } => body
                .poll_frame(cx)
                .map_err(|error| Error::with_source(ErrorKind::Upstream, error)),
            KindProj::Unread { stream } => stream.poll_frame(cx),
            KindProj::Stream { stream, .. } => stream.as_mut().poll_frame(cx),
            KindProj::Kept { stream } => stream.as_mut().poll_frame(cx),
            KindProj::Own { body } => Pin::new(body)
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
            Kind::Passed { body } => body.is_end_stream(),
            Kind::Unread { stream } => stream.is_end_stream(),
            Kind::Stream { stream, .. } => stream.is_done(),
            Kind::Kept { stream } => stream.is_done(),
            Kind::Own { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passed { body } => body.size_hint(),
            Kind::Unread { stream } => stream.body.size_hint(),
            Kind::Stream { .. } | Kind::Kept { .. } => SizeHint::default(),
            Kind::Own { body } => body.size_hint(),
        }
    }
}

/// Names what the body is, and shows nothing of what is in it.
impl<B> fmt::Debug for SseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Passed { .. } | Kind::Unread { .. } => "passed through",
            Kind::Stream { .. } => "event stream",
            Kind::Kept { .. } => "event stream that is kept",
            Kind::Own { .. } => "own",
        };
        f.debug_tuple("SseBody").field(&kind).finish()
    }
}
