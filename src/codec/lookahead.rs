//! Looking lookahead in a chunk for whole blocks.

use memchr::memchr2;

use crate::codec::{
    block_meta::BlockMeta,
    chunk_slice::Span,
    lines::{completes_item, line_end_len},
};

/// A block that has been found.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)] // As in `Block`, so that it is copied there as it is.
pub(super) struct BlockSpan {
    pub(super) meta: BlockMeta,
    pub(super) span: Span,
}

/// The next few blocks of a chunk, about which there is nothing special: most of any stream.
///
/// To look for some first and to make blocks of them then is twice as fast as to do both for one after the other. (Between
/// the two, what was written word by word has come to rest, and can be moved as a whole.)
#[derive(Debug, Default)]
#[repr(C)] // See `Stream`.
pub(super) struct Lookahead {
    next: usize,
    found: usize,
    /// What follows on them, if it is known that it does not end in this chunk.
    unfinished: Option<Unfinished>,
    spans: [BlockSpan; 8],
}

/// A block of which all that has come has been searched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unfinished {
    pub(super) meta: BlockMeta,
    /// Where its last line begins, counted from the beginning of the block.
    pub(super) line: usize,
}

impl Lookahead {
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.found
    }

    #[inline(always)]
    pub(super) fn clear(&mut self) {
        (self.next, self.found, self.unfinished) = (0, 0, None);
    }

    /// The block behind those that were found, if it is known not to end in this chunk.
    pub(super) fn unfinished(&self) -> Option<Unfinished> {
        self.unfinished
    }

    /// Notes which of the blocks are text, of a chunk of which so much is.
    pub(super) fn set_well_formed(&mut self, well_formed: usize) {
        for BlockSpan { meta, span } in &mut self.spans[..self.found] {
            meta.set_well_formed(span.end <= well_formed);
        }
    }

    /// Takes what was found first.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Option<BlockSpan> {
        if self.is_empty() {
            return None;
        }
        self.next += 1;
        Some(self.spans[self.next - 1])
    }

    /// Looks for blocks from `start` on, where one begins. Stops before one that is unfinished, too large, or ends in a CR
    /// whose LF may be in the next chunk.
    pub(super) fn search(
        &mut self,
        chunk: &[u8],
        mut start: usize,
        limit: usize,
        well_formed: usize,
    ) {
        self.clear();
        let (mut line, mut from) = (start, start);
        let mut meta = BlockMeta::default();
        while self.found < self.spans.len() {
            let Some(found) = memchr2(b'\n', b'\r', &chunk[from..]) else {
                let line = line - start;
                self.unfinished = Some(Unfinished { meta, line });
                return;
            };
            let line_end = from + found;
            from = line_end + line_end_len(&chunk[line_end..]);
            let text = &chunk[line..line_end];
            if !completes_item(text, line - start) {
                meta.note(text, line - start);
                line = from;
                // The blank line is usually next: no search for what is in sight.
                match chunk.get(from) {
                    Some(b'\n') => from += 1,
                    Some(b'\r') => from += line_end_len(&chunk[from..]),
                    _ => continue,
                }
            }
            let open = from == chunk.len() && chunk.last() == Some(&b'\r');
            if open || from - start > limit {
                return;
            }
            meta.set_well_formed(from <= well_formed);
            self.spans[self.found] = BlockSpan {
                meta: std::mem::take(&mut meta),
                span: Span { start, end: from },
            };
            self.found += 1;
            (start, line) = (from, from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the blocks stand that one look from `start` on finds, how many `data` lines each has, and whether it is known
    /// to be text.
    fn search(
        chunk: &str,
        start: usize,
        limit: usize,
        text: usize,
    ) -> Vec<(usize, usize, usize, bool)> {
        let mut lookahead = Lookahead::default();
        // What was found before is forgotten.
        lookahead.search(b"data: before\n\n\n", 0, 100, 0);
        lookahead.search(chunk.as_bytes(), start, limit, text);
        let found = std::iter::from_fn(|| lookahead.next()).map(|BlockSpan { meta, span }| {
            let (lines, known) = (meta.data_lines(), meta.is_well_formed());
            (span.start, span.end, lines, known)
        });
        let found = found.collect();
        assert!(lookahead.is_empty());
        found
    }

    #[test]
    fn every_whole_block_is_found_and_no_other() {
        let chunk =
            "data: 1\n\n: c\nid: 2\r\ndata: 3\r\ndata\r\n\r\nretry: 1\n\n\ndata: 4\n\rdata: half\n";
        let found = [
            (0, 9, 1, true),
            (9, 13, 0, true),
            (13, 37, 2, true),
            (37, 46, 0, true),
            (46, 47, 0, true),
            (47, 48, 0, false),
            (48, 57, 1, false),
        ];
        assert_eq!(search(chunk, 0, 100, 47), found);
        assert_eq!(search(chunk, 13, 100, 47), found[2..]);
    }

    #[test]
    fn what_has_been_read_of_an_unfinished_block_is_remembered() {
        let unfinished = |chunk: &str, start, limit| {
            let mut lookahead = Lookahead::default();
            lookahead.search(chunk.as_bytes(), start, limit, 0);
            let unfinished = lookahead.unfinished();
            unfinished.map(|Unfinished { meta, line }| (meta.data_lines(), meta.has_id(), line))
        };
        let chunk = "data: 1\n\nid: 2\ndata: 3\r\nda";
        assert_eq!(unfinished(chunk, 0, 100), Some((1, true, 15)));
        assert_eq!(unfinished(chunk, 9, 100), Some((1, true, 15)));
        assert_eq!(unfinished("da", 0, 100), Some((0, false, 0)));
        assert_eq!(unfinished("data\r", 0, 100), Some((1, false, 5)));
        // Not all has been searched.
        assert_eq!(unfinished(&"data\n\n".repeat(8), 0, 100), None);
        assert_eq!(unfinished(chunk, 0, 8), None);

        let mut lookahead = Lookahead::default();
        lookahead.search(b"data: half", 0, 100, 0);
        lookahead.search(b"data\r\r", 0, 100, 0);
        assert!(lookahead.unfinished().is_none());
    }

    #[test]
    fn what_is_text_can_be_told_later() {
        let mut lookahead = Lookahead::default();
        lookahead.search(b"data\n\ndata\n\n", 0, 100, 0);
        lookahead.set_well_formed(11);
        let known: Vec<_> = std::iter::from_fn(|| lookahead.next())
            .map(|block| block.meta.is_well_formed())
            .collect();
        assert_eq!(known, [true, false]);
    }

    #[test]
    fn a_look_finds_eight_at_the_most() {
        let chunk = "data\n\n".repeat(20);
        let found = search(&chunk, 6, 100, 0);
        assert_eq!(found.len(), 8);
        assert_eq!((found[0].0, found[7].1), (6, 54));
    }

    #[test]
    fn what_is_too_large_or_ends_in_a_cr_at_the_end_of_the_chunk_is_left() {
        let chunk = "data: 1\n\ndata: 22\n\ndata: 3\n\n";
        assert_eq!(search(chunk, 0, 10, 0).len(), 3);
        assert_eq!(search(chunk, 0, 9, 0), [(0, 9, 1, false)]);
        assert_eq!(
            search("data: 1\n\ndata: 2\r\r", 0, 100, 0),
            [(0, 9, 1, false)]
        );
        assert_eq!(search("data: 1\n\n: c\r", 0, 100, 0), [(0, 9, 1, false)]);
        assert_eq!(search("data: 1\r\r\n", 0, 100, 0), [(0, 10, 1, false)]);
    }
}
