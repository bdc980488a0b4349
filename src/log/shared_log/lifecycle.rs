//! How a shared log ends, and how another answer of the upstream continues it.

use std::task::{Context, Waker};

use super::{Ending, SharedLog, wake};
use crate::log::LogState;

impl SharedLog {
    /// If nobody reads, nobody can join any more.
    pub(crate) fn abandon(&self) -> bool {
        let mut shared = self.lock();
        let alone = shared.readers.is_empty();
        shared.closed |= alone;
        alone
    }

    /// The upstream's answer is over. The stream goes on if there is another one.
    pub(crate) fn suspend(&self, ending: Ending) {
        self.end_as(LogState::Suspended, ending, false);
    }

    /// Nothing more will be written.
    pub(crate) fn end(&self, state: LogState, ending: Ending) {
        self.end_as(state, ending, true);
    }

    fn end_as(&self, state: LogState, ending: Ending, closed: bool) {
        let mut shared = self.lock();
        shared.closed |= closed;
        shared.log.set_state(state);
        shared.ending = ending;
        let waiting = shared.waiting();
        drop(shared);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// There is another answer to go on with. Whether it was waited for.
    pub(crate) fn resume(&self) -> bool {
        let mut shared = self.lock();
        let waited = shared.log.state() == LogState::Suspended && !shared.closed;
        if waited {
            shared.log.set_state(LogState::Live);
        }
        waited
    }

    /// No other answer is waited for. False if one has come. What interceptors hold is on its way then, up to the [end](Self::end).
    pub(crate) fn stop_waiting(&self) -> bool {
        let mut shared = self.lock();
        let waited = shared.log.state() == LogState::Suspended;
        if waited {
            shared.closed = true;
            shared.log.set_state(LogState::Live);
        }
        waited
    }

    /// What the stream has come to.
    pub(crate) fn state(&self) -> LogState {
        self.lock().log.state()
    }

    /// Makes the writer give up.
    pub(crate) fn abort(&self) {
        let mut shared = self.lock();
        (shared.aborted, shared.closed) = (true, true);
        let writer = shared.writer.take();
        drop(shared);
        wake(writer);
    }

    /// Whether the stream was [aborted](Self::abort).
    pub(crate) fn is_aborted(&self) -> bool {
        self.lock().aborted
    }

    /// Whether there is anything for somebody to come back to. The writer is woken when that changes but for age.
    pub(crate) fn poll_retained(&self, cx: &mut Context<'_>) -> bool {
        let mut shared = self.lock();
        shared.writer = Some(cx.waker().clone());
        !shared.aborted && !shared.log.is_empty()
    }
}
