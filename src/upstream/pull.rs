//! The engine: moves blocks from the body of an upstream through decoder and pipeline to a sink, when it is polled.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use pin_project_lite::pin_project;
use sync_wrapper::SyncWrapper;
use tokio::time::Instant;
use tower::BoxError;
use tracing::Span;

use super::{
    body::DecodedBody,
    budget::WorkBudget,
    continuation::{Continuation, UpstreamEnd},
    pipeline::Pipeline,
};
use crate::{
    codec::{Block, Decoder},
    error::{Error, ErrorKind},
    headers::replaced_body::remove_digests,
    intercept::Finish,
    observe::{LiveStream, StreamOutcome, StreamProgress, StreamReport},
    timer::Timer,
    upstream::{byte_order_mark::FirstBytes, sink::Sink},
};

/// The result of a poll that moves blocks.
#[derive(Debug)]
pub(crate) enum Step {
    /// The sink is full, or its blocks should leave before the next work. The driver has to poll again.
    Full,
    /// The stream ended with these trailers.
    End(Option<Box<HeaderMap>>),
    /// The stream failed. The blocks in the sink precede the error.
    Failed(Error),
}

impl Step {
    /// Whether this is the result of the last poll.
    pub(crate) fn is_last(&self) -> bool {
        matches!(self, Self::End(_) | Self::Failed(_))
    }
}

/// The next input that the stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextInput {
    /// A frame of the present response.
    Frame,
    /// A continuation, once the driver has stored or sent the blocks of the response that has ended.
    ContinuationAfterFlush,
    /// A continuation.
    Continuation,
}

pin_project! {
    /// The body of an upstream, decoded, cut into blocks and intercepted, as a poll function.
    ///
    /// Has no task of its own: the client's body or the driver of a recorded stream polls it. Dropping it cancels the upstream.
    #[repr(C)] // For the order of the fields; see `downstream::stream::Stream`.
    pub(crate) struct Pull<B> {
        // `None` as soon as the upstream is no longer needed, which cancels it.
        #[pin]
        upstream: Option<DecodedBody<B>>,
        // Bytes of the upstream since the last `take_received`.
        received: usize,
        next_input: NextInput,
        is_truncated: bool,
        // The deadline of the interceptors at the end of the last poll.
        deadline: Option<Instant>,
        pipeline: Pipeline,
        decoder: Decoder,
        // Looks for the byte order mark of an encoding that interceptors cannot read.
        first_bytes: Option<FirstBytes>,
        timer: Timer,
        continuation: Option<SyncWrapper<Box<dyn Continuation<B>>>>,
        // Boxed, as most streams have no trailers.
        trailers: Option<Box<HeaderMap>>,
    }
}

impl<B> Pull<B> {
    /// The span of the stream. See [`Pipeline::span`].
    pub(crate) fn span(&self) -> Span {
        self.pipeline.span()
    }
}

