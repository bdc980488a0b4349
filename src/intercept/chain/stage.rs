//! One interceptor of a chain.

use std::{fmt, time::Duration};

use sync_wrapper::SyncWrapper;

use crate::{
    codec::{Block, Event},
    intercept::{Interceptor, Verdict},
};

/// An interceptor, and the settings of its factory.
pub(super) struct Stage {
    pub(super) interceptor: SyncWrapper<Box<dyn Interceptor>>,
    pub(super) fails_open: bool,
    pub(super) time_limit: Option<Duration>,
    pub(super) panicked: bool,
}

impl Stage {
    /// Copies the block, if it is needed after the verdict: to forward it when the stage fails open, or for its id.
    #[inline(always)]
    pub(super) fn original(&self, block: &Block) -> Option<Block> {
        (self.fails_open || block.has_id()).then(|| block.clone())
    }
}

/// Calls the method for this kind of block.
pub(super) fn call(interceptor: &mut dyn Interceptor, block: Block) -> Verdict {
    if block.is_event() {
        interceptor.event(Event::of(block))
    } else {
        interceptor.block(block)
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("fails_open", &self.fails_open)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}
