//! Incremental scans: how a judge reads a text as it arrives, without reading it again.

use std::{fmt, ops::Range, sync::Arc};

/// Scans one text as it arrives. Positions are byte offsets from the beginning of the text.
pub(super) trait Scan: Send {
    /// Scans the next bytes of the text. Adds the matches that no longer depend on later text.
    fn push(&mut self, text: &str, matches: &mut Vec<Match>);

    /// Adds the matches that exist if the text ends here. More text may follow nevertheless.
    fn finish(&self, matches: &mut Vec<Match>);

    /// The earliest byte at which an undecided match may begin; the end of the text if there is none.
    fn undecided(&self) -> usize;

    /// The text before `until` was sent: the scan may forget matches in it.
    fn forget(&mut self, until: usize);
}

/// A match, and its consequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) range: Range<usize>,
    /// Index of the pattern. Of two matches that begin at the same byte, the mask of the lower index applies.
    pub(super) pattern: usize,
    /// The replacement of the match. `None`: the match blocks the stream.
    pub(super) mask: Option<Arc<str>>,
}

/// Starts the scan of a text. Only the patterns of this crate have one.
#[derive(Clone)]
pub struct StartScan(pub(super) Arc<dyn Fn() -> Box<dyn Scan> + Send + Sync>);

impl fmt::Debug for StartScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StartScan")
    }
}
