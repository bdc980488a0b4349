//! The body of an event stream that the layer passes on untouched, with a report of its end.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::BoxError;

use crate::{
    downstream::delayed_error::{DelayedError, InFlightFrame},
    error::{Error, ErrorKind},
    live::UntouchedBody,
    observe::{StreamEnded, StreamOutcome, StreamReport},
    timer::Timer,
    upstream::body::RawBody,
};

pin_project! {
    /// The body of an event stream that the layer passes on untouched: the same frames, trailers and size hint. Only small frames that
    /// were read ahead of the client are merged, a body that was read ahead to its end has no exact size, and an error is delayed until
    /// the server has sent the frames before it, as in a [stream that is read](crate::downstream::stream::Stream).
    pub(crate) struct Untouched<B> {
        #[pin]
        upstream: Upstream<B>,
        // Boxed, so that the bodies of other responses stay small.
        state: Box<State>,
    }
}

pin_project! {
    #[project = UpstreamProjection]
    enum Upstream<B> {
        Plain { #[pin] body: RawBody<B> },
        // The stream is observed, and others can end it.
        Observed { body: UntouchedBody<RawBody<B>> },
    }
}

struct State {
    // `None` once the end is reported, and for a stream that is observed.
    report: Option<StreamReport>,
    // Shared with the frames that the server has not sent yet.
    in_flight: Arc<()>,
    error: Option<DelayedError>,
    timer: Timer,
    /// The upstream's body has ended or failed, and the end is reported.
    has_ended: bool,
}

impl<B: Send + 'static> Untouched<B> {
    /// Passes `body` through, and closes `report` at its end.
    pub(crate) fn new(body: RawBody<B>, report: StreamReport) -> Self {
        let (upstream, report) = match report.live().map(Arc::clone) {
            Some(live) => {
                body.observe(&live);
                let body = UntouchedBody::new(body, report, live);
                (Upstream::Observed { body }, None)
            }
            None => (Upstream::Plain { body }, Some(report)),
        };
        let state = Box::new(State {
            report,
            in_flight: Arc::default(),
            error: None,
            timer: Timer::default(),
            has_ended: false,
        });
        Self { upstream, state }
    }
}

impl<B> Untouched<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Polls the next frame, as [`Body::poll_frame`] does.
    pub(crate) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        let state = &mut **this.state;
        if let Some(error) = &mut state.error {
            ready!(error.poll(cx, &mut state.timer, &state.in_flight));
            let error = state.error.take().map(DelayedError::into_error);
            return Poll::Ready(error.map(Err));
        }
        if state.has_ended {
            return Poll::Ready(None);
        }
        let frame = match this.upstream.as_mut().project() {
            UpstreamProjection::Plain { body } => ready!(body.poll_frame(cx)),
            UpstreamProjection::Observed { body } => match ready!(body.poll_frame(cx)) {
                Ok(frame) => frame,
                Err(_) => Some(Err(Error::new(ErrorKind::Aborted))),
            },
        };
        let end = match frame {
            Some(Ok(frame)) => {
                if this.upstream.is_end_stream() {
                    // A server does not poll a body again that has ended by this hint.
                    state.has_ended = true;
                    let end = StreamEnded::of(StreamOutcome::Completed);
                    this.upstream.close(state, end);
                }
                let frame = frame.map_data(|bytes| InFlightFrame::frame(bytes, &state.in_flight));
                return Poll::Ready(Some(Ok(frame)));
            }
            Some(Err(error)) => {
                let end = StreamEnded::failed(error.kind());
                state.error = Some(DelayedError::new(error));
                end
            }
            None => StreamEnded::of(StreamOutcome::Completed),
        };
        state.has_ended = true;
        this.upstream.close(state, end);
        if state.error.is_none() {
            return Poll::Ready(None);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the stream has ended, as [`Body::is_end_stream`] returns it. `false` while an error is delayed.
    ///
    /// Changes only when the body is polled, which reports the end: the upstream's body may end at any time.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.state.error.is_none() && self.state.has_ended
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.upstream {
            Upstream::Plain { body } => body.size_hint(),
            Upstream::Observed { body } => body.size_hint(),
        }
    }
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain { body } => body.is_end_stream(),
            Self::Observed { body } => body.is_end_stream(),
        }
    }

    /// Reports the end of the stream, unless it is reported.
    fn close(&self, state: &mut State, end: StreamEnded) {
        match (self, state.report.take()) {
            (Self::Observed { body }, _) => body.close(end),
            (Self::Plain { .. }, Some(report)) => report.close(end),
            (Self::Plain { .. }, None) => {}
        }
    }
}
