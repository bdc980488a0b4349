//! An event stream on its way to one client: frames, keep-alive, and an end that looks like what it is.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::{
    downstream::{
        flush_policy::FlushPolicy,
        frame_buffer::FrameBuffer,
        keep_alive::{Idle, KeepAlive},
        source::Source,
    },
    error::Error,
    observe::report::{StreamOutcome, StreamReport},
    timer::Timer,
    upstream::Step,
};

/// How long a server gets to send what it has before it learns of an error: so long after it has let go of the last
/// frame and last asked, since it asks when its client has taken something, and in all.
const LAST_WORDS: Duration = Duration::from_millis(100);
const LAST_WORDS_IN_ALL: Duration = Duration::from_secs(5);

/// A frame that tells by its end that it has been sent.
pub(crate) struct InFlightFrame {
    bytes: Bytes,
    _counted: Arc<()>,
}

impl InFlightFrame {
    pub(crate) fn frame(bytes: Bytes, counted: &Arc<()>) -> Bytes {
        Bytes::from_owner(Self {
            bytes,
            _counted: Arc::clone(counted),
        })
    }
}

impl AsRef<[u8]> for InFlightFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pin_project! {
    /// An event stream on its way to one client, pulled by that client.
    ///
    /// This, and what it is made of, has what each event needs first and together. When the next one comes the stream's memory is
    /// cold, and to fetch it is much of what an event costs that comes alone.
    #[repr(C)]
    pub(crate) struct Stream<S> {
        // What is collected leaves, before anything else is looked at.
        handing_out: bool,
        patience: FlushPolicy,
        // Shared with the frames that the server has not sent yet.
        on_the_way: Arc<()>,
        frames: FrameBuffer,
        over: Option<Closing>,
        timer: Timer,
        idle: Option<Idle>,
        #[pin]
        source: Option<S>,
        // Of a stream that has ended cleanly, until its end has been handed out.
        report: Option<StreamReport>,
    }
}

/// What is left to do once the last block is known.
#[derive(Debug)]
enum Closing {
    End(Option<Box<HeaderMap>>),
    Failed(Error),
    Failing(Failing),
    Done,
}

/// An error that waits for the bytes before it to be on their way.
#[derive(Debug)]
pub(crate) struct Failing {
    error: Error,
    /// Since when the server last asked.
    asked: Instant,
    /// Until when the error waits at the longest.
    at_last: Instant,
}

impl Failing {
    pub(crate) fn new(error: Error) -> Self {
        let now = Instant::now();
        Self {
            error,
            asked: now,
            at_last: now + LAST_WORDS_IN_ALL,
        }
    }

    /// Ready when the error is to be handed out.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        timer: &mut Timer,
        on_the_way: &Arc<()>,
    ) -> Poll<()> {
        let now = Instant::now();
        let waits = Arc::strong_count(on_the_way) > 1;
        let asked = if waits { now } else { self.asked };
        if now >= self.at_last.min(asked + LAST_WORDS) {
            return Poll::Ready(());
        }
        self.asked = now;
        timer.poll(cx, self.at_last.min(now + LAST_WORDS))
    }

    pub(crate) fn into_error(self) -> Error {
        self.error
    }
}

impl<S> Stream<S> {
    pub(crate) fn new(source: S, keep_alive: Option<KeepAlive>) -> Self {
        Self {
            source: Some(source),
            frames: FrameBuffer::default(),
            on_the_way: Arc::default(),
            idle: keep_alive.map(|keep_alive| Idle::new(keep_alive, Instant::now())),
            timer: Timer::default(),
            patience: FlushPolicy::default(),
            handing_out: false,
            over: None,
            report: None,
        }
    }

    /// Whether all of it, its end too, has been handed out.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.over, Some(Closing::Done))
    }
}

impl<S: Source> Stream<S> {
    // Inlined into the server's own function all of this would be one that no cache holds, and where events come one by one
    // that is most of what they cost.
    #[inline(never)]
    pub(crate) fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let this = self.as_mut().project();
            if *this.handing_out {
                if let Some(frame) = this.frames.next() {
                    let more_follows = this.frames.waiting() > 0;
                    let frame = if more_follows {
                        frame
                    } else {
                        // When this has been sent, so have those before it.
                        InFlightFrame::frame(frame, this.on_the_way)
                    };
                    return Poll::Ready(Some(Ok(Frame::data(frame))));
                }
                *this.handing_out = false;
                if let Some(idle) = this.idle {
                    idle.handle_traffic();
                }
            }
            if this.over.is_some() {
                return self.poll_over(cx);
            }
            ready!(self.as_mut().poll_source(cx));
            let this = self.as_mut().project();
            *this.handing_out = true;
        }
    }

    /// What comes after the last block: trailers, nothing, or the error.
    fn poll_over(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        match this.over.replace(Closing::Done) {
            Some(Closing::End(trailers)) => {
                if let Some(mut report) = this.report.take() {
                    report.close(StreamOutcome::Completed);
                }
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            Some(Closing::Failed(error)) => {
                // First a wake, for a server that flushes when a body is pending, then a pause, for one whose
                // connection is a task of its own.
                *this.over = Some(Closing::Failing(Failing::new(error)));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Closing::Failing(mut failing)) => {
                if failing.poll(cx, this.timer, this.on_the_way).is_ready() {
                    return Poll::Ready(Some(Err(failing.into_error())));
                }
                *this.over = Some(Closing::Failing(failing));
                Poll::Pending
            }
            Some(Closing::Done) | None => Poll::Ready(None),
        }
    }

    /// Collects blocks. Ready when there is a frame to hand out or the stream is over.
    fn poll_source(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(source) = this.source.as_mut().as_pin_mut() else {
            return Poll::Ready(());
        };
        let before = this.frames.waiting();
        let over = match source.poll_frames(cx, this.frames) {
            Poll::Pending => None,
            Poll::Ready(Step::Full) if this.frames.waiting() > 0 => return Poll::Ready(()),
            Poll::Ready(Step::Full) => {
                cx.waker().wake_by_ref();
                None
            }
            Poll::Ready(Step::End(trailers)) => Some(Closing::End(trailers)),
            Poll::Ready(Step::Failed(error)) => Some(Closing::Failed(error)),
        };
        if over.is_some() {
            if let Some(source) = this.source.as_mut().as_pin_mut() {
                *this.report = source.take_report();
            }
            this.frames.finish();
            this.source.set(None);
            *this.over = over;
            return Poll::Ready(());
        }
        if this.frames.waiting() == 0
            && let Some(idle) = this.idle
        {
            let now = Instant::now();
            ready!(this.timer.poll_at(cx, now, idle.deadline(now)));
            this.frames.keep_alive(idle.comment());
            return Poll::Ready(());
        }
        match this.frames.waiting() {
            0 => return Poll::Pending,
            now if this.patience.waits(before, now, S::PATIENCE) => {}
            _ => return Poll::Ready(()),
        }
        // A body wakes itself here for more, where others would wait for it. What is ready waits for nothing else.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