impl<B> Pull<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// A stream that reads `upstream` until its end, without continuations.
    pub(crate) fn new(upstream: DecodedBody<B>, decoder: Decoder, mut pipeline: Pipeline) -> Self {
        if let Some(live) = pipeline.live() {
            upstream.observe(live);
        }
        Self {
            deadline: pipeline.deadline(),
            upstream: Some(upstream),
            decoder,
            first_bytes: None,
            pipeline,
            trailers: None,
            timer: Timer::default(),
            continuation: None,
            received: 0,
            next_input: NextInput::Frame,
            is_truncated: false,
        }
    }

    /// Continues the stream with the responses that `continuation` provides.
    pub(crate) fn with_continuation(
        mut self,
        continuation: impl Continuation<B> + 'static,
    ) -> Self {
        self.continuation = Some(SyncWrapper::new(Box::new(continuation)));
        self
    }

    /// Sets whether the stream fails if a response begins with the byte order mark of an encoding other than UTF-8. Default: no.
    pub(crate) fn reject_foreign_encodings(mut self, reject: bool) -> Self {
        self.first_bytes = reject.then(FirstBytes::default);
        self
    }

    /// Sets the outcome that is reported if this is dropped before the end of the stream.
    pub(crate) fn with_drop_outcome(mut self, outcome: StreamOutcome) -> Self {
        self.pipeline.set_drop_outcome(outcome);
        self
    }

    /// Whether the last response of the upstream ended in the middle of a block.
    pub(crate) fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Whether a response of the upstream is open.
    pub(crate) fn has_upstream(&self) -> bool {
        self.upstream.is_some()
    }

    /// Whether the stream waits for the upstream if a poll is pending: for a frame, or for the answer to a request to continue.
    /// False while the interceptors work, during the delay before such a request, and while the stream waits for a client to resume it.
    pub(crate) fn waits_for_upstream(self: Pin<&mut Self>) -> bool {
        let this = self.project();
        let awaits_answer = match this.continuation {
            Some(continuation) => continuation.get_mut().awaits_answer(),
            None => false,
        };
        this.pipeline.is_idle() && (this.upstream.is_some() || awaits_answer)
    }

    /// The bytes that the upstream has sent since the last call.
    pub(crate) fn take_received(self: Pin<&mut Self>) -> usize {
        std::mem::take(self.project().received)
    }

    /// The memory of the unfinished event in the decoder, in bytes.
    pub(crate) fn unfinished_bytes(&self) -> usize {
        self.decoder.held_bytes()
    }

    /// The observed stream. `None` without observers, and after the report was taken.
    pub(crate) fn live(&self) -> Option<&Arc<LiveStream>> {
        self.pipeline.live()
    }

    /// How far the stream has got.
    pub(crate) fn progress(&self) -> StreamProgress {
        self.pipeline.progress()
    }

    /// The last event of a stream that ends with this outcome before its upstream has ended it. See [`Pipeline::ending`].
    pub(crate) fn ending(&self, outcome: StreamOutcome) -> Option<Block> {
        self.pipeline.ending(outcome)
    }

    /// Whether an event with content has arrived since the last call.
    pub(crate) fn take_content(self: Pin<&mut Self>) -> bool {
        self.project().pipeline.take_content()
    }

    /// Whether the interceptors have no work left. If a response is open, a pending poll then waits for the upstream.
    pub(crate) fn is_idle(&self) -> bool {
        self.pipeline.is_idle()
    }

    /// Ends the stream with an error: cancels the upstream now. The interceptors end when the stream is polled.
    pub(crate) fn abort(mut self: Pin<&mut Self>, error: Error) {
        let mut this = self.as_mut().project();
        this.upstream.set(None);
        // Frees the unfinished event.
        *this.decoder = this.decoder.renewed();
        *this.continuation = None;
        *this.next_input = NextInput::Frame;
        this.pipeline.end(Finish::Failed(error));
    }

    /// The bytes that the stream holds: of the unfinished event in the decoder, and of blocks that wait for interceptors.
    pub(crate) fn retained_bytes(&self) -> usize {
        self.decoder.held_bytes() + self.pipeline.waiting_bytes()
    }

    /// Reports the outcome of the stream, unless another one is decided.
    pub(crate) fn close(self: Pin<&mut Self>, outcome: StreamOutcome) {
        self.project().pipeline.close(outcome);
    }

    /// Takes the report of a stream that has ended. The caller closes it: after a clean end when the client has received the end.
    pub(crate) fn take_report(self: Pin<&mut Self>) -> Option<StreamReport> {
        self.project().pipeline.take_report()
    }

    /// Whether an interceptor has ended the stream.
    pub(crate) fn is_ended_by_interceptor(&self) -> bool {
        self.pipeline.is_ended_by_interceptor()
    }

    /// Removes the source of continuations. Returns whether the stream was waiting for one: then the stream ends as its last
    /// response did, and the caller polls it for the blocks that the interceptors hold.
    pub(crate) fn stop_waiting(mut self: Pin<&mut Self>) -> bool {
        let this = self.as_mut().project();
        let was_waiting = *this.next_input != NextInput::Frame;
        let continuation = this.continuation.take().filter(|_| was_waiting);
        let end = continuation.and_then(|mut continuation| continuation.get_mut().stop_waiting());
        *this.next_input = NextInput::Frame;
        end.map(|end| self.end_stream(end)).is_some()
    }

    /// Ends the present response without waiting for the rest of it. For an upstream that has sent the terminal event.
    pub(crate) fn finish_now(mut self: Pin<&mut Self>) {
        self.as_mut().project().upstream.set(None);
        self.handle_response_end(UpstreamEnd::Clean(None));
    }

    /// Cancels the open response as if its connection had broken, if a continuation may follow. Returns false if none may; then the caller
    /// ends the stream.
    pub(crate) fn continue_anew(mut self: Pin<&mut Self>) -> bool {
        let mut this = self.as_mut().project();
        let Some(continuation) = this.continuation else {
            return false;
        };
        if this.upstream.is_none() {
            return false;
        }
        this.upstream.set(None);
        let end = UpstreamEnd::Broken(Error::with_source(ErrorKind::Upstream, "it is silent"));
        let continues = continuation.get_mut().handle_end(end).is_ok();
        if continues {
            *this.next_input = NextInput::ContinuationAfterFlush;
        }
        continues
    }

    /// Handles the end of a response: ends the stream, unless a continuation may follow.
    fn handle_response_end(mut self: Pin<&mut Self>, end: UpstreamEnd) {
        let this = self.as_mut().project();
        let handled = match this.continuation {
            Some(continuation) => continuation.get_mut().handle_end(end),
            None => Err(end),
        };
        match handled {
            Ok(()) => *this.next_input = NextInput::ContinuationAfterFlush,
            Err(end) => self.end_stream(end),
        }
    }

    fn end_stream(self: Pin<&mut Self>, end: UpstreamEnd) {
        let this = self.project();
        *this.continuation = None;
        this.pipeline.end(match end {
            UpstreamEnd::Clean(trailers) => {
                *this.trailers = trailers;
                Finish::Complete
            }
            UpstreamEnd::Broken(error) => Finish::Failed(error),
        });
    }

    /// Moves blocks from the upstream to the sink until the sink is full, no more data is ready, or the stream is over. Must not be
    /// polled after the end or an error.
    ///
    /// The [work budget](WorkBudget) limits one poll. When the time of the interceptors is used up, returns [`Step::Full`]. When the poll
    /// has read as much upstream data as it may, returns `Pending` and wakes the task.
    #[inline] // See `Source::poll_frames` of `Pull`.
    pub(crate) fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        sink: &mut impl Sink,
    ) -> Poll<Step> {
        // Timeouts are also due while the upstream always has more data.
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
            // The wait ends at the deadline, whether it is for the upstream, an interceptor or a continuation.
            let Some(deadline) = *this.deadline else {
                return Poll::Pending;
            };
            ready!(this.timer.poll(cx, deadline));
            this.pipeline.handle_timeout(Instant::now());
        }
    }

    #[inline(never)] // For the instruction cache; see `downstream::stream::Stream::poll_frame`.
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
                    // All interceptors have handled the end, and the blocks that they held are in the sink.
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
            match (*this.next_input, this.continuation.as_mut()) {
                (NextInput::Frame, _) | (_, None) => {}
                (NextInput::ContinuationAfterFlush, Some(_)) => {
                    // `Continuation::poll_next` relies on it: the driver has handled the blocks before.
                    *this.next_input = NextInput::Continuation;
                    return Poll::Ready(Step::Full);
                }
                (NextInput::Continuation, Some(continuation)) => {
                    match ready!(continuation.get_mut().poll_next(cx)) {
                        Ok(upstream) => {
                            if let Some(live) = this.pipeline.live() {
                                upstream.observe(live);
                            }
                            this.upstream.set(Some(upstream));
                            // The upstream repeats an unfinished block, or drops it.
                            *this.decoder = this.decoder.renewed();
                            *this.first_bytes =
                                this.first_bytes.take().map(|_| FirstBytes::default());
                        }
                        Err(end) => {
                            self.as_mut().end_stream(end);
                            this = self.as_mut().project();
                        }
                    }
                    *this.next_input = NextInput::Frame;
                    continue;
                }
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
                        this.pipeline.count_received(chunk.len());
                        budget.charge_frame(chunk.len());
                        let mark = this
                            .first_bytes
                            .as_mut()
                            .and_then(|first| first.handle_chunk(&chunk));
                        match mark {
                            None => this.decoder.push(chunk),
                            Some(encoding) => {
                                let source =
                                    format!("the body begins with a byte order mark of {encoding}");
                                let error = Error::with_source(ErrorKind::NotUtf8, source);
                                this.pipeline.end(Finish::Failed(error));
                            }
                        }
                    }
                    Err(frame) => {
                        if let Ok(mut trailers) = frame.into_trailers() {
                            remove_digests(&mut trailers);
                            *this.trailers = Some(Box::new(trailers));
                        }
                    }
                },
                Some(Err(error)) => {
                    this.upstream.set(None);
                    let is_of_the_client = error.kind() == ErrorKind::Lagged;
                    let end = UpstreamEnd::Broken(error);
                    if is_of_the_client {
                        // No continuation follows: the client would be too slow for it, too.
                        self.as_mut().end_stream(end);
                    } else {
                        self.as_mut().handle_response_end(end);
                    }
                    this = self.as_mut().project();
                }
                None => {
                    this.upstream.set(None);
                    if let Some(rest) = this.decoder.finish() {
                        *this.is_truncated = true;
                        this.pipeline.finish(rest, sink);
                    } else {
                        let trailers = this.trailers.take();
                        self.as_mut()
                            .handle_response_end(UpstreamEnd::Clean(trailers));
                        this = self.as_mut().project();
                    }
                }
            }
        }
    }
}
