//! The body of a response with an early head: the head left before the upstream answered.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use sync_wrapper::SyncWrapper;
use tokio::time::Instant;

use crate::{
    downstream::{
        frame_buffer::FrameBuffer,
        keep_alive::{KeepAlive, KeepAliveTimer},
        source::Source,
    },
    error::Error,
    observe::StreamReport,
    timer::Timer,
    upstream::Step,
};

type Response<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Sends comments until the response of the upstream is ready.
pub(crate) struct Early<T> {
    response: SyncWrapper<Response<T>>,
    keep_alive: KeepAliveTimer,
    timer: Timer,
}

/// The result of a poll.
pub(crate) enum EarlyStep<T> {
    /// A comment for the client.
    Comment(Bytes),
    /// The response is ready. The body must not be polled again.
    Response(T),
}

impl<T> Early<T> {
    pub(crate) fn new(response: Response<T>, keep_alive: KeepAlive) -> Self {
        Self {
            response: SyncWrapper::new(response),
            keep_alive: KeepAliveTimer::new(keep_alive, Instant::now()),
            timer: Timer::default(),
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<EarlyStep<T>> {
        if let Poll::Ready(response) = self.response.get_mut().as_mut().poll(cx) {
            return Poll::Ready(EarlyStep::Response(response));
        }
        let now = Instant::now();
        ready!(self.timer.poll_at(cx, now, self.keep_alive.deadline(now)));
        self.keep_alive.handle_traffic();
        Poll::Ready(EarlyStep::Comment(self.keep_alive.comment()))
    }
}

/// A stream that has failed: one last event, and the error.
pub(crate) struct Failing {
    last: Option<Bytes>,
    error: Option<Error>,
}

impl Failing {
    pub(crate) fn new(last: Bytes, error: Error) -> Self {
        Self {
            last: Some(last),
            error: Some(error),
        }
    }
}

impl Source for Failing {
    const MAX_EMPTY_POLLS: u8 = 0;

    fn poll_frames(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        frames: &mut FrameBuffer,
    ) -> Poll<Step> {
        if let Some(last) = self.last.take() {
            frames.push_span(last.into());
            return Poll::Ready(Step::Full);
        }
        Poll::Ready(match self.error.take() {
            Some(error) => Step::Failed(error),
            None => Step::End(None),
        })
    }

    fn take_report(self: Pin<&mut Self>) -> Option<StreamReport> {
        None
    }
}
