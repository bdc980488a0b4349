//! The event stream of one client: frames, keep-alive comments, and an end that shows whether the stream is complete.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::{
    downstream::{
        delayed_error::{DelayedError, InFlightFrame},
        flush_policy::FlushPolicy,
        frame_buffer::FrameBuffer,
        keep_alive::{KeepAlive, KeepAliveTimer},
        source::Source,
    },
    error::Error,
    observe::{StreamEnded, StreamOutcome, StreamReport},
    timer::Timer,
    upstream::Step,
};

pin_project! {
    /// The event stream of one client, which drives it by polling the body.
    ///
    /// The fields are ordered by how early an event needs them, here and in [`Pull`](crate::upstream::Pull) and
    /// [`Pipeline`](crate::upstream::Pipeline): the bench `proxy` shows the effect in its paced streams.
    #[repr(C)]
    pub(crate) struct Stream<S> {
        // Whether the collected frames are leaving. No other work is done until all have left.
        is_flushing: bool,
        flush_policy: FlushPolicy,
        // Shared with the frames that the server has not sent yet.
        in_flight: Arc<()>,
        frames: FrameBuffer,
        closing: Option<Closing>,
        timer: Timer,
        keep_alive: Option<KeepAliveTimer>,
        // `None` after the end of the stream, or after the client has received it; see `Source::OUTLASTS_END`.
        #[pin]
        source: Option<S>,
        // The report of a stream that has ended cleanly, until the client has received the end.
        report: Option<StreamReport>,
    }
}

/// The end of a stream, after its last block.
#[derive(Debug)]
enum Closing {
    /// A clean end, with these trailers.
    End(Option<Box<HeaderMap>>),
    /// An error, before the delay.
    Failed(Error),
    /// An error that waits until the server has sent the frames before it.
    Delayed(DelayedError),
    /// The client has received the end.
    Done,
}

impl<S> Stream<S> {
    /// A stream of the blocks of `source`.
    pub(crate) fn new(source: S, keep_alive: Option<KeepAlive>) -> Self {
        Self {
            source: Some(source),
            frames: FrameBuffer::default(),
            in_flight: Arc::default(),
            keep_alive: keep_alive
                .map(|keep_alive| KeepAliveTimer::new(keep_alive, Instant::now())),
            timer: Timer::default(),
            flush_policy: FlushPolicy::default(),
            is_flushing: false,
            closing: None,
            report: None,
        }
    }

    /// Whether the client has received the end of the stream.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.closing, Some(Closing::Done))
    }
}

impl<S: Source> Stream<S> {
    /// Polls the next frame, as [`http_body::Body::poll_frame`] does.
    #[inline(never)] // Inlined, it would not fit into the instruction cache with the code of the server. See the bench `proxy`.
    pub(crate) fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let this = self.as_mut().project();
            if *this.is_flushing {
                if let Some(frame) = this.frames.next() {
                    let more_follows = this.frames.waiting() > 0;
                    let frame = if more_follows {
                        frame
                    } else {
                        // The last frame is enough: a server sends frames in order.
                        InFlightFrame::frame(frame, this.in_flight)
                    };
                    return Poll::Ready(Some(Ok(Frame::data(frame))));
                }
                *this.is_flushing = false;
                if let Some(keep_alive) = this.keep_alive {
                    keep_alive.handle_traffic();
                }
            }
            if this.closing.is_some() {
                return self.poll_closing(cx);
            }
            ready!(self.as_mut().poll_source(cx));
            let this = self.as_mut().project();
            *this.is_flushing = true;
        }
    }

    /// Polls the end of the stream, after the last block: trailers, nothing, or the error.
    fn poll_closing(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.as_mut().project();
        match this.closing.replace(Closing::Done) {
            Some(Closing::End(trailers)) => {
                if let Some(report) = this.report.take() {
                    report.close(StreamEnded::of(StreamOutcome::Completed));
                }
                let closed = this.source.as_mut().as_pin_mut();
                let closed = closed.map_or(Ok(()), |source| source.close());
                this.source.set(None);
                if let Err(error) = closed {
                    *this.closing = Some(Closing::Failed(error));
                    return self.poll_closing(cx);
                }
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            Some(Closing::Failed(error)) => {
                // Pending once with a wake, for a server that flushes when a body is pending. Then the delay, for a server whose
                // connection is another task.
                *this.closing = Some(Closing::Delayed(DelayedError::new(error)));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Closing::Delayed(mut delayed)) => {
                if delayed.poll(cx, this.timer, this.in_flight).is_ready() {
                    return Poll::Ready(Some(Err(delayed.into_error())));
                }
                *this.closing = Some(Closing::Delayed(delayed));
                Poll::Pending
            }
            Some(Closing::Done) | None => Poll::Ready(None),
        }
    }

    /// Collects blocks. Ready when there is a frame to send, or when the stream is over.
    fn poll_source(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(source) = this.source.as_mut().as_pin_mut() else {
            return Poll::Ready(());
        };
        let before = this.frames.waiting();
        let closing = match source.poll_frames(cx, this.frames) {
            Poll::Pending => None,
            Poll::Ready(Step::Full) if this.frames.waiting() > 0 => return Poll::Ready(()),
            Poll::Ready(Step::Full) => {
                cx.waker().wake_by_ref();
                None
            }
            Poll::Ready(Step::End(trailers)) => Some(Closing::End(trailers)),
            Poll::Ready(Step::Failed(error)) => Some(Closing::Failed(error)),
        };
        if let Some(closing) = closing {
            // The outcome of a failure is known. A clean end counts once the client has received it.
            let is_clean = matches!(closing, Closing::End(_));
            match this.source.as_mut().as_pin_mut() {
                Some(source) if is_clean && S::OUTLASTS_END => source.handle_end(),
                source => {
                    let report = source.and_then(Source::take_report);
                    *this.report = report.filter(|_| is_clean);
                    this.source.set(None);
                }
            }
            this.frames.finish();
            *this.closing = Some(closing);
            return Poll::Ready(());
        }
        if this.frames.waiting() == 0
            && let Some(keep_alive) = this.keep_alive
        {
            let now = Instant::now();
            ready!(this.timer.poll_at(cx, now, keep_alive.deadline(now)));
            let comment = keep_alive.comment();
            if let Some(source) = this.source.as_mut().as_pin_mut() {
                source.count_added(comment.len());
            }
            this.frames.keep_alive(comment);
            return Poll::Ready(());
        }
        match this.frames.waiting() {
            0 => return Poll::Pending,
            now if this.flush_policy.waits(before, now, S::MAX_EMPTY_POLLS) => {}
            _ => return Poll::Ready(()),
        }
        // The source registered its waker, but may stay pending for long. The wake bounds the wait of the ready blocks to one poll.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
