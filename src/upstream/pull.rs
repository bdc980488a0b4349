//! The engine: an upstream's body, pulled through decoder and pipeline by whoever wants blocks.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use pin_project_lite::pin_project;
use sync_wrapper::SyncWrapper;
use tokio::time::Instant;
use tower::BoxError;

use super::{
    body::DecodedBody,
    budget::WorkBudget,
    continuation::{Continuation, UpstreamEnd},
    pipeline::Pipeline,
};
use crate::{
    codec::Decoder,
    error::{Error, ErrorKind},
    intercept::Finish,
    observe::report::{StreamOutcome, StreamReport},
    timer::Timer,
    upstream::{byte_order_mark::FirstBytes, sink::Sink},
};

/// The result of a poll that moves blocks.
#[derive(Debug)]
pub(crate) enum Step {
    /// There is enough for now, or the blocks that are ready should not wait for the work that is left.
    Full,
    /// The stream ended, with these trailers.
    End(Option<Box<HeaderMap>>),
    /// The stream failed after the blocks that were moved.
    Failed(Error),
}

pin_project! {
    /// An upstream's body, decoded, cut into blocks and intercepted, as a poll function.
    #[repr(C)] // See `Stream`.
    pub(crate) struct Pull<B> {
        // Gone as soon as the upstream is no longer needed, so that it sees that at once.
        #[pin]
        upstream: Option<DecodedBody<B>>,
        // How much the upstream has sent since the last time that this was asked for.
        received: usize,
        // The upstream's answer is over, and another one may follow.
        between: bool,
        // And nobody has been told yet.
        just_over: bool,
        truncated: bool,
        // The interceptors' next one, as of the end of the last poll.
        deadline: Option<Instant>,
        pipeline: Pipeline,
        decoder: Decoder,
        // Where a byte order mark is looked for that interceptors could not read behind.
        first_bytes: Option<FirstBytes>,
        timer: Timer,
        sequel: Option<SyncWrapper<Box<dyn Continuation<B>>>>,
        // Boxed, as most streams have none.
        trailers: Option<Box<HeaderMap>>,
    }
}

