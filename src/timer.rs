//! One timer that is made when it is first needed.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// Waits for a point in time that may move at every call.
///
/// Moving it later costs nothing until the old time comes, so traffic that puts off a deadline at every
/// event does not touch the runtime's timer at every event.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the runtime will wake whom. (The first is the sleep's own deadline: here it can be read without fetching the sleep.)
    set: Option<(Instant, Waker)>,
}

impl Timer {
    /// Ready once `at` has come. Needs tokio's timer only if it has not.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        self.poll_at(cx, Instant::now(), at)
    }

    /// The same for who knows what time it is.
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
            // A task that has used up its budget would be told to wait, and nobody would have been set to wake it.
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
