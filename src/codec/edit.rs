//! Edits of blocks. An edit changes one field or removes the comments, and leaves the other lines unchanged except for their line
//! ends.

use bytes::Bytes;
use memchr::{memchr, memchr2};

use crate::codec::{
    block::Block,
    encode::{data, field},
    lines::{Line, Lines, is_standalone},
};

/// The block with the data `text` in place of all its `data` lines.
pub(super) fn replace_data(block: &Block, text: &str) -> Block {
    replace_single_line(block, text)
        .unwrap_or_else(|| replace_field(block, b"data", |raw| data(raw, text)))
}

/// The fast path of [`replace_data`]: one `data` line replaces one `data` line, and the lines of the block are not read again.
/// Returns `None` if the block or the text has several lines of data, if the block is incomplete, or if a line ends in CR.
fn replace_single_line(block: &Block, text: &str) -> Option<Block> {
    const NAME: &[u8] = b"data: ";
    let (mut meta, raw) = (block.meta, block.as_bytes());
    if meta.data_lines() != 1 || !block.is_terminated() || raw.len() > u32::MAX as usize {
        return None;
    }
    let old = meta.first_data();
    let (before, after) = (&raw[..old.start], &raw[old.end..]);
    let before = before
        .strip_suffix(NAME)
        .or_else(|| before.strip_suffix(b"data:"))?;
    // An edited block has LF line ends only.
    let has_no_cr = [before, after]
        .iter()
        .all(|part| memchr(b'\r', part).is_none());
    if !has_no_cr || memchr2(b'\n', b'\r', text.as_bytes()).is_some() {
        return None;
    }
    let raw = [before, NAME, text.as_bytes(), after].concat();
    let start = before.len() + NAME.len();
    meta.set_first_data(start..start + text.len());
    Some(Block {
        meta,
        slice: Bytes::from(raw).into(),
    })
}

