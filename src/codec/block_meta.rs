//! What is known of a block without reading it again.

use std::ops::Range;

use crate::codec::lines::{LineRanges, value_of};

/// What the decoder notes in passing. Words only: what is smaller is written by itself, and then to be moved with its
/// neighbours, which costs a wait at each move.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BlockMeta {
    /// Where the value of the first `data` line begins, and above it where it ends.
    first_data: u64,
    /// The name of an open end, if there is one, and a few flags; and above them the number of `data` lines.
    counts: u64,
}

const HAS_ID: u64 = 1;
const HAS_EVENT: u64 = 2;
/// There are two `id` lines, or two `event` lines.
const REPEATED: u64 = 4;
const WELL_FORMED: u64 = 8;
const UNFINISHED: u64 = 16;
const PENDING_LF_SHIFT: u32 = 5;
const HIGH_WORD: u32 = 32;

/// Names a block whose last CR may turn out to be half of a CRLF.
///
/// Names come round again after a hundred million; the block that had it first is long gone. (A word for the same reason.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingLf(u64);

impl PendingLf {
    pub(super) const FIRST: Self = Self(1);

    pub(super) fn next(self) -> Self {
        Self((self.0 % (u64::from(u32::MAX) >> PENDING_LF_SHIFT)) + 1)
    }
}

impl BlockMeta {
    pub(super) fn scan(raw: &[u8]) -> Self {
        let mut meta = Self::default();
        for line in LineRanges::new(raw) {
            meta.note(&raw[line.clone()], line.start);
        }
        meta
    }

    /// Takes note of a line that stands at `start` in the block. Blocks have less than 4 GiB.
    #[inline(always)]
    pub(super) fn note(&mut self, line: &[u8], start: usize) {
        match line.first() {
            Some(b'd') => {
                let Some(value) = value_of(line, b"data") else {
                    return;
                };
                if self.data_lines() == 0 {
                    self.set_first_data(start + value..start + line.len());
                }
                self.counts += 1 << HIGH_WORD;
            }
            Some(b'i') if matches!(line, b"id" | [b'i', b'd', b':', ..]) => self.mark(HAS_ID),
            Some(b'e') if matches!(line, b"event" | [b'e', b'v', b'e', b'n', b't', b':', ..]) => {
                self.mark(HAS_EVENT);
            }
            _ => {}
        }
    }

    fn mark(&mut self, field: u64) {
        let again = self.counts & field != 0;
        self.counts |= field | if again { REPEATED } else { 0 };
    }

    /// How many `data` lines there are.
    #[inline]
    pub(super) fn data_lines(&self) -> usize {
        (self.counts >> HIGH_WORD) as usize
    }

    /// Where the value of the first `data` line stands.
    #[inline]
    pub(super) fn first_data(&self) -> Range<usize> {
        self.first_data as u32 as usize..(self.first_data >> HIGH_WORD) as usize
    }

    #[inline(always)]
    pub(super) fn set_first_data(&mut self, Range { start, end }: Range<usize>) {
        self.first_data = start as u64 | (end as u64) << HIGH_WORD;
    }

    /// There is an `id` line.
    #[inline]
    pub(super) fn has_id(&self) -> bool {
        self.counts & HAS_ID != 0
    }

    /// There is an `event` line.
    #[inline]
    pub(super) fn has_event(&self) -> bool {
        self.counts & HAS_EVENT != 0
    }

    /// There is more than one `id` line, or more than one `event` line.
    #[inline]
    pub(super) fn is_repeated(&self) -> bool {
        self.counts & REPEATED != 0
    }

    /// Known to be well-formed UTF-8. What is not known to be may be it all the same.
    #[inline]
    pub(super) fn is_well_formed(&self) -> bool {
        self.counts & WELL_FORMED != 0
    }

    #[inline]
    pub(super) fn set_well_formed(&mut self, well_formed: bool) {
        self.counts |= if well_formed { WELL_FORMED } else { 0 };
    }

    /// Ends as a block must.
    #[inline]
    pub(super) fn is_terminated(&self) -> bool {
        self.counts & UNFINISHED == 0
    }

    #[inline]
    pub(super) fn set_terminated(&mut self, terminated: bool) {
        self.counts |= if terminated { 0 } else { UNFINISHED };
    }

    /// Ends in a CR at the end of the input, whose LF may still come.
    #[inline]
    pub(super) fn pending_lf(&self) -> Option<PendingLf> {
        let name = u64::from(self.counts as u32) >> PENDING_LF_SHIFT;
        (name != 0).then_some(PendingLf(name))
    }

    pub(super) fn set_pending_lf(&mut self, PendingLf(name): PendingLf) {
        self.counts |= name << PENDING_LF_SHIFT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(raw: &str) -> (usize, bool, bool, bool) {
        let meta = BlockMeta::scan(raw.as_bytes());
        let (lines, id) = (meta.data_lines(), meta.has_id());
        (lines, id, meta.has_event(), meta.is_repeated())
    }

    #[test]
    fn a_shape_knows_the_fields_that_are_there_and_no_others() {
        assert_eq!(
            of("data: 1\ndata\ndatax\n: c\nretry: 1\n\n"),
            (2, false, false, false)
        );
        assert_eq!(of("id: 1\ndata\n\n"), (1, true, false, false));
        assert_eq!(of("id\nid\n\n"), (0, true, false, true));
        assert_eq!(of("event: a\nid: 1\ndata\n\n"), (1, true, true, false));
        assert_eq!(of("event: a\nevent\n\n"), (0, false, true, true));
        assert_eq!(
            of("idx: 1\ni: 1\neventual: a\nev: b\ndata\n\n"),
            (1, false, false, false)
        );
    }

    #[test]
    fn what_else_is_noted_leaves_the_fields_as_they_are() {
        let mut meta = BlockMeta::scan(b"id: 1\ndata: abc\ndata\n\n");
        assert_eq!((meta.pending_lf(), meta.is_terminated()), (None, true));
        let name = PendingLf(u64::from(u32::MAX) >> PENDING_LF_SHIFT);
        meta.set_pending_lf(name);
        meta.set_well_formed(true);
        meta.set_terminated(false);
        assert_eq!(meta.pending_lf(), Some(name));
        assert!(meta.is_well_formed() && !meta.is_terminated() && meta.has_id());
        assert!(!meta.has_event() && !meta.is_repeated());
        assert_eq!((meta.data_lines(), meta.first_data()), (2, 12..15));
    }

    #[test]
    fn names_of_open_ends_differ_until_there_are_no_more() {
        let last = PendingLf(u64::from(u32::MAX) >> PENDING_LF_SHIFT);
        assert_eq!(PendingLf::FIRST.next(), PendingLf(2));
        assert_eq!(PendingLf(last.0 - 1).next(), last);
        assert_eq!(last.next(), PendingLf::FIRST);
    }
}
