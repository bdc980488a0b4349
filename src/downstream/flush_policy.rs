//! Whether what is ready waits a moment for more.

/// Asks again before what is there is handed out, as long as that is worth it.
///
/// Where an upstream sends a burst, the task that feeds it has the next chunk in a moment, and one frame with all of it costs
/// a server a fraction of many. Where it sends an event now and then, to ask again costs time and brings nothing: then the
/// next ones are handed out at once, the more of them the longer that goes on.
#[derive(Debug, Default)]
pub(crate) struct FlushPolicy {
    /// Polls in a row that brought nothing new.
    empty_polls: u8,
    /// Whether more has come since there was something to hand out.
    rewarded: bool,
    /// How many times nothing is waited for, and how many times it was when that was last decided.
    skips_left: u8,
    sparing: u8,
}

impl FlushPolicy {
    /// A burst that comes when nobody waits for more leaves in so many frames more than it needs.
    const MOST_SPARED: u8 = 16;

    /// Whether to ask again, after a poll after which something is there to hand out: how much there was before, and is
    /// `now`. Only after so many `polls` without anything new is there none to be expected.
    pub(crate) fn waits(&mut self, before: usize, now: usize, polls: u8) -> bool {
        if before == 0 {
            (self.empty_polls, self.rewarded) = (0, false);
            if self.skips_left > 0 {
                self.skips_left -= 1;
                return false;
            }
        } else if now > before {
            (self.empty_polls, self.rewarded) = (0, true);
        } else {
            self.empty_polls += 1;
        }
        if self.empty_polls < polls {
            return true;
        }
        self.sparing = match self.sparing {
            _ if self.rewarded => 0,
            0 => 1,
            sparing => Self::MOST_SPARED.min(2 * sparing),
        };
        self.skips_left = self.sparing;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out an event that comes alone; how often more was asked for.
    fn lonely(patience: &mut FlushPolicy) -> usize {
        let mut before = 0;
        let asked =
            std::iter::repeat_with(|| patience.waits(std::mem::replace(&mut before, 1), 1, 2));
        asked.take_while(|waits| *waits).count()
    }

    /// Hands out a burst, of which each poll brings one more as long as there is any; in how many frames.
    fn burst(patience: &mut FlushPolicy, events: usize) -> usize {
        let (mut frames, mut before, mut left) = (0, 0, events);
        while left > 0 || before > 0 {
            let now = before + usize::from(left > 0);
            left = left.saturating_sub(1);
            before = if patience.waits(before, now, 2) {
                now
            } else {
                frames += 1;
                0
            };
        }
        frames
    }

    #[test]
    fn a_burst_leaves_at_once_and_after_lonely_events_soon_again() {
        let mut patience = FlushPolicy::default();
        assert_eq!(burst(&mut patience, 64), 1);
        assert_eq!(burst(&mut patience, 64), 1);
        for _ in 0..100 {
            lonely(&mut patience);
        }
        assert!(burst(&mut patience, 64) <= 17);
        assert_eq!(burst(&mut patience, 64), 1);
    }

    #[test]
    fn lonely_events_wait_the_less_the_more_there_are() {
        let mut patience = FlushPolicy::default();
        let asked: Vec<_> = (0..50).map(|_| lonely(&mut patience)).collect();
        let waited: Vec<_> = (0..50).filter(|n| asked[*n] > 0).collect();
        assert_eq!(waited, [0, 2, 5, 10, 19, 36]);
        assert!(waited.iter().all(|n| asked[*n] == 2));
    }

    #[test]
    fn who_has_no_patience_never_waits() {
        let mut patience = FlushPolicy::default();
        for _ in 0..9 {
            assert!(!patience.waits(0, 1, 0));
        }
    }
}
