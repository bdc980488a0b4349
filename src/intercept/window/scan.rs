//! Reading a text piece by piece: what the window asks a judge that remembers where it stopped.

use std::{fmt, ops::Range, sync::Arc};

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

/// Starts the reading of a text. Of judges, only the patterns of this crate have one.
#[derive(Clone)]
pub struct Incremental(pub(super) Arc<dyn Fn() -> Box<dyn Scan> + Send + Sync>);

impl fmt::Debug for Incremental {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Incremental")
    }
}
