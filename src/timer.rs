//! A timer that registers with the runtime when it is first needed.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// Waits for a deadline that may change at each poll.
///
/// A later deadline costs nothing until the old one has passed. So a deadline that moves with each event does not access the timer
/// of the runtime for each event.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The deadline that is registered with the runtime, and the task that it wakes. The deadline is a copy of the one in `sleep`,
    /// which saves an access to the memory of `sleep`.
    registered: Option<(Instant, Waker)>,
}

impl Timer {
    /// Ready at the time `at`. If that is in the future, panics outside of a tokio runtime with a timer.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        self.poll_at(cx, Instant::now(), at)
    }

    /// As [`poll`](Self::poll), for a caller that has read the clock.
    pub(crate) fn poll_at(&mut self, cx: &mut Context<'_>, now: Instant, at: Instant) -> Poll<()> {
        if at <= now {
            return Poll::Ready(());
        }
        if let Some((registered, waker)) = &self.registered
            && (now < *registered && *registered <= at)
            && waker.will_wake(cx.waker())
        {
            return Poll::Pending;
        }
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            // A task without tokio's coop budget would get `Pending`, and the deadline would not be registered.
            let sleeping = pin!(unconstrained(sleep.as_mut()));
            if sleeping.poll(cx).is_pending() {
                self.registered = Some((sleep.deadline(), cx.waker().clone()));
                return Poll::Pending;
            }
            self.registered = None;
            if at <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}
