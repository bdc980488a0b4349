//! The memory of a shared log, and eviction from it for other logs.

use tokio::time::Instant;

use super::{Inner, SharedLog, wake};
use crate::log::LogState;

/// Which blocks are not evicted for other streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protected {
    /// All blocks, if the stream has a client.
    Connected,
    /// The blocks that at least one client has not read yet.
    Unread,
    /// The blocks that no client has read yet. Slower clients may have a gap.
    UnreadByAll,
}

impl SharedLog {
    /// Evicts expired events. Returns when to call this again, and the memory of the log, in bytes, after and before.
    pub(crate) fn expire(&self, now: Instant) -> (Option<Instant>, (usize, usize)) {
        let mut inner = self.lock();
        let before = inner.log.memory();
        let unread = inner.unread().unwrap_or(0);
        let next = inner.log.expire(now, unread);
        (next, (inner.log.memory(), before))
    }

    /// Evicts blocks for other streams, until `memory` bytes are free. Returns the freed memory, in bytes.
    ///
    /// If that leaves nothing to resume, a stream without a client ends, and the memory beside its log counts as free.
    pub(crate) fn evict(&self, memory: usize, protected: Protected) -> usize {
        let mut inner = self.lock();
        if inner.retired {
            return 0;
        }
        let Some(protected) = inner.protected_blocks(protected) else {
            return 0;
        };
        let mut freed = inner.log.evict_memory(memory, protected);
        let is_empty = inner.log.is_empty();
        // A final stream that is live has a writer, which waits for its interceptors.
        let is_written = !inner.is_final || inner.log.state() == LogState::Live;
        if is_empty && (!is_written || (inner.subscribers.is_empty() && freed < memory)) {
            let overhead = std::mem::take(&mut inner.overhead);
            // Otherwise the writer would count the memory again at once, and be woken by its own eviction, again and again.
            inner.evicted |= overhead > 0 && is_written;
            inner.is_final |= overhead > 0;
            freed += overhead;
        }
        let writer = inner.writer.take_if(|_| is_empty && freed > 0);
        drop(inner);
        wake(writer);
        freed
    }

    /// Ends the use of a stream that left the registry: nothing is written to it, no client finds it, and nothing is evicted from it.
    /// Returns the memory, in bytes, that counted for it.
    pub(crate) fn retire(&self) -> usize {
        let mut inner = self.lock();
        (inner.retired, inner.is_final) = (true, true);
        inner.log.memory() + inner.overhead
    }

    /// Sets the memory, in bytes, that the stream takes beside its log. Returns this memory after and before.
    pub(crate) fn set_overhead(&self, overhead: usize) -> (usize, usize) {
        let mut inner = self.lock();
        if inner.must_stop() || inner.retired {
            return (0, 0);
        }
        (overhead, std::mem::replace(&mut inner.overhead, overhead))
    }

    /// Frees the spare capacity of a log to which nothing more is written. Returns the memory of the log, in bytes, after and before.
    pub(crate) fn compact(&self) -> (usize, usize) {
        let mut inner = self.lock();
        let before = inner.log.memory();
        inner.log.compact();
        (inner.log.memory(), before)
    }

    /// The memory, in bytes, that counts for the stream.
    pub(crate) fn memory(&self) -> usize {
        let inner = self.lock();
        if inner.retired {
            return 0;
        }
        inner.log.memory() + inner.overhead
    }
}

impl Inner {
    /// The number of blocks at the end of the log that are protected. `None` if all are.
    fn protected_blocks(&self, protected: Protected) -> Option<usize> {
        match protected {
            Protected::Connected if !self.subscribers.is_empty() => None,
            Protected::Connected => Some(0),
            Protected::Unread => {
                let cursors = self.subscribers.iter().map(|(_, reader)| reader.cursor);
                let unread = cursors.min().map(|slowest| self.log.size_from(slowest).0);
                Some(unread.unwrap_or(0) as usize)
            }
            Protected::UnreadByAll => Some(self.unread().unwrap_or(0)),
        }
    }
}