impl<B> Pull<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(upstream: DecodedBody<B>, decoder: Decoder, mut pipeline: Pipeline) -> Self {
        Self {
            deadline: pipeline.deadline(),
            upstream: Some(upstream),
            decoder,
            first_bytes: None,
            pipeline,
            trailers: None,
            timer: Timer::default(),
            sequel: None,
            received: 0,
            between: false,
            just_over: false,
            truncated: false,
        }
    }

    /// Goes on with other answers of the upstream, where there are any.
    pub(crate) fn continued_by(mut self, sequel: impl Continuation<B> + 'static) -> Self {
        self.sequel = Some(SyncWrapper::new(Box::new(sequel)));
        self
    }

    /// Fails the stream if the upstream's body begins with the byte order mark of another encoding than UTF-8.
    pub(crate) fn only_utf8(mut self, only: bool) -> Self {
        self.first_bytes = only.then(FirstBytes::default);
        self
    }

    /// Sets the outcome that is reported if this is dropped before the end of the stream.
    pub(crate) fn with_drop_outcome(mut self, outcome: StreamOutcome) -> Self {
        self.pipeline.set_drop_outcome(outcome);
        self
    }

    /// Whether the upstream ended in the middle of a block.
    pub(crate) fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Whether there is a body to read from.
    pub(crate) fn has_upstream(&self) -> bool {
        self.upstream.is_some()
    }

    /// How many bytes the upstream has sent since the last call of this.
    pub(crate) fn take_received(self: Pin<&mut Self>) -> usize {
        std::mem::take(self.project().received)
    }

    /// The memory, in bytes, of an event that has not come to its end.
    pub(crate) fn unfinished_bytes(&self) -> usize {
        self.decoder.held_bytes()
    }

    /// Reports how the stream ended, unless that has been reported.
    pub(crate) fn close(self: Pin<&mut Self>, outcome: StreamOutcome) {
        self.project().pipeline.close(outcome);
    }

    /// Takes the report of a stream that has ended cleanly, and whose end is still to be sent.
    pub(crate) fn take_report(self: Pin<&mut Self>) -> Option<StreamReport> {
        self.project().pipeline.take_report()
    }

    /// Whether an interceptor has ended the stream.
    pub(crate) fn is_ended_by_interceptor(&self) -> bool {
        self.pipeline.is_ended_by_interceptor()
    }

    /// No other answer is waited for any longer. Whether one was: then the stream ends as the last one did, and is still to be
    /// polled for what the interceptors hold.
    pub(crate) fn stop_waiting(mut self: Pin<&mut Self>) -> bool {
        let this = self.as_mut().project();
        let sequel = this.sequel.take().filter(|_| *this.between);
        let over = sequel.and_then(|mut sequel| sequel.get_mut().stop_waiting());
        *this.between = false;
        over.map(|over| self.end(over)).is_some()
    }

    /// The upstream has said all: what else it has is not waited for, nor is its end.
    pub(crate) fn finish_now(mut self: Pin<&mut Self>) {
        self.as_mut().project().upstream.set(None);
        self.handle_over(UpstreamEnd::Clean(None));
    }

    /// An answer of the upstream is over, and so is the stream, unless another one may follow.
    fn handle_over(mut self: Pin<&mut Self>, over: UpstreamEnd) {
        let this = self.as_mut().project();
        let over = match this.sequel {
            Some(sequel) => sequel.get_mut().handle_end(over),
            None => Err(over),
        };
        match over {
            Ok(()) => {
                *this.between = true;
                *this.just_over = true;
            }
            Err(over) => self.end(over),
        }
    }

    fn end(self: Pin<&mut Self>, over: UpstreamEnd) {
        let this = self.project();
        *this.sequel = None;
        this.pipeline.end(match over {
            UpstreamEnd::Clean(trailers) => {
                *this.trailers = trailers;
                Finish::Complete
            }
            UpstreamEnd::Broken(error) => Finish::Failed(error),
        });
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
        if let Some(deadline) = *this.deadline
            && let now = Instant::now()
            && deadline <= now
        {
            this.pipeline.handle_timeout(now);
        }
        loop {
            let step = self.as_mut().poll_upstream(cx, sink);
            let this = self.as_mut().project();
            *this.deadline = this.pipeline.deadline();
            if let Poll::Ready(step) = step {
                return Poll::Ready(step);
            }
            // Whatever is waited for, it may be waited for only so long.
            let Some(deadline) = *this.deadline else {
                return Poll::Pending;
            };
            ready!(this.timer.poll(cx, deadline));
            this.pipeline.handle_timeout(Instant::now());
        }
    }

    #[inline(never)] // As `Stream::poll_frame`.
    fn poll_upstream(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        sink: &mut impl Sink,
    ) -> Poll<Step> {
        let mut this = self.as_mut().project();
        let mut budget = WorkBudget::default();
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
            if this.decoder.has_input() {
                let fed = this.pipeline.feed(this.decoder, sink, &mut budget);
                if fed.is_break() {
                    return Poll::Ready(Step::Full);
                }
            }
            if !this.pipeline.is_idle() || sink.is_full() {
                continue;
            }
            if budget.is_input_exhausted() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if std::mem::take(this.just_over) {
                // What came before is where it belongs, before anybody learns that nothing more comes for now.
                return Poll::Ready(Step::Full);
            }
            if *this.between
                && let Some(sequel) = this.sequel
            {
                match ready!(sequel.get_mut().poll_next(cx)) {
                    Ok(upstream) => {
                        this.upstream.set(Some(upstream));
                        // What was unfinished will be sent again, or never.
                        *this.decoder = this.decoder.renewed();
                        *this.first_bytes = this.first_bytes.take().map(|_| FirstBytes::default());
                    }
                    Err(over) => {
                        self.as_mut().end(over);
                        this = self.as_mut().project();
                    }
                }
                *this.between = false;
                continue;
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
                        *this.received += chunk.len();
                        budget.charge_frame(chunk.len());
                        let mark = this
                            .first_bytes
                            .as_mut()
                            .and_then(|first| first.handle_chunk(&chunk));
                        match mark {
                            None => this.decoder.push(chunk),
                            Some(encoding) => {
                                let source =
                                    format!("it begins with a byte order mark of {encoding}");
                                let error = Error::with_source(ErrorKind::NotUtf8, source);
                                this.pipeline.end(Finish::Failed(error));
                            }
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            *this.trailers = Some(Box::new(trailers));
                        }
                    }
                },
                Some(Err(error)) => {
                    this.upstream.set(None);
                    self.as_mut().handle_over(UpstreamEnd::Broken(error));
                    this = self.as_mut().project();
                }
                None => {
                    this.upstream.set(None);
                    if let Some(rest) = this.decoder.finish() {
                        *this.truncated = true;
                        this.pipeline.finish(rest, sink);
                    } else {
                        let trailers = this.trailers.take();
                        self.as_mut().handle_over(UpstreamEnd::Clean(trailers));
                        this = self.as_mut().project();
                    }
                }
            }
        }
    }
}
