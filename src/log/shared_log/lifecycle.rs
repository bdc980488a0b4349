//! How a shared log ends, and how another response of the upstream continues it.

use std::task::{Context, Waker};

use super::{Ending, SharedLog, wake};
use crate::log::LogState;

impl SharedLog {
    /// The state of the stream.
    pub(crate) fn state(&self) -> LogState {
        self.lock().log.state()
    }

    /// Suspends the stream: a response of the upstream has ended, and another one may continue it.
    pub(crate) fn suspend(&self, ending: Ending) {
        self.set_state(LogState::Suspended, ending, false);
    }

    /// Ends the stream: nothing more is written.
    pub(crate) fn end(&self, state: LogState, ending: Ending) {
        self.set_state(state, ending, true);
    }

    fn set_state(&self, state: LogState, ending: Ending, is_final: bool) {
        let mut inner = self.lock();
        inner.is_final |= is_final;
        inner.log.set_state(state);
        inner.ending = ending;
        let readers = inner.take_wakers();
        drop(inner);
        readers.into_iter().for_each(Waker::wake);
    }

    /// Continues a suspended stream. Returns false if the stream does not wait for another response.
    pub(crate) fn resume(&self) -> bool {
        let mut inner = self.lock();
        let was_waiting = inner.log.state() == LogState::Suspended && !inner.is_final;
        if was_waiting {
            inner.log.set_state(LogState::Live);
        }
        was_waiting
    }

    /// Stops waiting for another response. Returns false if the stream is not suspended: the next response has already arrived.
    ///
    /// The stream is live again until its [end](Self::end), because interceptors may release events that they hold.
    pub(crate) fn stop_waiting(&self) -> bool {
        let mut inner = self.lock();
        let was_waiting = inner.log.state() == LogState::Suspended;
        if was_waiting {
            inner.is_final = true;
            inner.log.set_state(LogState::Live);
        }
        was_waiting
    }

    /// Makes a stream without a reader final: no client can join it after this. Returns false if there is a reader.
    pub(crate) fn close_if_detached(&self) -> bool {
        let mut inner = self.lock();
        let is_detached = inner.subscribers.is_empty();
        inner.is_final |= is_detached;
        is_detached
    }

    /// Makes the writer stop. The stream cannot be resumed after this.
    pub(crate) fn abort(&self) {
        let mut inner = self.lock();
        (inner.aborted, inner.is_final) = (true, true);
        let writer = inner.writer.take();
        drop(inner);
        wake(writer);
    }

    /// Whether the stream was [aborted](Self::abort). An evicted stream was not: a client that still finds it can resume it.
    pub(crate) fn is_aborted(&self) -> bool {
        self.lock().aborted
    }

    /// Whether a client can resume the stream. The writer is woken when that changes, except when events expire.
    pub(crate) fn poll_retained(&self, cx: &mut Context<'_>) -> bool {
        let mut inner = self.lock();
        inner.writer = Some(cx.waker().clone());
        !inner.must_stop() && !inner.log.is_empty()
    }
}
