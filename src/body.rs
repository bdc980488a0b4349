//! The body of a response: passed through, or an event stream written anew.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    error::{Error, ErrorKind},
    frames::Frames,
    keep_alive::{Idle, KeepAlive},
    session::{Lease, Sessions},
    timer::Timer,
    upstream::{Pull, Step},
};

pin_project! {
    /// The body of a response that went through [`SseProxy`](crate::SseProxy).
    ///
    /// Of a response that is not an event stream it is the upstream's body and nothing else: the same frames,
    /// trailers, size hint and errors (by [`source`](std::error::Error::source)). Only session ids are taken out of trailers.
    ///
    /// Of an event stream it pulls the upstream when it is polled: there is no task and no channel, so a client
    /// that does not read holds the upstream back, and dropping the body cancels it. It wakes itself to
    /// collect what is ready, until two polls in a row bring nothing new, and needs tokio's timer for keep-alive, for interceptors
    /// with deadlines, and after an error. An error is preceded by a pause in which a server sends what it has
    /// buffered, since an HTTP/1 server closes and an HTTP/2 server resets without doing so. It lasts until the frames before
    /// it have been let go of, but at most 5 s: a reader that keeps them, as one that collects a body does, waits that long.
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
        sessions: Option<Arc<Sessions>>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Passed { #[pin] body: B },
        // Boxed: most responses are not streams and should not carry the room for one.
        Stream { stream: Pin<Box<Stream<B>>> },
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

    pub(crate) fn own(text: String) -> Self {
        Self {
            kind: Kind::Own { body: text.into() },
            sessions: None,
        }
    }

    pub(crate) fn stream(
        pull: Pull<B>,
        keep_alive: Option<KeepAlive>,
        lease: Option<Lease>,
    ) -> Self {
        let stream = Stream {
            pull: Some(pull),
            frames: Frames::default(),
            on_the_way: Arc::default(),
            idle: keep_alive.map(|keep_alive| Idle::new(keep_alive, Instant::now())),
            timer: Timer::default(),
            futile: 0,
            handing_out: false,
            over: None,
            _lease: lease,
        };
        Self {
            kind: Kind::Stream {
                stream: Box::pin(stream),
            },
            sessions: None,
        }
    }

    /// Lets no id out in the trailers.
    pub(crate) fn in_sessions(mut self, sessions: Option<Arc<Sessions>>) -> Self {
        self.sessions = sessions;
        self
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
            KindProj::Stream { stream } => stream.as_mut().poll_frame(cx),
            KindProj::Own { body } => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
        };
        frame.map_ok(|mut frame| {
            if let (Some(sessions), Some(trailers)) = (this.sessions, frame.trailers_mut()) {
                sessions.hide_in_trailers(trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passed { body } => body.is_end_stream(),
            Kind::Stream { stream } => matches!(stream.over, Some(Over::Done)),
            Kind::Own { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passed { body } => body.size_hint(),
            Kind::Stream { .. } => SizeHint::default(),
            Kind::Own { body } => body.size_hint(),
        }
    }
}

/// Names what the body is, and shows nothing of what is in it.
impl<B> fmt::Debug for SseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Passed { .. } => "passed through",
            Kind::Stream { .. } => "event stream",
            Kind::Own { .. } => "own",
        };
        f.debug_tuple("SseBody").field(&kind).finish()
    }
}

/// Polls without a new block after which what is ready leaves. A server polls a pending body a second time
/// before it waits, so one is not enough to let the upstream's side run.
const FUTILE_POLLS: u8 = 2;

/// How long a server gets to send what it has before it learns of an error: so long after it has let go of the last
/// frame and last asked, since it asks when its client has taken something, and in all.
const LAST_WORDS: Duration = Duration::from_millis(100);
const LAST_WORDS_IN_ALL: Duration = Duration::from_secs(5);

/// A frame that tells by its end that it has been sent.
struct OnTheWay {
    bytes: Bytes,
    _counted: Arc<()>,
}

impl AsRef<[u8]> for OnTheWay {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pin_project! {
    /// An event stream on its way to one client, pulled by that client.
    struct Stream<B> {
        #[pin]
        pull: Option<Pull<B>>,
        frames: Frames,
        // Shared with the frames that the server has not sent yet.
        on_the_way: Arc<()>,
        idle: Option<Idle>,
        timer: Timer,
        // Polls in a row that brought no new block.
        futile: u8,
        // What is collected leaves, before anything else is looked at.
        handing_out: bool,
        over: Option<Over>,
        // Keeps the session alive.
        _lease: Option<Lease>,
    }
}

/// What is left to do once the last block is known.
#[derive(Debug)]
enum Over {
    End(Option<Box<HeaderMap>>),
    Failed(Error),
    /// The error waits for the bytes before it to be on their way: since when the server last asked, and until when at
    /// the longest.
    Failing(Error, Instant, Instant),
    Done,
}

impl<B> Stream<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let this = self.as_mut().project();
            if *this.handing_out {
                if let Some(frame) = this.frames.next() {
                    if let Some(idle) = this.idle {
                        idle.handle_traffic(Instant::now());
                    }
                    let frame = Bytes::from_owner(OnTheWay {
                        bytes: frame,
                        _counted: Arc::clone(this.on_the_way),
                    });
                    return Poll::Ready(Some(Ok(Frame::data(frame))));
                }
                *this.handing_out = false;
            }
            if this.over.is_some() {
                return self.poll_over(cx);
            }
            ready!(self.as_mut().poll_pull(cx));
            let this = self.as_mut().project();
            *this.handing_out = true;
            *this.futile = 0;
        }
    }

    /// What comes after the last block: trailers, nothing, or the error.
    fn poll_over(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        match this.over.replace(Over::Done) {
            Some(Over::End(trailers)) => {
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            Some(Over::Failed(error)) => {
                // First a wake, for a server that flushes when a body is pending, then a pause, for one whose
                // connection is a task of its own.
                let now = Instant::now();
                *this.over = Some(Over::Failing(error, now, now + LAST_WORDS_IN_ALL));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Over::Failing(error, asked, at_last)) => {
                let now = Instant::now();
                let waits = Arc::strong_count(this.on_the_way) > 1;
                let asked = if waits { now } else { asked };
                if now >= at_last.min(asked + LAST_WORDS) {
                    return Poll::Ready(Some(Err(error)));
                }
                let until = at_last.min(now + LAST_WORDS);
                if this.timer.poll(cx, until).is_ready() {
                    return Poll::Ready(Some(Err(error)));
                }
                *this.over = Some(Over::Failing(error, now, at_last));
                Poll::Pending
            }
            Some(Over::Done) | None => Poll::Ready(None),
        }
    }

    /// Collects blocks. Ready when there is a frame to hand out or the stream is over.
    fn poll_pull(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(pull) = this.pull.as_mut().as_pin_mut() else {
            return Poll::Ready(());
        };
        let before = this.frames.waiting();
        let over = match pull.poll(cx, this.frames) {
            Poll::Pending => None,
            Poll::Ready(Step::Full) if this.frames.waiting() > 0 => return Poll::Ready(()),
            Poll::Ready(Step::Full) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Step::End(trailers)) => Some(Over::End(trailers)),
            Poll::Ready(Step::Failed(error)) => Some(Over::Failed(error)),
        };
        if over.is_some() {
            this.frames.finish();
            this.pull.set(None);
            *this.over = over;
            return Poll::Ready(());
        }
        if this.frames.waiting() == 0
            && let Some(idle) = this.idle
        {
            ready!(this.timer.poll(cx, idle.deadline()));
            this.frames.keep_alive(idle.comment());
        }
        match this.frames.waiting() {
            0 => return Poll::Pending,
            now if now > before => *this.futile = 0,
            _ => *this.futile += 1,
        }
        if *this.futile >= FUTILE_POLLS {
            return Poll::Ready(());
        }
        // A body wakes itself here for more, where others would wait: the task that feeds the upstream may have more, and one
        // frame with all of it costs a server a fraction of many. What is ready waits for nothing else.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
