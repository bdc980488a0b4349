//! When held blocks are sent.

use tokio::time::Instant;

/// How much text must arrive before a text is judged.
#[derive(Clone, Copy, Debug)]
pub(in crate::intercept::window) struct HoldRules {
    /// The number of bytes that must follow a text in its channel.
    pub(in crate::intercept::window) overlap: usize,
    /// The minimum number of new bytes in a batch.
    pub(in crate::intercept::window) min_batch: usize,
}

impl HoldRules {
    /// The number of sent bytes that a judge sees.
    pub(super) fn context(self) -> usize {
        if self.overlap == 0 {
            CONTEXT
        } else {
            // Twice the overlap: a judge may recognize a match by the text before it.
            self.overlap.saturating_mul(2)
        }
    }
}

/// The number of sent bytes that a judge sees if the overlap is 0.
const CONTEXT: usize = 128;

/// Why the window tries to send held blocks.
#[derive(Clone, Copy, Debug)]
pub(in crate::intercept::window) enum Cause {
    /// A block arrived: decided text may be sent.
    Decided,
    /// The time limit has passed for blocks that arrived at or before this time: they must be sent.
    Since(Instant),
    /// More than this number of bytes is held: blocks must be sent.
    Above(usize),
    /// The stream is over, cleanly or not. After a clean end, all blocks must be sent.
    End { complete: bool },
}
