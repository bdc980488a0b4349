//! Decides whether blocks that are ready leave now, or wait for one more poll of the source.

/// Merges the events of a burst into one frame, at the cost of one or two more polls of the source.
///
/// If the upstream sends a burst, the task that reads it has the next chunk a moment later, and one large frame costs a server much
/// less than many small ones. If the upstream sends single events, another poll only costs time. So each flush that waited in vain
/// makes the policy skip the wait of the next flushes: 1, 2, 4, 8 and at most 16 of them. A flush that waited with success resets
/// this.
#[derive(Debug, Default)]
pub(crate) struct FlushPolicy {
    /// Polls in a row that added no block.
    empty_polls: u8,
    /// Whether a poll has added blocks since the first one of this frame.
    has_merged: bool,
    /// Flushes that still skip the wait.
    skips_left: u8,
    /// The last number of flushes that skip the wait.
    skips: u8,
}

impl FlushPolicy {
    /// The largest number of flushes in a row that skip the wait: a burst that begins there leaves in up to this many extra frames.
    const MAX_SKIPS: u8 = 16;

    /// Whether the source should be polled again before the blocks leave. Called after each poll of the source, while blocks are
    /// ready.
    ///
    /// `before` and `now` are the amounts of data that were ready before and after the poll. `max_empty_polls` is the number of
    /// polls in a row without a new block after which the blocks leave; 0 for never waiting.
    #[inline] // See `Source::poll_frames` of `Pull`.
    pub(crate) fn waits(&mut self, before: usize, now: usize, max_empty_polls: u8) -> bool {
        if before == 0 {
            (self.empty_polls, self.has_merged) = (0, false);
            if self.skips_left > 0 {
                self.skips_left -= 1;
                return false;
            }
        } else if now > before {
            (self.empty_polls, self.has_merged) = (0, true);
        } else {
            self.empty_polls += 1;
        }
        if self.empty_polls < max_empty_polls {
            return true;
        }
        self.skips = match self.skips {
            _ if self.has_merged => 0,
            0 => 1,
            skips => Self::MAX_SKIPS.min(2 * skips),
        };
        self.skips_left = self.skips;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flushes a single event. Returns the number of additional polls.
    fn flush_single(policy: &mut FlushPolicy) -> usize {
        let mut before = 0;
        let waits =
            std::iter::repeat_with(|| policy.waits(std::mem::replace(&mut before, 1), 1, 2));
        waits.take_while(|waits| *waits).count()
    }

    /// Flushes a burst of which each poll adds one event. Returns the number of frames.
    fn flush_burst(policy: &mut FlushPolicy, events: usize) -> usize {
        let (mut frames, mut before, mut left) = (0, 0, events);
        while left > 0 || before > 0 {
            let now = before + usize::from(left > 0);
            left = left.saturating_sub(1);
            before = if policy.waits(before, now, 2) {
                now
            } else {
                frames += 1;
                0
            };
        }
        frames
    }

    #[test]
    fn burst_leaves_in_one_frame_soon_after_single_events() {
        let mut policy = FlushPolicy::default();
        assert_eq!(flush_burst(&mut policy, 64), 1);
        assert_eq!(flush_burst(&mut policy, 64), 1);
        for _ in 0..100 {
            flush_single(&mut policy);
        }
        assert!(flush_burst(&mut policy, 64) <= 17);
        assert_eq!(flush_burst(&mut policy, 64), 1);
    }

    #[test]
    fn single_events_wait_less_and_less() {
        let mut policy = FlushPolicy::default();
        let polls: Vec<_> = (0..50).map(|_| flush_single(&mut policy)).collect();
        let waited: Vec<_> = (0..50).filter(|n| polls[*n] > 0).collect();
        assert_eq!(waited, [0, 2, 5, 10, 19, 36]);
        assert!(waited.iter().all(|n| polls[*n] == 2));
    }

    #[test]
    fn policy_without_empty_polls_never_waits() {
        let mut policy = FlushPolicy::default();
        for _ in 0..9 {
            assert!(!policy.waits(0, 1, 0));
        }
    }
}
