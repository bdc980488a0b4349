//! What keeps a stream while clients come and go: it moves the upstream into a log.

use std::{
    cmp::{max, min},
    future::Future,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    downstream::{flush_policy::FlushPolicy, source::Source},
    error::{Error, ErrorKind},
    log::{Ending, LogEncoder, LogState, WriteDemand},
    observe::report::{StreamOutcome, StreamReport},
    replay::{DetachedSlot, RecordedStreams, recorded_stream::RecordedStream},
    session::{Owner, SessionLease},
    timer::Timer,
    upstream::{Pull, Step},
};

/// So many times a poll goes back to the upstream before other tasks have their turn.
const ROUNDS_A_POLL: usize = 16;

/// So many bytes are taken from the upstream at once, and one event in any case, when there is no room in the log.
const BYTES_WITHOUT_ROOM: u64 = 16 << 10;

/// How long interceptors may take for what they hold once the stream is over.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// For how long an upstream goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Without a client.
    linger: Duration,
    /// In bytes, without a client.
    detached_bytes: u64,
    /// In all.
    until: Option<Instant>,
    /// Since when there is no other answer to wait for.
    given_up: Option<Instant>,
}

impl Limits {
    pub(crate) fn new(linger: Duration, detached_bytes: u64, lifetime: Option<Duration>) -> Self {
        Self {
            linger,
            detached_bytes,
            // A time that no clock can tell is no limit.
            until: lifetime.and_then(|lifetime| Instant::now().checked_add(lifetime)),
            given_up: None,
        }
    }

    /// When there is no more time for a stream that has been without a client since then.
    fn deadline(&self, alone_since: Option<Instant>) -> Option<Instant> {
        if let Some(given_up) = self.given_up {
            return Some(given_up + LAST_WORDS);
        }
        let lingers = alone_since.and_then(|since| since.checked_add(self.linger));
        lingers.into_iter().chain(self.until).min()
    }

    /// Whether so many bytes are more than an upstream may send to nobody.
    fn is_too_much(&self, alone: u64) -> bool {
        self.given_up.is_none() && alone > self.detached_bytes
    }
}

/// A task, to be spawned: one for each stream that is kept. It ends when nothing of the stream is kept any longer.
#[must_use = "a stream is moved by whoever polls this"]
pub(crate) struct RecordDriver<B> {
    // Only while there is an upstream: an ended stream needs no memory for one.
    driver: Option<Pin<Box<Driver<B>>>>,
    kept: Arc<Kept>,
    timer: Timer,
}

/// The memory of a stream beside its log, in bytes, once it has ended: its task, its entries in the registry and what is known of
/// it. It is some 1.5 KiB in 15 allocations, and what an allocator needs for them.
const ENDED: usize = 1792;

/// The memory of a stream that goes on without a client, beside its log, and that of the connection to its upstream without the
/// buffer for what it reads: two tasks, their channels and what has been read and written of the heads, as hyper has them.
const DETACHED: usize = 6 << 10;
const CONNECTION: usize = 16 << 10;

pin_project! {
    /// Moves the upstream into the log, until it is over.
    struct Driver<B> {
        #[pin]
        pull: Option<Pull<B>>,
        stamp: LogEncoder,
        // What has been collected is to be written, as soon as there is room for it.
        due: bool,
        // How the upstream ended, once it has. The stream does when all is written.
        over: Option<(bool, Ending)>,
        // Of an upstream that ended cleanly, until all is written.
        report: Option<StreamReport>,
        flush_policy: FlushPolicy,
        // There is no room for more than its clients have still to read.
        full: bool,
        // Held while there is no client.
        detached: Option<DetachedSlot<Owner>>,
        // Sent since the last client has left.
        alone: u64,
        // What the upstream has sent since it last paused, and the most that it ever sent without a pause.
        burst: usize,
        largest_burst: usize,
        // The largest read buffer of a connection to the upstream.
        read_buffer: usize,
        limits: Limits,
        kept: Arc<Kept>,
        timer: Timer,
        // Keeps the session alive.
        lease: Option<SessionLease>,
    }
}

