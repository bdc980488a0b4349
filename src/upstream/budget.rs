//! The limits of the work that one poll does, so that other tasks of the thread run in between.

use std::time::Duration;

use tokio::time::Instant;

/// Upstream data that one poll reads, in bytes, even if no block comes out of it.
const MAX_BYTES: usize = 256 << 10;

/// Upstream data frames that one poll reads.
const MAX_FRAMES: usize = 64;

/// Blocks between two reads of the clock. A read costs about as much as a block.
const BLOCKS_PER_CLOCK_READ: usize = 32;

/// Time that interceptors get in one poll for new blocks (`Pipeline::feed`). It is counted from the first read of the clock, which is at
/// block [`BLOCKS_PER_CLOCK_READ`]. When it is used up, the blocks that they have forwarded leave. The time for held blocks
/// (`Pipeline::drive`) does not count.
const MAX_TIME: Duration = Duration::from_millis(1);

/// The work that one poll has done so far. Each poll begins with a new one.
#[derive(Debug, Default)]
pub(super) struct WorkBudget {
    bytes: usize,
    frames: usize,
    blocks: usize,
    /// Set at the first read of the clock.
    deadline: Option<Instant>,
}

impl WorkBudget {
    /// Counts a data frame of the upstream.
    #[inline]
    pub(super) fn charge_frame(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.frames += 1;
    }

    /// Whether the poll has read as much upstream data as it may.
    #[inline]
    pub(super) fn is_input_exhausted(&self) -> bool {
        self.bytes >= MAX_BYTES || self.frames >= MAX_FRAMES
    }

    /// Counts a block. Returns whether the time is used up, so that the block has to wait for the next poll.
    #[inline(always)]
    pub(super) fn charge_block(&mut self) -> bool {
        self.blocks += 1;
        self.blocks.is_multiple_of(BLOCKS_PER_CLOCK_READ) && self.read_clock()
    }

    #[inline(never)]
    fn read_clock(&mut self) -> bool {
        let now = Instant::now();
        now >= *self.deadline.get_or_insert(now + MAX_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_exhausted_by_bytes_or_frames() {
        let mut budget = WorkBudget::default();
        budget.charge_frame(MAX_BYTES - 1);
        assert!(!budget.is_input_exhausted());
        budget.charge_frame(1);
        assert!(budget.is_input_exhausted());

        let mut budget = WorkBudget::default();
        (1..MAX_FRAMES).for_each(|_| budget.charge_frame(0));
        assert!(!budget.is_input_exhausted());
        budget.charge_frame(0);
        assert!(budget.is_input_exhausted());
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_counted_from_the_first_read_of_the_clock() {
        let mut budget = WorkBudget::default();
        let mut next_read = || (0..BLOCKS_PER_CLOCK_READ).any(|_| budget.charge_block());
        tokio::time::advance(2 * MAX_TIME).await;
        assert!(!next_read());
        tokio::time::advance(MAX_TIME - Duration::from_micros(1)).await;
        assert!(!next_read());
        tokio::time::advance(Duration::from_micros(1)).await;
        assert!(next_read());
    }
}
