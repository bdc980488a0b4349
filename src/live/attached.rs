//! The upstream half of an attached stream, in a slot that others can empty.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
        atomic::{AtomicBool, Ordering, fence},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;
use tower::BoxError;

use super::{
    clock::StreamClock,
    housekeeper::{Checked, Housekeeper},
};
use crate::{
    error::{Error, ErrorKind},
    observe::{LiveStream, StreamControl, StreamEnded, StreamOutcome, StreamReport, WatchdogKind},
    upstream::{Pull, Step, sink::Sink},
};

/// How long a check waits for a stream that is being polled.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The upstream half of an attached stream that is observed. The body of the client's response polls it; [`StreamControl`] and the
/// watchdogs reach it although the client takes nothing. Dropping it cancels the upstream.
pub(crate) struct Attached<B> {
    shared: Arc<Shared<B>>,
}

struct Shared<B> {
    live: Arc<LiveStream>,
    slot: Mutex<Slot<B>>,
    /// The end of the stream is decided, and has to be carried out.
    must_end: AtomicBool,
}

struct Slot<B> {
    /// `None` after the end of the stream.
    pull: Option<Pin<Box<Pull<B>>>>,
    waker: Option<Waker>,
    clock: StreamClock,
    /// The time since which an event has waited for a deferred verdict.
    held_since: Option<Instant>,
}

impl<B> Attached<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(
        pull: Pull<B>,
        live: Arc<LiveStream>,
        clock: StreamClock,
        housekeeper: &Arc<Housekeeper>,
    ) -> Self {
        let next_check = clock.deadline();
        let has_limits = clock.has_limits();
        let slot = Slot {
            pull: Some(Box::pin(pull)),
            waker: None,
            clock,
            held_since: None,
        };
        let shared = Arc::new(Shared {
            slot: Mutex::new(slot),
            must_end: AtomicBool::new(false),
            live,
        });
        let control: Weak<Shared<B>> = Arc::downgrade(&shared);
        shared.live.set_control(control.clone());
        if has_limits {
            housekeeper.schedule(next_check.unwrap_or_else(Instant::now), control);
        }
        Self { shared }
    }

    /// Moves blocks to the sink. See [`Pull::poll`].
    pub(crate) fn poll(&self, cx: &mut Context<'_>, sink: &mut impl Sink) -> Poll<Step> {
        let mut slot = self.shared.lock();
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
        let Some(pull) = &mut slot.pull else {
            return Poll::Ready(Step::Failed(Error::new(ErrorKind::Aborted)));
        };
        let mut step = pull.span().in_scope(|| pull.as_mut().poll(cx, sink));
        let buffered = pull.retained_bytes() + sink.waiting_bytes();
        let is_unread = sink.has_blocks();
        let waits_for_upstream = step.is_pending() && pull.waits_for_upstream() && !is_unread;
        let has_ended = matches!(&step, Poll::Ready(step) if step.is_last());
        let holds_events = !pull.waits_for_upstream() && !has_ended;
        let live = &self.shared.live;
        slot.handle_poll(live, waits_for_upstream, is_unread, holds_events);
        live.set_buffered(buffered);
        if let Poll::Ready(Step::Failed(_)) = &mut step
            && let Some(outcome) = self.shared.live.decided_end()
            && let Some(last) = slot.pull.as_ref().and_then(|pull| pull.ending(outcome))
        {
            self.shared.live.count_added(last.as_bytes().len());
            sink.block(last);
        }
        drop(slot);
        self.shared.end_if_decided();
        step
    }

    /// Takes the report of a stream that has ended. See [`Pull::take_report`].
    pub(crate) fn take_report(&self) -> Option<StreamReport> {
        let mut slot = self.shared.lock();
        slot.pull.as_mut()?.as_mut().take_report()
    }

    /// Counts bytes that the layer adds to the stream.
    pub(crate) fn count_added(&self, bytes: usize) {
        self.shared.live.count_added(bytes);
    }
}

impl<B> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, Slot<B>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot, unless the stream is being polled now.
    fn try_lock(&self) -> Option<MutexGuard<'_, Slot<B>>> {
        match self.slot.try_lock() {
            Ok(slot) => Some(slot),
            Err(TryLockError::Poisoned(slot)) => Some(slot.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<B> Shared<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Carries out a decided end: cancels the upstream, reports the end, and wakes the body, which then fails.
    ///
    /// If the stream is being polled now, the poll carries it out. An interceptor that closes its own stream is such a case.
    fn end_if_decided(&self) {
        fence(Ordering::SeqCst);
        if !self.must_end.load(Ordering::Relaxed) {
            return;
        }
        let Some(mut slot) = self.try_lock() else {
            return;
        };
        self.must_end.store(false, Ordering::Relaxed);
        let Some(pull) = &mut slot.pull else { return };
        pull.as_mut().abort(Error::new(ErrorKind::Aborted));
        let report = pull.as_mut().take_report();
        let waker = slot.waker.take();
        drop(slot);
        // Outside of the lock: observers are user code.
        if let (Some(report), Some(outcome)) = (report, self.live.decided_end()) {
            report.close(StreamEnded::of(outcome));
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<B> Slot<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Updates the counters and the clock after a poll.
    fn handle_poll(
        &mut self,
        live: &LiveStream,
        waits_for_upstream: bool,
        is_unread: bool,
        holds_events: bool,
    ) {
        let Some(pull) = &mut self.pull else { return };
        let now = Instant::now();
        let has_content = pull.as_mut().take_content();
        live.update(pull.progress(), has_content, now);
        if has_content && let Some(gap) = self.clock.handle_content(now) {
            live.count_gap(gap);
        }
        self.clock.handle_poll(waits_for_upstream, is_unread, now);
        // Also while the event is held: if its verdict fails, there is no later poll.
        if let Some(since) = self.held_since {
            live.count_hold(now - since, !holds_events);
        }
        self.held_since = holds_events.then(|| self.held_since.unwrap_or(now));
    }
}

impl<B> StreamControl for Shared<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn end(&self, _outcome: StreamOutcome) {
        self.must_end.store(true, Ordering::Relaxed);
        self.end_if_decided();
    }

    fn clients(&self) -> usize {
        1
    }
}

impl<B> Checked for Shared<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn check(&self, now: Instant) -> Option<Instant> {
        let Some(mut slot) = self.try_lock() else {
            return Some(now + BUSY_PAUSE);
        };
        slot.pull.as_ref()?;
        let clock = &mut slot.clock;
        let fired = clock.check(now);
        let acts = !clock.only_observes();
        // While the layer waits for the client or an interceptor there is no deadline; the next poll does not set one here.
        let next = clock.deadline().unwrap_or_else(|| now + clock.pause());
        drop(slot);
        if let Some(kind) = fired {
            self.live.watchdog_fired(kind, acts);
            if acts {
                self.live.end_with(outcome_of(kind));
                return None;
            }
        }
        Some(next)
    }
}

/// The outcome of a stream that a watchdog ends.
pub(crate) fn outcome_of(kind: WatchdogKind) -> StreamOutcome {
    match kind {
        WatchdogKind::Age => StreamOutcome::Expired,
        _ => StreamOutcome::Stalled,
    }
}

/// The client has disconnected, or the stream is over.
impl<B> Drop for Attached<B> {
    fn drop(&mut self) {
        let pull = self.shared.lock().pull.take();
        // Outside of the lock: interceptors and observers are user code.
        if let Some(pull) = pull {
            pull.span().in_scope(|| drop(pull));
        }
    }
}