/// The stream's place among the others, given up when this is dropped.
struct Kept {
    recording: Arc<RecordedStream>,
    streams: Arc<RecordedStreams>,
}

impl Kept {
    /// Counts what the log holds now and held before. Returns whether there is still too much.
    fn account(&self, change: (usize, usize)) -> bool {
        self.streams.registry.account(&self.recording, change)
    }
}

impl<B> RecordDriver<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(
        pull: Pull<B>,
        recording: Arc<RecordedStream>,
        streams: Arc<RecordedStreams>,
        read_buffer: usize,
        limits: Limits,
        lease: Option<SessionLease>,
    ) -> Self {
        let kept = Arc::new(Kept { recording, streams });
        let driver = Driver {
            pull: Some(pull),
            stamp: LogEncoder::new(kept.recording.id_prefix()),
            due: false,
            over: None,
            report: None,
            flush_policy: FlushPolicy::default(),
            full: kept.account((0, 0)),
            detached: None,
            alone: 0,
            burst: 0,
            largest_burst: 0,
            read_buffer,
            limits,
            kept: Arc::clone(&kept),
            timer: Timer::default(),
            lease,
        };
        Self {
            driver: Some(Box::pin(driver)),
            kept,
            timer: Timer::default(),
        }
    }
}

impl<B> Driver<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Moves on what can be moved. Ready when the upstream is over.
    fn poll_upstream(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS_A_POLL {
            let this = self.as_mut().project();
            let channel = &this.kept.recording.log;
            if this.pull.is_none() && !*this.due {
                if let Some((truncated, ending)) = this.over.take() {
                    self.end(truncated, ending);
                }
                return Poll::Ready(());
            }
            let next = if *this.due { this.stamp.next_size() } else { 0 };
            let demand = channel.poll_demand(cx, next);
            let alone_since = channel.without_readers_since();
            if alone_since.is_none() {
                *this.alone = 0;
            }
            let deadline = this.limits.deadline(alone_since);
            let late = deadline.is_some_and(|at| at <= Instant::now());
            match alone_since {
                Some(since) if !late && this.limits.given_up.is_none() => {
                    if !this
                        .detached
                        .as_ref()
                        .is_some_and(|slot| slot.is_since(since))
                    {
                        // The old place first, so that a stream does not count twice.
                        *this.detached = None;
                        let owner = this.kept.recording.owner.owner;
                        let detached = this.kept.streams.registry.detached();
                        *this.detached = Some(detached.enter(owner, channel, since));
                    }
                }
                _ => *this.detached = None,
            }
            let late = late || this.detached.as_ref().is_some_and(DetachedSlot::is_ended);
            if late || this.limits.is_too_much(*this.alone) {
                if self.as_mut().give_up(alone_since.is_some()).is_break() {
                    return Poll::Ready(());
                }
                continue;
            }
            let demand = match demand {
                WriteDemand::Write { .. } if *this.full && !channel.poll_caught_up(cx) => {
                    WriteDemand::Wait
                }
                WriteDemand::Write { blocks, bytes } if *this.full => WriteDemand::Write {
                    blocks,
                    bytes: bytes.min(BYTES_WITHOUT_ROOM),
                },
                demand => demand,
            };
            match demand {
                WriteDemand::Write { blocks, bytes } => this.stamp.make_room(blocks, bytes),
                WriteDemand::Stop => {
                    self.let_go(StreamOutcome::Failed(ErrorKind::Aborted));
                    return Poll::Ready(());
                }
                WriteDemand::Wait => {
                    let Some(deadline) = deadline else {
                        return Poll::Pending;
                    };
                    ready!(this.timer.poll(cx, deadline));
                    continue;
                }
            }
            if *this.due {
                self.as_mut().write();
            } else {
                ready!(self.as_mut().poll_pull(cx, deadline));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what the upstream has. Ready when there is something else to look at.
    fn poll_pull(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
    ) -> Poll<()> {
        let mut this = self.as_mut().project();
        let before = this.stamp.waiting();
        let Some(mut pull) = this.pull.as_mut().as_pin_mut() else {
            return Poll::Ready(());
        };
        match pull.as_mut().poll(cx, this.stamp) {
            Poll::Ready(Step::Full) => {}
            Poll::Ready(Step::End(trailers)) => {
                let truncated = pull.is_truncated();
                if pull.is_ended_by_interceptor() {
                    // It has said the last word, for who comes back too.
                    this.kept.recording.progress.complete();
                }
                this.stamp.finish();
                *this.report = pull.take_report();
                *this.over = Some((truncated, Ending::Clean(trailers)));
                this.pull.set(None);
            }
            Poll::Ready(Step::Failed(error)) => {
                *this.over = Some((false, Ending::Broken(Arc::new(error))));
                this.pull.set(None);
            }
            Poll::Pending => {
                let now = this.stamp.waiting();
                if now > 0 {
                    if this
                        .flush_policy
                        .waits(before, now, Pull::<B>::MAX_EMPTY_POLLS)
                    {
                        // As a body does that is pulled by its client: there may be more in a moment.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    self.as_mut().write();
                }
                if *self.as_mut().project().due {
                    return Poll::Ready(());
                }
                self.as_mut().rest();
                let this = self.project();
                let (expires, change) = this.kept.recording.log.expire(Instant::now());
                this.kept.account(change);
                return match [deadline, expires].into_iter().flatten().min() {
                    Some(at) => this.timer.poll(cx, at),
                    None => Poll::Pending,
                };
            }
        }
        self.write();
        Poll::Ready(())
    }

    /// Nothing comes for now: gives back the memory of what came, and counts the memory that stays if there is no client.
    fn rest(mut self: Pin<&mut Self>) {
        let mut this = self.as_mut().project();
        this.stamp.rest();
        let Some(mut pull) = this.pull.as_mut().as_pin_mut() else {
            return;
        };
        // A connection reads with a buffer that grows with what there is to read, and keeps it.
        *this.burst += pull.as_mut().take_received();
        *this.largest_burst = max(*this.largest_burst, std::mem::take(this.burst));
        let recording = &this.kept.recording;
        let channel = &recording.log;
        let rest = if channel.without_readers_since().is_none() {
            // With its client it is a stream in flight.
            0
        } else {
            let connection = if pull.has_upstream() {
                CONNECTION + min(*this.largest_burst, *this.read_buffer)
            } else {
                0
            };
            DETACHED + recording.memory() + pull.unfinished_bytes() + connection
        };
        this.kept.account(channel.count_rest(rest));
    }

    /// There is no more time for the stream. Continues with what is still to come of it, and breaks when it is cut.
    fn give_up(mut self: Pin<&mut Self>, alone: bool) -> ControlFlow<()> {
        let mut this = self.as_mut().project();
        let is_first = this.limits.given_up.is_none();
        if alone && is_first && !this.kept.recording.log.abandon() {
            // Somebody has come in the meantime.
            return ControlFlow::Continue(());
        }
        if let Some(mut pull) = this.pull.as_mut().as_pin_mut().filter(|_| is_first) {
            let is_complete = this.kept.recording.progress.is_complete();
            let ends = pull.as_mut().stop_waiting();
            if !ends && is_complete {
                pull.as_mut().finish_now();
            }
            if ends || is_complete {
                // Interceptors are told the end, and what they hold is kept: that is soon done.
                this.limits.given_up = Some(Instant::now());
                return ControlFlow::Continue(());
            }
        }
        if this.over.is_some() {
            // There is no more to come, and this is read by nobody or not in time.
            this.stamp.make_room(u64::MAX, u64::MAX);
            self.write();
            return ControlFlow::Continue(());
        }
        self.let_go(if alone {
            StreamOutcome::ClientLeft
        } else {
            StreamOutcome::Expired
        });
        ControlFlow::Break(())
    }

    /// Writes what has been collected.
    fn write(self: Pin<&mut Self>) {
        let this = self.project();
        *this.due = this.stamp.waiting() > 0;
        if !*this.due {
            return;
        }
        let channel = &this.kept.recording.log;
        let blocks = this.stamp.take(channel.next_position());
        *this.due = this.stamp.waiting() > 0;
        let bytes: usize = blocks.iter().map(|(block, _)| block.len()).sum();
        *this.alone = match channel.without_readers_since() {
            Some(_) => *this.alone + bytes as u64,
            None => 0,
        };
        let change = channel.write(blocks, Instant::now());
        if let Some(id) = this.stamp.last_id() {
            this.kept.recording.progress.commit(id);
        }
        *this.full = this.kept.account(change);
    }

    /// The stream is over for good, unless the upstream could go on with it.
    fn end(self: Pin<&mut Self>, truncated: bool, ending: Ending) {
        let this = self.project();
        if let Some(mut report) = this.report.take() {
            report.close(StreamOutcome::Completed);
        }
        let RecordedStream {
            log: channel,
            progress,
            ..
        } = &*this.kept.recording;
        progress.stop_waiting();
        let (state, may_go_on) = match &ending {
            Ending::Clean(_) => {
                let waited = this.limits.given_up.is_some();
                (LogState::Complete, waited || truncated)
            }
            // What an interceptor refused is not to be passed over as if it had not been.
            Ending::Broken(error) => {
                let kind = error.kind();
                let by_network = matches!(kind, ErrorKind::Upstream | ErrorKind::Aborted);
                (LogState::Failed, by_network)
            }
        };
        let continuation = this.kept.recording.continuation;
        let can_go_on = may_go_on && continuation.after_break && progress.last_id().is_some();
        let state = match state {
            _ if can_go_on => LogState::Suspended,
            // The rest of the last event is missing, and no request will bring it.
            LogState::Complete if truncated && !progress.is_complete() => LogState::Failed,
            state => state,
        };
        channel.end(state, ending);
        this.kept.account(channel.compact());
        progress.shrink();
        let rest = ENDED + this.kept.recording.memory();
        this.kept.account(channel.count_rest(rest));
        *this.lease = None;
    }

    /// Cuts the stream, and reports why.
    fn let_go(mut self: Pin<&mut Self>, why: StreamOutcome) {
        let mut this = self.as_mut().project();
        if let Some(mut report) = this.report.take() {
            report.close(why);
        }
        if let Some(pull) = this.pull.as_mut().as_pin_mut() {
            pull.close(why);
        }
        this.pull.set(None);
        (*this.over, *this.due) = (None, false);
        let aborted = Arc::new(Error::new(ErrorKind::Aborted));
        self.end(false, Ending::Broken(aborted));
    }
}

impl<B> Future for RecordDriver<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Some(driver) = &mut this.driver {
            ready!(driver.as_mut().poll_upstream(cx));
            this.driver = None;
        }
        let channel = &this.kept.recording.log;
        loop {
            let (expires, change) = channel.expire(Instant::now());
            this.kept.account(change);
            if !channel.poll_retained(cx) {
                return Poll::Ready(());
            }
            // Without a time it is kept until there is no room for it.
            let Some(at) = expires else {
                return Poll::Pending;
            };
            ready!(this.timer.poll(cx, at));
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let RecordedStream { id, log, .. } = &*self.recording;
        self.streams.registry.retire(*id, &self.recording);
        self.streams.coalescer.remove(&self.recording);
        // If the task was dropped in the middle of the stream, its readers must not wait for more.
        let aborted = Arc::new(Error::new(ErrorKind::Aborted));
        if matches!(log.state(), LogState::Live) {
            log.end(LogState::Failed, Ending::Broken(aborted));
        }
    }
}
