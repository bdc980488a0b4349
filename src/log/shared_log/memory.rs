//! The memory of a shared log: what is counted, and what is evicted for other logs.

use tokio::time::Instant;

use super::{Shared, SharedLog, wake};

/// What is not evicted for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spare {
    /// All, if the stream has a client.
    Connected,
    /// What any client has still to read.
    Unread,
    /// What no client has read yet. Clients that are slower than the fastest may lose something.
    UnreadByAll,
}

impl SharedLog {
    /// Lets go of what is too old by now. When there is more of it, and how many bytes are kept now and were before.
    pub(crate) fn expire(&self, now: Instant) -> (Option<Instant>, (usize, usize)) {
        let mut shared = self.lock();
        let before = shared.log.memory();
        let unread = shared.unread().unwrap_or(0);
        let next = shared.log.expire_but(now, unread);
        (next, (shared.log.memory(), before))
    }

    /// Evicts so many bytes, of which others have more need. Returns how many that were.
    pub(crate) fn shrink(&self, bytes: usize, spare: Spare) -> usize {
        let mut shared = self.lock();
        if shared.retired {
            return 0;
        }
        let Some(keep) = shared.spared(spare) else {
            return 0;
        };
        let mut freed = shared.log.release(bytes, keep);
        let is_empty = shared.log.is_empty();
        // A stream that nobody reads and of which nothing is kept takes memory for nothing, even if its upstream goes on.
        if is_empty && (shared.closed || (shared.readers.is_empty() && freed < bytes)) {
            let rest = std::mem::take(&mut shared.rest);
            shared.aborted |= rest > 0 && !shared.closed;
            shared.closed |= rest > 0;
            freed += rest;
        }
        let writer = shared.writer.take_if(|_| is_empty && freed > 0);
        drop(shared);
        wake(writer);
        freed
    }

    /// Nothing more will be written, and nobody will find the log: no room can be made here from now on. Returns how many bytes
    /// it keeps.
    pub(crate) fn retire(&self) -> usize {
        let mut shared = self.lock();
        (shared.retired, shared.closed) = (true, true);
        shared.log.memory() + shared.rest
    }

    /// The stream takes so many bytes beside its log. How many bytes it takes now and took before.
    pub(crate) fn count_rest(&self, rest: usize) -> (usize, usize) {
        let mut shared = self.lock();
        if shared.aborted || shared.retired {
            return (0, 0);
        }
        (rest, std::mem::replace(&mut shared.rest, rest))
    }

    /// Nothing more will be written: the log gives back what it does not need for what it has. How many bytes it takes now and took
    /// before.
    pub(crate) fn compact(&self) -> (usize, usize) {
        let mut shared = self.lock();
        let before = shared.log.memory();
        shared.log.compact();
        (shared.log.memory(), before)
    }

    /// How many bytes count as held by this stream.
    pub(crate) fn held(&self) -> usize {
        let shared = self.lock();
        if shared.retired {
            return 0;
        }
        shared.log.memory() + shared.rest
    }
}

impl Shared {
    /// How many of the last blocks are spared, or `None` if all are.
    fn spared(&self, spare: Spare) -> Option<usize> {
        match spare {
            Spare::Connected if !self.readers.is_empty() => None,
            Spare::Connected => Some(0),
            Spare::Unread => {
                let slowest = self.readers.iter().map(|(_, seat)| seat.cursor).min();
                let unread = slowest.map(|slowest| self.log.beyond(slowest).0);
                Some(unread.unwrap_or(0) as usize)
            }
            Spare::UnreadByAll => Some(self.unread().unwrap_or(0)),
        }
    }
}