/// The block with all fields of this name replaced by the output of `write`.
///
/// The output stands where the first such field was. If there was none, it stands before the first `data` line, so that a client
/// which reads line by line has the field before the data.
pub(super) fn replace_field(block: &Block, name: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> Block {
    let is = |line: &Line<'_>, wanted: &[u8]| matches!(line, Line::Field { name, .. } if *name == wanted);
    let present = block.lines().any(|line| is(&line, name));
    let anchor = if present { name } else { b"data" };
    let mut write = Some(write);
    rebuild(block, |raw, line| {
        if is(&line, anchor)
            && let Some(write) = write.take()
        {
            write(raw);
        }
        !is(&line, name)
    })
}

/// Writes the block with this id in place of all its ids.
pub(crate) fn with_id(raw: &mut Vec<u8>, block: &Block, id: &[u8]) {
    if block.has_id() {
        let block = replace_field(block, b"id", |raw| field(raw, b"id", id));
        raw.extend_from_slice(block.as_bytes());
    } else {
        field(raw, b"id", id);
        raw.extend_from_slice(block.as_bytes());
    }
}

/// The block without its `id` fields.
pub(crate) fn without_id(block: &Block) -> Block {
    replace_field(block, b"id", |_| {})
}

impl Block {
    /// The block without its comment lines, or `None` if it has no other line.
    pub(crate) fn without_comments(self) -> Option<Self> {
        let keep = |line: &Line<'_>| !matches!(line, Line::Comment(_));
        if self.lines().all(|line| keep(&line)) {
            return Some(self);
        }
        let rest = self.lines().any(|line| keep(&line));
        rest.then(|| rebuild(&self, |_, line| keep(&line)))
    }
}

/// Writes the lines for which `keep` returns true, each ended by LF. `keep` may write before its line. An incomplete block stays
/// incomplete.
fn rebuild(block: &Block, mut keep: impl FnMut(&mut Vec<u8>, Line<'_>) -> bool) -> Block {
    let mut raw = Vec::with_capacity(block.as_bytes().len() + 32);
    for line in Lines::new(block.as_bytes()).filter(|line| !line.is_empty()) {
        if keep(&mut raw, Line::parse(line)) {
            raw.extend_from_slice(line);
            raw.push(b'\n');
        }
    }
    // A comment or `retry` line before the first field would be decoded as a separate block: move such lines to the end.
    let leading: usize = Lines::new(&raw)
        .take_while(|line| is_standalone(line))
        .map(|line| line.len() + 1)
        .sum();
    raw.rotate_left(leading);
    if block.is_terminated() {
        raw.push(b'\n');
    } else if !block.as_bytes().ends_with(b"\n") && !block.as_bytes().ends_with(b"\r") {
        raw.pop();
    }
    Block::from_raw(raw, block.is_terminated())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Decoder, Item};

    fn blocks(stream: &str) -> Vec<Block> {
        let mut decoder = Decoder::default().check_utf8(true);
        decoder.push(stream.to_owned().into());
        let items =
            std::iter::from_fn(|| decoder.next_item().unwrap().or_else(|| decoder.finish()));
        let blocks = items.filter_map(|item| match item {
            Item::Event(event) => Some(event.into_block()),
            Item::Block(block) => Some(block),
            _ => None,
        });
        blocks.collect()
    }

    #[test]
    fn with_id_replaces_all_ids_of_a_block() {
        for (raw, expected) in [
            ("data: a\n\n", "id: x\ndata: a\n\n"),
            ("id: 1\ndata: a\nid: 2\n\n", "id: x\ndata: a\n\n"),
            ("data: a\nid\n\n", "data: a\nid: x\n\n"),
        ] {
            let mut written = b"before ".to_vec();
            with_id(&mut written, &blocks(raw)[0], b"x");
            assert_eq!(written, format!("before {expected}").as_bytes());
        }
    }

    const LINES: &[&str] = &[
        "data: a",
        "data:a",
        "data",
        "data: ",
        "data:",
        "data:  a",
        "data: data: a",
        "datax: 1|data: a",
        "data: a|datax",
        "id: 1|: c|retry: 1|data: a|event: b",
        "data: a|id: 1|id",
        "event: a|data: a|data: b",
        "data: \u{e4}|: c",
        "x|data",
        "id: 1",
    ];
    const TEXTS: &[&str] = &[
        "", "b", " b", "\u{e4}", "longer", "b\nc", "b\rc", "b\n", "data: b",
    ];

    /// The facts that the decoder collects about a block.
    fn known(block: &Block) -> (std::ops::Range<usize>, usize, [bool; 3]) {
        let meta = block.meta;
        let flags = [meta.has_id(), meta.has_event(), meta.is_repeated()];
        (meta.first_data(), meta.data_lines(), flags)
    }

    #[test]
    fn fast_and_slow_replacement_of_data_give_equal_blocks() {
        let streams = ["\n", "\r\n", "\r"].into_iter().flat_map(|end| {
            let rests = ["||", "|", ""].into_iter();
            rests.flat_map(move |rest| {
                LINES
                    .iter()
                    .map(move |lines| format!("{lines}{rest}").replace('|', end))
            })
        });
        for block in streams.flat_map(|stream| blocks(&stream)) {
            for text in TEXTS {
                let anew = replace_field(&block, b"data", |raw| data(raw, text));
                let got = replace_data(&block, text);
                assert_eq!(got, anew);
                assert_eq!(known(&got), known(&anew), "{:?}", got.raw());
            }
        }
    }

    #[test]
    fn fast_path_replaces_one_line_with_one_line() {
        let takes = |raw: &str, text| replace_single_line(&blocks(raw)[0], text).is_some();
        assert!(takes("data: a\n\n", "b") && takes("id: 1\ndata:\nevent: x\n\n", ""));
        assert!(!takes("data\n\n", "b") && !takes("data: a", "b"));
        assert!(!takes("data: a\ndata: a\n\n", "b") && !takes("data: a\r\n\r\n", "b"));
        assert!(!takes("data: a\n\n", "b\nc") && !takes("data: a\n\n", "b\rc"));
    }
}
