//! What is known of a block without reading it again.

use std::ops::Range;

use super::lines::Lines;

/// What the decoder notes in passing. Words only: what is smaller is written by itself, and then to be moved with its
/// neighbours, which costs a wait at each move.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    /// Where the value of the first `data` line begins, and above it where it ends.
    first_data: u64,
    /// The name of an open end, if there is one, and three flags; and above them the number of `data` lines.
    counts: u64,
}

const HAS_ID: u64 = 1;
const WELL_FORMED: u64 = 2;
const UNFINISHED: u64 = 4;
const OPEN_END: u32 = 3;
const HALF: u32 = 32;

/// Names a block whose last CR may turn out to be half of a CRLF.
///
/// Names come round again after half a billion; the block that had it first is long gone. (A word for the same reason.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenEnd(u64);

impl OpenEnd {
    pub(super) const FIRST: Self = Self(1);

    pub(super) fn next(self) -> Self {
        Self((self.0 % (u64::from(u32::MAX) >> OPEN_END)) + 1)
    }
}

impl Shape {
    pub(super) fn of(raw: &[u8]) -> Self {
        let mut shape = Self::default();
        for line in Lines::new(raw) {
            // A line is a slice of `raw`, so the distance of their addresses is its place.
            let start = line.as_ptr() as usize - raw.as_ptr() as usize;
            shape.note(line, start);
        }
        shape
    }

    /// Takes note of a line that stands at `start` in the block. Blocks have less than 4 GiB.
    #[inline]
    pub(super) fn note(&mut self, line: &[u8], start: usize) {
        match line.first() {
            Some(b'd') if line.starts_with(b"data") => {
                let value = match line.get(4..) {
                    Some([]) => line.len(),
                    Some([b':', b' ', ..]) => 6,
                    Some([b':', ..]) => 5,
                    _ => return,
                };
                if self.data_lines() == 0 {
                    let (from, to) = ((start + value) as u64, (start + line.len()) as u64);
                    self.first_data = from | to << HALF;
                }
                self.counts += 1 << HALF;
            }
            Some(b'i') if matches!(line, b"id" | [b'i', b'd', b':', ..]) => self.counts |= HAS_ID,
            _ => {}
        }
    }

    /// How many `data` lines there are.
    #[inline]
    pub(super) fn data_lines(&self) -> usize {
        (self.counts >> HALF) as usize
    }

    /// Where the value of the first `data` line stands.
    #[inline]
    pub(super) fn first_data(&self) -> Range<usize> {
        self.first_data as u32 as usize..(self.first_data >> HALF) as usize
    }

    /// There is an `id` line.
    #[inline]
    pub(super) fn has_id(&self) -> bool {
        self.counts & HAS_ID != 0
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
    pub(super) fn open_end(&self) -> Option<OpenEnd> {
        let name = u64::from(self.counts as u32) >> OPEN_END;
        (name != 0).then_some(OpenEnd(name))
    }

    pub(super) fn set_open_end(&mut self, OpenEnd(name): OpenEnd) {
        self.counts |= name << OPEN_END;
    }
}
