//! Text that is sent before it is decided, because a limit was reached.

use std::sync::atomic::{AtomicU64, Ordering};

/// The undecided text of one release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EarlyRelease {
    /// In bytes.
    pub(super) bytes: usize,
    /// Whether a match may begin in it, as far as the judge has said.
    pub(super) may_match: bool,
}

impl EarlyRelease {
    pub(super) fn add(&mut self, bytes: usize, may_match: bool) {
        self.bytes += bytes;
        self.may_match |= may_match && bytes > 0;
    }
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Time,
    Size,
}

/// Counters of all streams of a window.
#[derive(Debug, Default)]
pub(super) struct ReleaseCounters {
    by_time: AtomicU64,
    by_size: AtomicU64,
    bytes: AtomicU64,
}

impl ReleaseCounters {
    /// Counts a release and logs it: as a warning if `warn` is set, otherwise at the level `debug`. It logs sizes, never text.
    pub(super) fn count(&self, bytes: usize, limit: Limit, warn: bool) {
        let (count, limit) = match limit {
            Limit::Size => (&self.by_size, "max_held_bytes"),
            Limit::Time => (&self.by_time, "max_delay"),
        };
        count.fetch_add(1, Ordering::Relaxed);
        let bytes = bytes as u64;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if warn {
            tracing::warn!(
                bytes,
                limit,
                "text window sent text in which a match may begin: limit reached"
            );
        } else {
            tracing::debug!(
                bytes,
                limit,
                "text window sent undecided text: limit reached"
            );
        }
    }

    pub(super) fn read(&self) -> EarlyReleases {
        EarlyReleases {
            by_time: self.by_time.load(Ordering::Relaxed),
            by_size: self.by_size.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// How often a window sent text before it was decided. See
/// [`TextWindow::early_releases`](super::TextWindow::early_releases).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EarlyReleases {
    /// Releases because [`max_delay`](super::TextWindow::max_delay) elapsed.
    pub by_time: u64,
    /// Releases because more than [`max_held_bytes`](super::TextWindow::max_held_bytes) were held.
    pub by_size: u64,
    /// The undecided text of both, in bytes.
    pub bytes: u64,
}
