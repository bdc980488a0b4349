//! Finds the next whole blocks of a chunk before they are needed.

use memchr::memchr2;

use crate::codec::{
    block_meta::BlockMeta,
    chunk_slice::Span,
    lines::{completes_item, line_end_len},
};

/// A block in a chunk: the facts about it, and its range.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)] // The same order as in `Block`, so that it is copied there in one piece.
pub(super) struct BlockSpan {
    pub(super) meta: BlockMeta,
    pub(super) span: Span,
}

/// The next whole blocks of a chunk, at most eight.
///
/// To find several blocks first and to create the `Block` values later is twice as fast as to find and create them one by one: by
/// then the processor has finished the separate writes to a `BlockSpan` and can move it as a whole.
#[derive(Debug, Default)]
#[repr(C)] // See `Stream`.
pub(super) struct Lookahead {
    /// How many of the found blocks have been taken.
    next: usize,
    found: usize,
    /// The block after the found ones, if it does not end in this chunk.
    unfinished: Option<Unfinished>,
    spans: [BlockSpan; 8],
}

/// A block that does not end in the chunk. All of its bytes in the chunk have been searched for line ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unfinished {
    pub(super) meta: BlockMeta,
    /// The offset in the block at which its last line starts.
    pub(super) line: usize,
}

impl Lookahead {
    /// Whether all found blocks have been taken.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.found
    }

    /// Forgets everything. Call this when the chunk changes.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        (self.next, self.found, self.unfinished) = (0, 0, None);
    }

    /// The block after the found ones, if it does not end in this chunk.
    pub(super) fn unfinished(&self) -> Option<Unfinished> {
        self.unfinished
    }

    /// Marks the found blocks that end before the offset `well_formed` of the chunk as well-formed UTF-8.
    pub(super) fn set_well_formed(&mut self, well_formed: usize) {
        for BlockSpan { meta, span } in &mut self.spans[..self.found] {
            meta.set_well_formed(span.end <= well_formed);
        }
    }

    /// Takes the next found block.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Option<BlockSpan> {
        if self.is_empty() {
            return None;
        }
        self.next += 1;
        Some(self.spans[self.next - 1])
    }

    /// Finds blocks from the offset `start` of the chunk on, at which a block must begin. `limit` is the largest size of a block in
    /// bytes, and `well_formed` the offset up to which the chunk is known to be UTF-8.
    ///
    /// The search stops before a block that is unfinished, too large, or ends in a CR at the end of the chunk: its LF may be in the
    /// next chunk (WHATWG HTML 9.2.5: `end-of-line = ( cr lf / cr / lf )`).
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
                // The next line is often the blank line that ends the block (WHATWG HTML 9.2.6): test for it before the next
                // search.
                match chunk.get(from) {
                    Some(b'\n') => from += 1,
                    Some(b'\r') => from += line_end_len(&chunk[from..]),
                    _ => continue,
                }
            }
            let ends_in_cr = from == chunk.len() && chunk.last() == Some(&b'\r');
            if ends_in_cr || from - start > limit {
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

    /// The start, the end, the number of `data` lines and the UTF-8 flag of each block that one search finds.
    fn search(
        chunk: &str,
        start: usize,
        limit: usize,
        text: usize,
    ) -> Vec<(usize, usize, usize, bool)> {
        let mut lookahead = Lookahead::default();
        // A search forgets the results of the previous search.
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
    fn search_finds_exactly_the_whole_blocks() {
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
    fn search_remembers_the_facts_about_an_unfinished_block() {
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
        // The search ended before the unfinished block.
        assert_eq!(unfinished(&"data\n\n".repeat(8), 0, 100), None);
        assert_eq!(unfinished(chunk, 0, 8), None);

        let mut lookahead = Lookahead::default();
        lookahead.search(b"data: half", 0, 100, 0);
        lookahead.search(b"data\r\r", 0, 100, 0);
        assert!(lookahead.unfinished().is_none());
    }

    #[test]
    fn set_well_formed_marks_blocks_after_the_search() {
        let mut lookahead = Lookahead::default();
        lookahead.search(b"data\n\ndata\n\n", 0, 100, 0);
        lookahead.set_well_formed(11);
        let known: Vec<_> = std::iter::from_fn(|| lookahead.next())
            .map(|block| block.meta.is_well_formed())
            .collect();
        assert_eq!(known, [true, false]);
    }

    #[test]
    fn search_finds_at_most_eight_blocks() {
        let chunk = "data\n\n".repeat(20);
        let found = search(&chunk, 6, 100, 0);
        assert_eq!(found.len(), 8);
        assert_eq!((found[0].0, found[7].1), (6, 54));
    }

    #[test]
    fn search_stops_at_large_blocks_and_at_a_final_cr() {
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
