//! The state of one reading of a channel.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::intercept::window::{
    decision::Mask,
    masks::{masks_of, merged},
    reading::TextReader,
    scan::{Match, Scan, StartScan},
};

/// One reading of a text that several events carry. Offsets are bytes from its beginning.
#[derive(Default)]
pub(super) struct ChannelState {
    /// The last bytes of sent text, shown to the judge.
    pub(super) context: String,
    /// How many bytes were sent.
    pub(super) sent: usize,
    /// How many bytes have arrived.
    pub(super) received: usize,
    /// Whether the channel is finished: more text may follow nevertheless.
    pub(super) finished: bool,
    pub(super) reader: TextReader,
    /// The value of the window's send counter when text of this channel was sent last.
    pub(super) last_sent: u64,
    scan: Option<Box<dyn Scan>>,
    /// The masks of matches in held text, by first byte, pattern and end. `None` blocks.
    matches: BTreeMap<(usize, usize, usize), Option<Arc<str>>>,
    /// The further matches that exist if the text ends here. `None`: not computed.
    end_matches: Option<Vec<Match>>,
    /// The first byte of a match that blocks.
    pub(super) block_at: Option<usize>,
}

/// Shows sizes, never the text.
impl fmt::Debug for ChannelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelState")
            .field("sent", &self.sent)
            .field("received", &self.received)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

impl ChannelState {
    /// Whether the channel is finished and has no held text.
    pub(super) fn is_idle(&self) -> bool {
        self.finished && self.sent == self.received
    }

    /// Scans the next bytes of the text.
    pub(super) fn scan(&mut self, text: &str, start: &StartScan) {
        let mut matches = Vec::new();
        let scan = self.scan.get_or_insert_with(|| (start.0)());
        scan.push(text, &mut matches);
        self.end_matches = None;
        for found in matches {
            self.note_block(&found);
            let Match {
                range,
                pattern,
                mask,
            } = found;
            self.matches.insert((range.start, pattern, range.end), mask);
        }
    }

    /// Computes the matches that exist if the text ends here.
    pub(super) fn scan_end(&mut self) {
        let (None, Some(scan)) = (&self.end_matches, &self.scan) else {
            return;
        };
        let mut matches = Vec::new();
        scan.finish(&mut matches);
        matches.iter().for_each(|found| self.note_block(found));
        self.end_matches = Some(matches);
    }

    fn note_block(&mut self, found: &Match) {
        if found.mask.is_none() {
            let start = found.range.start;
            self.block_at = Some(self.block_at.map_or(start, |before| before.min(start)));
        }
    }

    /// The byte before which a scan has decided everything.
    pub(super) fn decided(&self) -> usize {
        match &self.scan {
            Some(scan) if !self.finished => scan.undecided(),
            // Includes the byte that stands for an unfinished character: nothing completes it.
            _ => usize::MAX,
        }
    }

    /// The masks of all known matches that begin before `until`, and of the matches that exist if the text ends here. They are sorted and
    /// do not overlap.
    pub(super) fn masks(&self, until: usize) -> Vec<Mask> {
        let known = self.matches.range(..(until, 0, 0));
        let known = known.map(|(key, mask)| Match {
            range: key.0..key.2,
            pattern: key.1,
            mask: mask.clone(),
        });
        let at_end = self.end_matches.iter().flatten().cloned();
        let matches: Vec<_> = known.chain(at_end).collect();
        merged(masks_of(&matches))
    }

    /// Forgets the matches that end before `until`: the text before it was sent.
    pub(super) fn forget(&mut self, until: usize) {
        if let Some(scan) = &mut self.scan {
            scan.forget(until);
        }
        let begun = self.matches.range(..(until, 0, 0)).map(|(key, _)| *key);
        let ended: Vec<_> = begun.filter(|key| key.2 <= until).collect();
        for key in ended {
            self.matches.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Finds each piece of the text as a match.
    struct Pieces {
        at: usize,
        forgotten: Arc<AtomicUsize>,
    }

    impl Scan for Pieces {
        fn push(&mut self, text: &str, matches: &mut Vec<Match>) {
            matches.push(Match {
                range: self.at..self.at + text.len(),
                pattern: 0,
                mask: Some("*".into()),
            });
            self.at += text.len();
        }

        fn finish(&self, _: &mut Vec<Match>) {}

        fn undecided(&self) -> usize {
            self.at
        }

        fn forget(&mut self, until: usize) {
            self.forgotten.store(until, Ordering::Relaxed);
        }
    }

    #[test]
    fn matches_in_sent_text_are_forgotten() {
        let forgotten = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&forgotten);
        let start = StartScan(Arc::new(move || {
            let forgotten = Arc::clone(&seen);
            Box::new(Pieces { at: 0, forgotten })
        }));
        let mut channel = ChannelState::default();
        for piece in ["one", "four", "two"] {
            channel.scan(piece, &start);
        }
        for (sent, left) in [
            (2, &[0..3, 3..7, 7..10][..]),
            (3, &[3..7, 7..10]),
            (6, &[3..7, 7..10]),
            (10, &[]),
        ] {
            channel.forget(sent);
            let masks = channel.masks(usize::MAX).into_iter();
            assert_eq!(masks.map(|mask| mask.range).collect::<Vec<_>>(), left);
            assert_eq!(forgotten.load(Ordering::Relaxed), sent);
        }
    }
}
