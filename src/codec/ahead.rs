//! Looking ahead in a chunk for whole blocks.

use memchr::memchr2;

use super::{
    lines::{ends_piece, line_end_len},
    raw::Place,
    shape::Shape,
};

/// A block that has been found.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)] // As in `Block`, so that it is copied there as it is.
pub(super) struct Cut {
    pub(super) shape: Shape,
    pub(super) place: Place,
}

/// The next few blocks of a chunk, about which there is nothing special: most of any stream.
///
/// To look for some first and to make blocks of them then is twice as fast as to do both for one after the other. (Between
/// the two, what was written word by word has come to rest, and can be moved as a whole.)
#[derive(Debug, Default)]
pub(super) struct Ahead {
    cuts: [Cut; 8],
    next: usize,
    found: usize,
}

impl Ahead {
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.found
    }

    #[inline(always)]
    pub(super) fn clear(&mut self) {
        (self.next, self.found) = (0, 0);
    }

    /// Takes what was found first.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Option<Cut> {
        if self.is_empty() {
            return None;
        }
        self.next += 1;
        Some(self.cuts[self.next - 1])
    }

    /// Looks for blocks from `start` on, where one begins. Stops before one that is unfinished, too large, or ends in a CR
    /// whose LF may be in the next chunk.
    pub(super) fn look(
        &mut self,
        chunk: &[u8],
        mut start: usize,
        limit: usize,
        well_formed: usize,
    ) {
        self.clear();
        let (mut line, mut from) = (start, start);
        let mut shape = Shape::default();
        while self.found < self.cuts.len()
            && let Some(found) = memchr2(b'\n', b'\r', &chunk[from..])
        {
            let line_end = from + found;
            from = line_end + line_end_len(&chunk[line_end..]);
            let text = &chunk[line..line_end];
            if !ends_piece(text, line - start) {
                shape.note(text, line - start);
                line = from;
                // The blank line is usually next: no search for what is in sight.
                match chunk.get(from) {
                    Some(b'\n' | b'\r') => from += line_end_len(&chunk[from..]),
                    _ => continue,
                }
            }
            let open = chunk[from - 1] == b'\r' && from == chunk.len();
            if open || from - start > limit {
                return;
            }
            shape.set_well_formed(from <= well_formed);
            self.cuts[self.found] = Cut {
                shape: std::mem::take(&mut shape),
                place: Place { start, end: from },
            };
            self.found += 1;
            (start, line) = (from, from);
        }
    }
}
