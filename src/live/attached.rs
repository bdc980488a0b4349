//! The upstream half of an attached stream, in a slot that others can empty.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;
use tower::BoxError;

use super::{
    housekeeper::{Checked, Housekeeper},
    slot::{Endable, Slot},
    watchdog::StreamWatchdog,
};
use crate::{
    error::{Error, ErrorKind},
    observe::{LiveStream, StreamEnded, StreamOutcome, StreamReport, WatchdogKind},
    upstream::{Pull, Step, sink::Sink},
};

/// How long a check waits for a stream that is being polled.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The upstream half of an attached stream that is observed. The body of the client's response polls it;
/// [`StreamControl`](crate::observe::StreamControl) and the watchdogs reach it although the client takes nothing. Dropping it cancels the
/// upstream.
///
/// It stays until the client has received the end of the stream: until then the stream is open, and others can end it.
pub(crate) struct Attached<B> {
    slot: Arc<Slot<Upstream<B>>>,
}

struct Upstream<B> {
    /// `None` after the end of the upstream.
    pull: Option<Pin<Box<Pull<B>>>>,
    /// The report of a stream after the clean end of its upstream, until the client has received the end.
    report: Option<StreamReport>,
    waker: Option<Waker>,
    watchdog: StreamWatchdog,
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
        mut watchdog: StreamWatchdog,
        housekeeper: &Arc<Housekeeper>,
    ) -> Self {
        let now = Instant::now();
        // The server has not asked for the first frame yet. It may never ask: an HTTP/2 client controls when it gets data.
        watchdog.handle_poll(false, true, now);
        let next_check = watchdog
            .has_limits()
            .then(|| watchdog.next_check(now))
            .flatten();
        let upstream = Upstream {
            pull: Some(Box::pin(pull)),
            report: None,
            waker: None,
            watchdog,
            held_since: None,
        };
        let slot = Slot::new(live, upstream);
        let control: Weak<Slot<Upstream<B>>> = Arc::downgrade(&slot);
        slot.live().set_control(control.clone());
        if let Some(at) = next_check {
            housekeeper.schedule(at, control);
        }
        Self { slot }
    }

    /// Moves blocks to the sink. See [`Pull::poll`].
    pub(crate) fn poll(&self, cx: &mut Context<'_>, sink: &mut impl Sink) -> Poll<Step> {
        let live = self.slot.live();
        self.slot.with(|upstream| {
            match &mut upstream.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
            let Some(pull) = &mut upstream.pull else {
                return Poll::Ready(Step::Failed(Error::new(ErrorKind::Aborted)));
            };
            let step = pull.span().in_scope(|| pull.as_mut().poll(cx, sink));
            let buffered = pull.retained_bytes() + sink.waiting_bytes();
            let is_unread = sink.has_blocks();
            let last = match (&step, live.decided_end()) {
                (Poll::Ready(Step::Failed(_)), Some(outcome)) => pull.ending(outcome),
                _ => None,
            };
            upstream.handle_poll(live, &step, is_unread);
            live.set_buffered(buffered);
            if let Some(last) = last {
                live.count_added(last.as_bytes().len());
                sink.block(last);
            }
            step
        })
    }

    /// Takes the report of a stream that has failed. See [`Pull::take_report`].
    pub(crate) fn take_report(&self) -> Option<StreamReport> {
        self.slot
            .with(|upstream| upstream.pull.as_mut()?.as_mut().take_report())
    }

    /// Handles a clean end of the upstream, which the client has yet to receive.
    pub(crate) fn handle_end(&self) {
        let ended = self.slot.with(|upstream| {
            let mut pull = upstream.pull.take()?;
            upstream.report = pull.as_mut().take_report();
            Some(pull)
        });
        // Outside of the lock: interceptors are user code.
        drop(ended);
    }

    /// Handles that the client receives a clean end. Fails if another end of the stream was decided before.
    pub(crate) fn close(&self) -> Result<(), Error> {
        let report = self.slot.with(|upstream| upstream.report.take());
        if let Some(report) = report {
            report.close(StreamEnded::of(StreamOutcome::Completed));
        }
        match self.slot.live().decided_end() {
            Some(_) => Err(Error::new(ErrorKind::Aborted)),
            None => Ok(()),
        }
    }

    /// Counts bytes that the layer adds to the stream.
    pub(crate) fn count_added(&self, bytes: usize) {
        self.slot.live().count_added(bytes);
    }
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Updates the counters and the watchdog after a poll.
    fn handle_poll(&mut self, live: &LiveStream, step: &Poll<Step>, is_unread: bool) {
        let Some(pull) = &mut self.pull else { return };
        let now = Instant::now();
        let has_ended = matches!(step, Poll::Ready(step) if step.is_last());
        let holds_events = !pull.is_idle() && !has_ended;
        let waits_for_upstream =
            step.is_pending() && pull.as_mut().waits_for_upstream() && !is_unread;
        let has_content = pull.as_mut().take_content();
        live.update(pull.progress(), has_content, now);
        if has_content && let Some(gap) = self.watchdog.handle_content(now) {
            live.count_gap(gap);
        }
        self.watchdog
            .handle_poll(waits_for_upstream, is_unread, now);
        // Counts the time also while the event is held, because no poll follows if its verdict fails.
        if let Some(since) = self.held_since {
            live.count_hold(now - since, !holds_events);
        }
        self.held_since = holds_events.then(|| self.held_since.unwrap_or(now));
    }

    /// Asks the upstream to continue, because this limit is exceeded. Returns false if the stream has to end instead.
    fn continue_anew(&mut self, kind: WatchdogKind, now: Instant) -> bool {
        let Some(pull) = &mut self.pull else {
            return false;
        };
        let continues = self.watchdog.may_reconnect(kind) && pull.as_mut().continue_anew();
        if continues {
            self.watchdog.handle_reconnect(now);
        }
        continues
    }
}

