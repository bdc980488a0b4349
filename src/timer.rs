//! A timer that allocates nothing until it is first needed.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// Waits for a deadline that may change at each call.
///
/// A later deadline does not change the runtime's timer until the old deadline has passed. So traffic that moves a deadline with
/// each event is cheap.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The deadline of `sleep`, and the waker that it wakes. The deadline is stored twice so that a poll need not read the boxed
    /// `sleep`.
    set: Option<(Instant, Waker)>,
}

impl Timer {
    /// Ready when the time is `at` or later. A poll before that time needs a tokio runtime with a timer, and wakes the task of
    /// `cx` then.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        self.poll_at(cx, Instant::now(), at)
    }

    /// The same with the current time `now`, for a caller that has read the clock already.
    pub(crate) fn poll_at(&mut self, cx: &mut Context<'_>, now: Instant, at: Instant) -> Poll<()> {
        if at <= now {
            return Poll::Ready(());
        }
        if let Some((set, waker)) = &self.set
            && (now < *set && *set <= at)
            && waker.will_wake(cx.waker())
        {
            return Poll::Pending;
        }
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            // Without `unconstrained`, tokio returns `Pending` for a task without coop budget before it has set the timer.
            let sleeping = pin!(unconstrained(sleep.as_mut()));
            if sleeping.poll(cx).is_pending() {
                self.set = Some((sleep.deadline(), cx.waker().clone()));
                return Poll::Pending;
            }
            self.set = None;
            if at <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}
