//! How much the recorded streams of a layer may take, in all and for each owner.

use std::sync::atomic::{AtomicI64, Ordering};

/// The limits of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quota {
    /// What all logs hold together, in bytes.
    pub(crate) bytes: usize,
    /// What the logs of one owner hold. Unless set, half of it.
    pub(crate) bytes_per_owner: Option<usize>,
    /// How many streams live on without a client.
    pub(crate) detached: usize,
    /// Of one owner.
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

/// What the logs of one owner hold.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Below 0 for a moment, where what was written is evicted before it is counted.
    bytes: AtomicI64,
}

impl Account {
    /// Counts so many bytes more. Returns by how much that changes what the owner holds within its limit.
    pub(super) fn add(&self, bytes: i64, most: usize) -> i64 {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        (before + bytes).clamp(0, most) - before.clamp(0, most)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed).try_into().unwrap_or(0)
    }
}
