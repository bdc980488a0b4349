//! Moves the blocks of an upstream into the log of a recorded stream.

mod ending;

use std::{
    cmp::{max, min},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    downstream::{flush_policy::FlushPolicy, source::Source},
    live::StreamWatchdog,
    log::{Ending, LogEncoder, WriteDemand},
    observe::{StreamOutcome, StreamReport},
    replay::{
        lifetime::{Lifetime, Limits},
        observed_writer::ObservedWriter,
        streams::Registration,
    },
    session::SessionLease,
    timer::Timer,
    upstream::{Pull, Step, sink::Sink as _},
};

/// The maximum number of steps in one poll. After them, other tasks run first.
const STEPS_PER_POLL: usize = 16;

/// The number of bytes that are read from the upstream at once while the logs of the layer or of the owner are over their limit. One
/// event is read in any case.
const BYTES_OVER_QUOTA: u64 = 16 << 10;

/// The memory, in bytes, that a running stream without a client takes beside its log: its task.
const DETACHED_OVERHEAD: usize = 6656;

/// The memory, in bytes, of a hyper connection to an upstream, without its read buffer: two tasks, their channels and the heads.
const CONNECTION_OVERHEAD: usize = 16 << 10;

pin_project! {
    /// Moves the blocks of the upstream into the log.
    pub(super) struct Writer<B> {
        #[pin]
        stage: Stage<B>,
        lifetime: Lifetime,
        // `None` without observers.
        observed: Option<Box<ObservedWriter>>,
        encoder: LogEncoder,
        flush_policy: FlushPolicy,
        // The logs of the layer or of the owner are over their limit, and nothing more can be evicted.
        over_quota: bool,
        // The bytes that the upstream has sent since its last pause, and the most between two pauses.
        burst: usize,
        largest_burst: usize,
        // The upper bound of the read buffer of a connection to the upstream.
        read_buffer: usize,
        registration: Arc<Registration>,
        timer: Timer,
        // Keeps the session alive.
        lease: Option<SessionLease>,
    }
}

pin_project! {
    /// The stages of a stream that is written. [`Writer::transition`] alone changes the stage.
    #[project = StageProjection]
    #[project_replace = StageReplaced]
    enum Stage<B> {
        /// The upstream is read.
        Reading {
            #[pin]
            pull: Pull<B>,
            // The encoder has blocks for the log. The upstream is read again after they are written.
            must_write: bool,
        },
        /// The upstream has ended. The encoder may have blocks left for which the log had no room.
        Draining {
            end: UpstreamEnded,
        },
        Ended,
    }
}

/// How the upstream of a stream ended.
struct UpstreamEnded {
    ending: Ending,
    /// The upstream ended inside an event.
    truncated: bool,
    /// Closes when all events are written.
    report: Option<StreamReport>,
}

/// An event that changes the stage of a writer.
enum Transition {
    UpstreamEnded(UpstreamEnded),
    /// All blocks are in the log.
    Drained,
    /// The stream ends before its upstream has ended, or before all blocks are in the log.
    Cut(StreamOutcome),
}

