//! One interceptor of a chain.

use std::{fmt, time::Duration};

use sync_wrapper::SyncWrapper;

use crate::{
    codec::{Block, Event},
    intercept::{Interceptor, Verdict},
};

pub(super) struct Stage {
    pub(super) interceptor: SyncWrapper<Box<dyn Interceptor>>,
    pub(super) fails_open: bool,
    pub(super) time_limit: Option<Duration>,
    pub(super) panicked: bool,
}

impl Stage {
    /// A copy to fall back on, where a failure lets the block pass or a replacement may need its id.
    #[inline(always)]
    pub(super) fn original(&self, block: &Block) -> Option<Block> {
        (self.fails_open || block.has_id()).then(|| block.clone())
    }
}

pub(super) fn ask(interceptor: &mut dyn Interceptor, block: Block) -> Verdict {
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
