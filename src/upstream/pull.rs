//! The engine: an upstream's body, pulled through decoder and pipeline by whoever wants blocks.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::BoxError;

use super::{
    coding::Plain,
    pipeline::{Pipeline, Sink},
};
use crate::{codec::Decoder, error::Error, intercept::Finish, timer::Timer};

/// The work of one poll: so many bytes of input, or so many frames, even if nothing comes of them. Then other
/// tasks have their turn.
const BYTES_A_POLL: usize = 256 << 10;
const FRAMES_A_POLL: usize = 64;

/// Interceptors that take their time have this much of it in one poll. What they let through does not wait for the rest.
const TIME_A_POLL: Duration = Duration::from_millis(1);

pin_project! {
    /// An upstream's body, decoded, cut into blocks and intercepted, as a poll function.
    pub(crate) struct Pull<B> {
        // Gone as soon as the upstream is no longer needed, so that it sees that at once.
        #[pin]
        upstream: Option<Plain<B>>,
        decoder: Decoder,
        pipeline: Pipeline,
        // Boxed, as most streams have none.
        trailers: Option<Box<HeaderMap>>,
        timer: Timer,
    }
}

/// What a poll came to.
#[derive(Debug)]
pub(crate) enum Step {
    /// The sink has enough for now, or what it has should not wait for what there is still to do.
    Full,
    /// The stream ended, with these trailers.
    End(Option<Box<HeaderMap>>),
    /// The stream broke. What was sent before is all there is.
    Failed(Error),
}

impl<B> Pull<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(upstream: Plain<B>, decoder: Decoder, pipeline: Pipeline) -> Self {
        Self {
            upstream: Some(upstream),
            decoder,
            pipeline,
            trailers: None,
            timer: Timer::default(),
        }
    }

    /// Moves blocks from the upstream to the sink until the sink is full, the upstream has no more for now, or
    /// the stream is over. Not to be polled after that.
    pub(crate) fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        sink: &mut impl Sink,
    ) -> Poll<Step> {
        // An upstream that always has more is no reason to forget the time.
        let this = self.as_mut().project();
        if let Some(deadline) = this.pipeline.deadline()
            && let now = Instant::now()
            && deadline <= now
        {
            this.pipeline.handle_timeout(now);
        }
        loop {
            if let Poll::Ready(step) = self.as_mut().poll_upstream(cx, sink) {
                return Poll::Ready(step);
            }
            // Whatever is waited for, it may be waited for only so long.
            let this = self.as_mut().project();
            let Some(deadline) = this.pipeline.deadline() else {
                return Poll::Pending;
            };
            ready!(this.timer.poll(cx, deadline));
            this.pipeline.handle_timeout(Instant::now());
        }
    }

    fn poll_upstream(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        sink: &mut impl Sink,
    ) -> Poll<Step> {
        let mut this = self.project();
        let (mut bytes, mut frames) = (0, 0);
        let until = Instant::now() + TIME_A_POLL;
        loop {
            if !this.pipeline.is_idle() {
                let driven = this.pipeline.drive(cx, sink);
                if this.pipeline.is_ending() {
                    this.upstream.set(None);
                }
                ready!(driven);
                if this.pipeline.is_ending() {
                    // Driven to the end: every interceptor knows, and what they had left is sent.
                    return Poll::Ready(match this.pipeline.take_finish() {
                        Ok(()) => Step::End(this.trailers.take()),
                        Err(error) => Step::Failed(error),
                    });
                }
            }
            if sink.is_full() {
                return Poll::Ready(Step::Full);
            }
            if this.pipeline.feed(this.decoder, sink, until).is_break() {
                return Poll::Ready(Step::Full);
            }
            if !this.pipeline.is_idle() || sink.is_full() {
                continue;
            }
            if bytes >= BYTES_A_POLL || frames >= FRAMES_A_POLL {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let frame = match this.upstream.as_mut().as_pin_mut() {
                Some(upstream) => upstream.poll_frame(cx),
                None => Poll::Ready(None),
            };
            let Poll::Ready(frame) = frame else {
                return Poll::Pending;
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => {
                        bytes += chunk.len();
                        frames += 1;
                        this.decoder.push(chunk);
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            *this.trailers = Some(Box::new(trailers));
                        }
                    }
                },
                Some(Err(error)) => this.pipeline.end(Finish::Failed(error)),
                None => this.pipeline.finish(this.decoder, sink),
            }
        }
    }
}
