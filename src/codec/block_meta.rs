//! Facts about a block that the decoder collects while it reads the lines.

use std::ops::Range;

use crate::codec::lines::{LineRanges, value_of};

/// The facts about a block, in two words.
///
/// Smaller fields would be slower: each is written separately, and a processor must wait before it can move separate writes as one
/// word.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BlockMeta {
    /// The value of the first `data` line: low half, offset of its start in the block; high half, offset of its end.
    first_data: u64,
    /// Low half: five flags and, above them, the pending LF (0 for none). High half: the number of `data` lines.
    counts: u64,
}

const HAS_ID: u64 = 1;
const HAS_EVENT: u64 = 2;
/// The block has at least two `id` lines or at least two `event` lines.
const REPEATED: u64 = 4;
const WELL_FORMED: u64 = 8;
const UNFINISHED: u64 = 16;
const PENDING_LF_SHIFT: u32 = 5;
const HIGH_WORD: u32 = 32;

/// Identifies a block that ends in a CR whose LF may still come (WHATWG HTML 9.2.5: `end-of-line = ( cr lf / cr / lf )`).
///
/// The numbers repeat after 2^27 blocks, when the first block with the number is no longer in use. It is a whole word for the
/// reason that [`BlockMeta`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingLf(u64);

impl PendingLf {
    pub(super) const FIRST: Self = Self(1);

    pub(super) fn next(self) -> Self {
        Self((self.0 % (u64::from(u32::MAX) >> PENDING_LF_SHIFT)) + 1)
    }
}

impl BlockMeta {
    /// Reads the lines of a block.
    pub(super) fn scan(raw: &[u8]) -> Self {
        let mut meta = Self::default();
        for line in LineRanges::new(raw) {
            meta.note(&raw[line.clone()], line.start);
        }
        meta
    }

    /// Adds a line that starts at the offset `start` of the block. The block must be smaller than 4 GiB.
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

    /// Sets the flag of a field, and `REPEATED` if it is set already.
    fn mark(&mut self, field: u64) {
        let again = self.counts & field != 0;
        self.counts |= field | if again { REPEATED } else { 0 };
    }

    /// The number of `data` lines.
    #[inline]
    pub(super) fn data_lines(&self) -> usize {
        (self.counts >> HIGH_WORD) as usize
    }

    /// The range of the first `data` line's value in the block.
    #[inline]
    pub(super) fn first_data(&self) -> Range<usize> {
        self.first_data as u32 as usize..(self.first_data >> HIGH_WORD) as usize
    }

    #[inline(always)]
    pub(super) fn set_first_data(&mut self, Range { start, end }: Range<usize>) {
        self.first_data = start as u64 | (end as u64) << HIGH_WORD;
    }

    /// Whether the block has an `id` line.
    #[inline]
    pub(super) fn has_id(&self) -> bool {
        self.counts & HAS_ID != 0
    }

    /// Whether the block has an `event` line.
    #[inline]
    pub(super) fn has_event(&self) -> bool {
        self.counts & HAS_EVENT != 0
    }

    /// Whether the block has more than one `id` line or more than one `event` line.
    #[inline]
    pub(super) fn is_repeated(&self) -> bool {
        self.counts & REPEATED != 0
    }

    /// Whether the block has been checked and is well-formed UTF-8. `false` if it has not been checked.
    #[inline]
    pub(super) fn is_well_formed(&self) -> bool {
        self.counts & WELL_FORMED != 0
    }

    /// Sets the flag if `well_formed` is true. It never clears the flag.
    #[inline]
    pub(super) fn set_well_formed(&mut self, well_formed: bool) {
        self.counts |= if well_formed { WELL_FORMED } else { 0 };
    }

    /// Whether the block is complete.
    #[inline]
    pub(super) fn is_terminated(&self) -> bool {
        self.counts & UNFINISHED == 0
    }

    /// Marks the block as incomplete if `terminated` is false. It never clears the mark.
    #[inline]
    pub(super) fn set_terminated(&mut self, terminated: bool) {
        self.counts |= if terminated { 0 } else { UNFINISHED };
    }

    /// The identity of the block if it ends in a CR at the end of the input, whose LF may still come.
    #[inline]
    pub(super) fn pending_lf(&self) -> Option<PendingLf> {
        let number = u64::from(self.counts as u32) >> PENDING_LF_SHIFT;
        (number != 0).then_some(PendingLf(number))
    }

    pub(super) fn set_pending_lf(&mut self, PendingLf(number): PendingLf) {
        self.counts |= number << PENDING_LF_SHIFT;
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
    fn scan_finds_data_id_and_event_lines_only() {
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
    fn flags_and_pending_lf_do_not_change_the_counts() {
        let mut meta = BlockMeta::scan(b"id: 1\ndata: abc\ndata\n\n");
        assert_eq!((meta.pending_lf(), meta.is_terminated()), (None, true));
        let last = PendingLf(u64::from(u32::MAX) >> PENDING_LF_SHIFT);
        meta.set_pending_lf(last);
        meta.set_well_formed(true);
        meta.set_terminated(false);
        assert_eq!(meta.pending_lf(), Some(last));
        assert!(meta.is_well_formed() && !meta.is_terminated() && meta.has_id());
        assert!(!meta.has_event() && !meta.is_repeated());
        assert_eq!((meta.data_lines(), meta.first_data()), (2, 12..15));
    }

    #[test]
    fn pending_lf_numbers_wrap_around_without_zero() {
        let last = PendingLf(u64::from(u32::MAX) >> PENDING_LF_SHIFT);
        assert_eq!(PendingLf::FIRST.next(), PendingLf(2));
        assert_eq!(PendingLf(last.0 - 1).next(), last);
        assert_eq!(last.next(), PendingLf::FIRST);
    }
}