impl<B> Endable for Upstream<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The interceptors end when the body is polled, or dropped.
    fn end(&mut self) -> (Option<StreamReport>, Option<Waker>) {
        let report = match &mut self.pull {
            Some(pull) => {
                let report = pull.as_mut().take_report();
                if report.is_some() {
                    pull.as_mut().abort(Error::new(ErrorKind::Aborted));
                }
                report
            }
            None => self.report.take(),
        };
        (report, self.waker.take())
    }
}

impl<B> Checked for Slot<Upstream<B>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn check(&self, now: Instant) -> Option<Instant> {
        let checked = self.try_with(|upstream| {
            if upstream.pull.is_none() && upstream.report.is_none() {
                return None;
            }
            let kind = upstream.watchdog.check(now);
            let continues = kind.is_some_and(|kind| upstream.continue_anew(kind, now));
            // The poll of the body then asks the upstream to continue.
            let waker = upstream.waker.take_if(|_| continues);
            let acts = !upstream.watchdog.only_observes();
            let ends = acts && !continues;
            let fired = kind.map(|kind| (kind, acts, ends));
            Some((fired, waker, upstream.watchdog.next_check(now)))
        });
        let Some(checked) = checked else {
            return Some(now + BUSY_PAUSE);
        };
        let (fired, waker, next) = checked?;
        if let Some((kind, acts, ends)) = fired {
            self.live().watchdog_fired(kind, acts);
            if ends {
                self.live().end_with(kind.outcome());
                return None;
            }
        }
        waker.into_iter().for_each(Waker::wake);
        next
    }
}

/// The client has disconnected, or the stream is over.
impl<B> Drop for Attached<B> {
    fn drop(&mut self) {
        let mut upstream = self.slot.lock();
        let rest = (upstream.report.take(), upstream.pull.take());
        drop(upstream);
        // Outside of the lock: interceptors and observers are user code.
        drop(rest);
    }
}
