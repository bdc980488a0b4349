//! The limits for the recorded streams of a layer: one for the layer and one for each owner.

use std::sync::atomic::{AtomicI64, Ordering};

/// The limits of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quota {
    /// The memory, in bytes, of all logs.
    pub(crate) bytes: usize,
    /// The memory, in bytes, of the logs of one owner. `None` is half of `bytes`.
    pub(crate) bytes_per_owner: Option<usize>,
    /// The number of streams that continue without a client.
    pub(crate) detached: usize,
    /// The number of such streams of one owner.
    pub(crate) detached_per_owner: usize,
}

impl Quota {
    pub(crate) fn bytes_per_owner(&self) -> usize {
        self.bytes_per_owner.unwrap_or(self.bytes / 2)
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            bytes: 256 << 20,
            bytes_per_owner: None,
            detached: 4096,
            detached_per_owner: 256,
        }
    }
}

/// The memory of the logs of one owner.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Below 0 for a moment if written events are evicted before they are counted.
    bytes: AtomicI64,
}

impl Account {
    /// Adds bytes. Returns the change of the part that is within the limit of the owner.
    pub(super) fn add(&self, bytes: i64, limit: usize) -> i64 {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        (before + bytes).clamp(0, limit) - before.clamp(0, limit)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed).try_into().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_returns_the_change_of_the_part_within_the_limit() {
        let account = Account::default();
        let changes = [100, 100, 100, -150, -150].map(|bytes| account.add(bytes, 150));
        assert_eq!(changes, [100, 50, 0, 0, -150]);
        assert_eq!(account.bytes(), 0);
        // Bytes are evicted before they are counted.
        assert_eq!([-10, 30].map(|bytes| account.add(bytes, 150)), [0, 20]);
    }
}