impl<B> Writer<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// `read_buffer` is the upper bound, in bytes, of the read buffer of a connection to the upstream.
    pub(super) fn new(
        pull: Pull<B>,
        registration: Arc<Registration>,
        read_buffer: usize,
        limits: Limits,
        watchdog: Option<StreamWatchdog>,
        lease: Option<SessionLease>,
    ) -> Self {
        let live = registration.stream.live.as_ref();
        let observed = live.zip(watchdog);
        Self {
            observed: observed
                .map(|(live, watchdog)| Box::new(ObservedWriter::new(live, watchdog))),
            stage: Stage::Reading {
                pull,
                must_write: false,
            },
            lifetime: Lifetime::new(limits),
            encoder: LogEncoder::new(registration.stream.id_prefix()),
            flush_policy: FlushPolicy::default(),
            over_quota: registration.account((0, 0)),
            burst: 0,
            largest_burst: 0,
            read_buffer,
            registration,
            timer: Timer::default(),
            lease,
        }
    }

    /// Writes the stream. Ready when it has ended.
    pub(super) fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..STEPS_PER_POLL {
            ready!(self.as_mut().poll_step(cx));
            if matches!(self.stage, Stage::Ended) {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Checks the limits and the readers, and then reads or writes once. Ready when another step may be possible.
    fn poll_step(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.as_mut().project();
        let mut reading = None;
        let must_write = match this.stage.project() {
            StageProjection::Reading { pull, must_write } => {
                reading = Some(pull);
                *must_write
            }
            StageProjection::Draining { .. } => {
                if this.encoder.pending() == 0 {
                    let observed = this.observed.as_ref();
                    match observed.and_then(|observed| observed.settle()) {
                        Some(outcome) => self.end_early(outcome),
                        None => self.transition(Transition::Drained),
                    }
                    return Poll::Ready(());
                }
                true
            }
            StageProjection::Ended => return Poll::Ready(()),
        };
        if let Some(observed) = this.observed
            && let Some(outcome) =
                observed.poll_end(|| reading.is_some_and(|pull| pull.continue_anew()))
        {
            self.end_early(outcome);
            return Poll::Ready(());
        }
        let Registration { stream, streams } = &**this.registration;
        let next_size = if must_write {
            this.encoder.next_size()
        } else {
            0
        };
        let demand = stream.log.poll_demand(cx, next_size);
        let detached_since = stream.log.detached_since();
        let deadline = this.lifetime.deadline(detached_since);
        if this.lifetime.is_exceeded(
            deadline,
            detached_since,
            streams.registry.detached(),
            stream.owner.owner,
            &stream.log,
        ) {
            self.handle_limit(detached_since.is_some());
            return Poll::Ready(());
        }
        match demand {
            WriteDemand::Stop => {
                // Events are evicted completely only while the stream has no client.
                let outcome = if stream.log.is_aborted() {
                    StreamOutcome::Cancelled
                } else {
                    StreamOutcome::ClientLeft
                };
                self.transition(Transition::Cut(outcome));
                return Poll::Ready(());
            }
            WriteDemand::Write { blocks, bytes } if !*this.over_quota => {
                this.encoder.set_room(blocks, bytes);
            }
            WriteDemand::Write { blocks, bytes } if stream.log.poll_caught_up(cx) => {
                this.encoder.set_room(blocks, bytes.min(BYTES_OVER_QUOTA));
            }
            WriteDemand::Write { .. } | WriteDemand::Wait => {
                if let Some(observed) = this.observed {
                    observed.handle_wait();
                }
                return self.poll_due(cx, [deadline]);
            }
        }
        if must_write {
            self.write();
            Poll::Ready(())
        } else {
            self.poll_read(cx, deadline)
        }
    }

    /// Reads from the upstream. Ready when another step may be possible.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
    ) -> Poll<()> {
        let this = self.as_mut().project();
        let StageProjection::Reading { mut pull, .. } = this.stage.project() else {
            return Poll::Ready(());
        };
        let before = this.encoder.pending();
        let step = pull
            .span()
            .in_scope(|| pull.as_mut().poll(cx, this.encoder));
        if let Some(observed) = this.observed {
            let waiting = this.encoder.waiting_bytes();
            observed.handle_read(pull.as_mut(), &step, waiting);
        }
        match step {
            Poll::Ready(Step::Full) => {}
            Poll::Ready(Step::End(trailers)) => {
                if pull.is_ended_by_interceptor() {
                    // The end is final: no resume request asks the upstream to continue.
                    this.registration.stream.progress.complete();
                }
                this.encoder.finish();
                let end = UpstreamEnded {
                    ending: Ending::Clean(trailers),
                    truncated: pull.is_truncated(),
                    report: pull.take_report(),
                };
                self.as_mut().transition(Transition::UpstreamEnded(end));
            }
            Poll::Ready(Step::Failed(error)) => {
                let end = UpstreamEnded {
                    ending: Ending::Broken(Arc::new(error)),
                    truncated: false,
                    report: pull.take_report(),
                };
                self.as_mut().transition(Transition::UpstreamEnded(end));
            }
            Poll::Pending => {
                let ready = this.encoder.pending();
                if ready > 0 {
                    if this
                        .flush_policy
                        .waits(before, ready, Pull::<B>::MAX_EMPTY_POLLS)
                    {
                        // More blocks may be ready in a moment. `downstream::stream::Stream` waits for the same reason.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    self.as_mut().write();
                    if self.encoder.pending() > 0 {
                        return Poll::Ready(());
                    }
                }
                return self.poll_idle(cx, deadline);
            }
        }
        self.write();
        Poll::Ready(())
    }

    /// Waits for the upstream: frees and counts memory, and evicts expired events. Ready when the deadline has passed or events
    /// expire.
    fn poll_idle(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
    ) -> Poll<()> {
        self.as_mut().release_burst_memory();
        let (expires, change) = self.registration.stream.log.expire(Instant::now());
        self.registration.account(change);
        self.poll_due(cx, [deadline, expires])
    }

    /// Ready at the first of these times, or when the watchdog is due.
    fn poll_due<const N: usize>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        times: [Option<Instant>; N],
    ) -> Poll<()> {
        let this = self.project();
        let watchdog = this
            .observed
            .as_ref()
            .and_then(|observed| observed.deadline());
        match times.into_iter().chain([watchdog]).flatten().min() {
            Some(at) => this.timer.poll(cx, at),
            None => Poll::Pending,
        }
    }

    /// Frees the memory of the last burst of events, and counts the memory that the stream takes beside its log.
    fn release_burst_memory(self: Pin<&mut Self>) {
        let this = self.project();
        this.encoder.shrink();
        let StageProjection::Reading { mut pull, .. } = this.stage.project() else {
            return;
        };
        // The read buffer of a connection grows with the largest burst, and does not shrink.
        *this.burst += pull.as_mut().take_received();
        *this.largest_burst = max(*this.largest_burst, std::mem::take(this.burst));
        let stream = &this.registration.stream;
        let overhead = if stream.log.detached_since().is_none() {
            // Counted only without a client: the number of clients bounds the streams that have one.
            0
        } else {
            let connection = if pull.has_upstream() {
                CONNECTION_OVERHEAD + min(*this.largest_burst, *this.read_buffer)
            } else {
                0
            };
            DETACHED_OVERHEAD + stream.memory() + pull.unfinished_bytes() + connection
        };
        this.registration.account(stream.log.set_overhead(overhead));
    }

    /// Writes blocks of the encoder to the log: as many as there is room for, and at least one.
    fn write(self: Pin<&mut Self>) {
        let this = self.project();
        if this.encoder.pending() > 0 {
            let log = &this.registration.stream.log;
            let blocks = this.encoder.encode(log.next_position());
            let bytes = blocks.iter().map(|(block, _)| block.len()).sum();
            this.lifetime.count(bytes, log.detached_since().is_some());
            if let Some(observed) = this.observed {
                observed.handle_written(&blocks);
            }
            let change = log.write(blocks, Instant::now());
            if let Some(id) = this.encoder.take_last_id() {
                this.registration.stream.progress.set_logged(id);
            }
            *this.over_quota = this.registration.account(change);
        }
        if let StageProjection::Reading { must_write, .. } = this.stage.project() {
            *must_write = this.encoder.pending() > 0;
        }
    }
}
