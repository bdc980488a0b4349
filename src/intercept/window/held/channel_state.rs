//! The state of one channel.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::intercept::window::{
    decision::Mask,
    masks::{masks, tidy},
    reading::Reader,
    scan::{Found, Incremental, Scan},
};

/// A text that goes on from event to event, read in one way; counted in bytes from its beginning.
#[derive(Default)]
pub(super) struct Channel {
    /// What has left last.
    pub(super) context: String,
    /// So much has left.
    pub(super) sent: usize,
    /// So much has come.
    pub(super) come: usize,
    pub(super) done: bool,
    pub(super) reader: Reader,
    /// When the last of it left, in texts of the stream.
    pub(super) left: u64,
    pub(super) scan: Option<Box<dyn Scan>>,
    /// The masks that the scan has found in text that is held: by first byte, pattern and end.
    pub(super) found: BTreeMap<(usize, usize, usize), Option<Arc<str>>>,
    /// What it would find besides if the text ended here. `None`: not known.
    pub(super) ending: Option<Vec<Found>>,
    /// The first byte of what blocks.
    pub(super) blocked: Option<usize>,
}

/// Shows sizes, never the text.
impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("sent", &self.sent)
            .field("come", &self.come)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

impl Channel {
    /// Whether it is finished and nothing of it is held.
    pub(super) fn is_over(&self) -> bool {
        self.done && self.sent == self.come
    }

    /// Scans some more of the text.
    pub(super) fn read(&mut self, text: &str, scans: &Incremental) {
        let mut found = Vec::new();
        let scan = self.scan.get_or_insert_with(|| (scans.0)());
        scan.push(text, &mut found);
        self.ending = None;
        for found in found {
            self.note_block(&found);
            let Found {
                range,
                pattern,
                with,
            } = found;
            self.found.insert((range.start, pattern, range.end), with);
        }
    }

    /// Looks for what is found if nothing follows.
    pub(super) fn read_ending(&mut self) {
        let (None, Some(scan)) = (&self.ending, &self.scan) else {
            return;
        };
        let mut ending = Vec::new();
        scan.finish(&mut ending);
        ending.iter().for_each(|found| self.note_block(found));
        self.ending = Some(ending);
    }

    fn note_block(&mut self, found: &Found) {
        if found.with.is_none() {
            let start = found.range.start;
            self.blocked = Some(self.blocked.map_or(start, |before| before.min(start)));
        }
    }

    /// Everything before this byte is decided, as far as a scan can tell.
    pub(super) fn decided(&self) -> usize {
        match &self.scan {
            Some(scan) if !self.done => scan.undecided(),
            // A character that is not complete will not be.
            _ => usize::MAX,
        }
    }

    /// The masks of what has been found in the text up to this byte that has not left.
    pub(super) fn masks(&self, until: usize) -> Vec<Mask> {
        let known = self.found.range(..(until, 0, 0)).map(|(key, with)| Found {
            range: key.0..key.2,
            pattern: key.1,
            with: with.clone(),
        });
        let ending = self.ending.iter().flatten().cloned();
        let found: Vec<_> = known.chain(ending).collect();
        tidy(masks(&found, 0))
    }

    /// The text has left up to this byte.
    pub(super) fn forget(&mut self, until: usize) {
        if let Some(scan) = &mut self.scan {
            scan.forget(until);
        }
        let has_left = self.found.range(..(until, 0, 0)).map(|(key, _)| *key);
        let has_left: Vec<_> = has_left.filter(|key| key.2 <= until).collect();
        for key in has_left {
            self.found.remove(&key);
        }
    }
}
