//! Text that leaves before it is decided.

use std::sync::atomic::AtomicU64;

/// Text that left before it was decided, since a bound ran out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Early {
    /// In bytes.
    pub(super) bytes: usize,
    /// The judge had said that a match may begin in it.
    pub(super) may_match: bool,
}

impl Early {
    pub(super) fn add(&mut self, bytes: usize, may_match: bool) {
        self.bytes += bytes;
        self.may_match |= may_match && bytes > 0;
    }
}

/// Counts for all streams of a window.
#[derive(Debug, Default)]
pub(super) struct Released {
    pub(super) by_time: AtomicU64,
    pub(super) by_size: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// How often text left before it was decided, since a bound ran out. See [`TextWindow::early_releases`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EarlyReleases {
    /// Releases because [`time`](super::TextWindow::max_delay) ran out.
    pub by_time: u64,
    /// Releases because more than [`max_bytes`](super::TextWindow::max_held_bytes) were held.
    pub by_size: u64,
    /// The text that left in both, in bytes.
    pub bytes: u64,
}
