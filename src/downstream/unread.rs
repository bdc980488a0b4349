//! An event stream with which the layer does nothing: the upstream's frames, and a report of how they ended.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tower::BoxError;

use crate::{
    downstream::stream::{Failing, InFlightFrame},
    error::{Error, ErrorKind},
    observe::report::{StreamOutcome, StreamReport},
    timer::Timer,
};

pin_project! {
    /// The body of an event stream that is passed on as it is: same frames, trailers and hints. Only its error comes later, as that
    /// of [a stream that is read](crate::downstream::stream::Stream), so that the server has sent the frames before it.
    pub(crate) struct Unread<B> {
        #[pin]
        pub(crate) body: B,
        // Boxed: responses that are not streams should not carry the room for it.
        state: Box<State>,
    }
}

struct State {
    report: StreamReport,
    // Shared with the frames that the server has not sent yet.
    on_the_way: Arc<()>,
    failing: Option<Failing>,
    timer: Timer,
    over: bool,
}

impl<B> Unread<B> {
    pub(crate) fn new(body: B, report: StreamReport) -> Self {
        let state = Box::new(State {
            report,
            on_the_way: Arc::default(),
            failing: None,
            timer: Timer::default(),
            over: false,
        });
        Self { body, state }
    }
}

impl<B> Unread<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(crate) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        let state = &mut **this.state;
        if let Some(failing) = &mut state.failing {
            ready!(failing.poll(cx, &mut state.timer, &state.on_the_way));
            let error = state.failing.take().map(Failing::into_error);
            return Poll::Ready(error.map(Err));
        }
        if state.over {
            return Poll::Ready(None);
        }
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let frame = match frame {
            Some(Ok(frame)) => {
                frame.map_data(|bytes| InFlightFrame::frame(bytes, &state.on_the_way))
            }
            Some(Err(error)) => {
                state.over = true;
                state
                    .report
                    .close(StreamOutcome::Failed(ErrorKind::Upstream));
                let error = Error::with_source(ErrorKind::Upstream, error);
                state.failing = Some(Failing::new(error));
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => {
                state.over = true;
                state.report.close(StreamOutcome::Completed);
                return Poll::Ready(None);
            }
        };
        if this.body.is_end_stream() {
            // A server that knows from this that no more comes does not ask again.
            state.report.close(StreamOutcome::Completed);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.state.failing.is_none() && (self.state.over || self.body.is_end_stream())
    }
}
