//! Reading a text piece by piece: what the window asks a judge that remembers where it stopped.

use std::{fmt, ops::Range, sync::Arc};

use super::judge::Mask;

/// Reads one text as it comes. All positions are bytes from the beginning of the text.
pub(super) trait Scan: Send {
    /// Reads what comes next. Adds what was found and no longer depends on what follows.
    fn push(&mut self, text: &str, found: &mut Vec<Found>);

    /// Adds what is found if the text ends here. More text may follow all the same.
    fn finish(&self, found: &mut Vec<Found>);

    /// The earliest byte at which a match may still be in progress; the end of the text if there is none.
    fn undecided(&self) -> usize;

    /// The text up to here has been sent: matches that lie in it need not be remembered.
    fn forget(&mut self, until: usize);
}

/// A match, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) range: Range<usize>,
    /// Number of the pattern. Of two matches that begin at the same byte, the mask of the lower number counts.
    pub(super) pattern: usize,
    /// The mask; `None` blocks.
    pub(super) with: Option<Arc<str>>,
}

/// Masks for the matches, in order and relative to `from`; matches that end before it are left out.
pub(super) fn masks(found: &[Found], from: usize) -> Vec<Mask> {
    let mut found: Vec<_> = found
        .iter()
        .filter(|found| found.range.end > from)
        .collect();
    found.sort_by_key(|found| (found.range.start, found.pattern));
    let masks = found.into_iter().filter_map(|found| {
        let with = found.with.as_deref()?.to_owned();
        // A match that began before `from` has its mask there.
        let (start, with) = match found.range.start.checked_sub(from) {
            Some(start) => (start, with),
            None => (0, String::new()),
        };
        let range = start..found.range.end - from;
        Some(Mask { range, with })
    });
    masks.collect()
}

/// Starts the reading of a text. Of judges, only the patterns of this crate have one.
#[derive(Clone)]
pub struct Incremental(pub(super) Arc<dyn Fn() -> Box<dyn Scan> + Send + Sync>);

impl fmt::Debug for Incremental {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Incremental")
    }
}
