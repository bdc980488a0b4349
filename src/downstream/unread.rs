//! The body of an event stream that the layer passes through unread, with a report of its end.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    downstream::delayed_error::{DelayedError, InFlightFrame},
    error::{Error, ErrorKind},
    observe::{StreamEnded, StreamOutcome, StreamReport},
    timer::Timer,
};

pin_project! {
    /// The body of an event stream that the layer passes through unread: the same frames, trailers and size hint. Only an error is
    /// delayed until the server has sent the frames before it, as in a [stream that is read](crate::downstream::stream::Stream).
    pub(crate) struct Unread<B> {
        #[pin]
        pub(crate) body: B,
        // Boxed, so that the bodies of other responses stay small.
        state: Box<State>,
    }
}

struct State {
    // `None` once the end is reported.
    report: Option<StreamReport>,
    // Shared with the frames that the server has not sent yet.
    in_flight: Arc<()>,
    error: Option<DelayedError>,
    timer: Timer,
    /// The upstream's body has ended or failed.
    has_ended: bool,
}

impl State {
    fn close(&mut self, end: StreamEnded) {
        if let Some(report) = self.report.take() {
            report.close(end);
        }
    }

    /// Counts bytes that pass to the client.
    fn count(&self, bytes: usize, now: Instant) {
        let live = self.report.as_ref().and_then(StreamReport::live);
        if let Some(live) = live {
            let mut progress = live.progress();
            progress.bytes_in += bytes as u64;
            progress.bytes_out += bytes as u64;
            live.update(progress, false, now);
        }
    }
}

impl<B> Unread<B> {
    /// Passes `body` through, and closes `report` at its end.
    pub(crate) fn new(body: B, report: StreamReport) -> Self {
        let state = Box::new(State {
            report: Some(report),
            in_flight: Arc::default(),
            error: None,
            timer: Timer::default(),
            has_ended: false,
        });
        Self { body, state }
    }
}

impl<B> Unread<B>
where
    B: Body<Data = Bytes>,
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
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let frame = match frame {
            Some(Ok(frame)) => {
                state.count(frame.data_ref().map_or(0, Bytes::len), Instant::now());
                frame.map_data(|bytes| InFlightFrame::frame(bytes, &state.in_flight))
            }
            Some(Err(error)) => {
                state.has_ended = true;
                state.close(StreamEnded::failed(ErrorKind::Upstream));
                let error = Error::with_source(ErrorKind::Upstream, error);
                state.error = Some(DelayedError::new(error));
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => {
                state.has_ended = true;
                state.close(StreamEnded::of(StreamOutcome::Completed));
                return Poll::Ready(None);
            }
        };
        if this.body.is_end_stream() {
            // A server does not poll a body again that has ended by this hint.
            state.close(StreamEnded::of(StreamOutcome::Completed));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// Whether the stream has ended, as [`Body::is_end_stream`] returns it. `false` while an error is delayed.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.state.error.is_none() && (self.state.has_ended || self.body.is_end_stream())
    }
}
