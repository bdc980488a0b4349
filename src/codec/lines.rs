//! The lines of an event stream (WHATWG HTML 9.2.5): where they end, and how one line is read.

use std::ops::Range;

use memchr::memchr2;

/// One line of an event stream, without its line end: a comment, a field, or a blank line (WHATWG HTML 9.2.5).
///
/// ```
/// use tower_sse_proxy::codec::Line;
///
/// assert_eq!(Line::parse(b"data: a:b"), Line::Field { name: b"data", value: b"a:b" });
/// assert_eq!(Line::parse(b"data"), Line::Field { name: b"data", value: b"" });
/// assert_eq!(Line::parse(b": hi"), Line::Comment(b" hi"));
/// assert_eq!(Line::parse(b""), Line::Blank);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Line<'a> {
    /// A line that starts with a colon. Holds the text after the colon, including a leading space.
    Comment(&'a [u8]),
    /// A field (WHATWG HTML 9.2.6).
    Field {
        /// The text before the first colon, or the whole line if it has no colon. Case-sensitive: `Data` is not `data`.
        name: &'a [u8],
        /// The text after the first colon, without one leading space. Empty if the line has no colon.
        value: &'a [u8],
    },
    /// An empty line. It ends a block.
    Blank,
}

impl<'a> Line<'a> {
    /// Parses a line. `line` must not contain a line end.
    pub fn parse(line: &'a [u8]) -> Self {
        // WHATWG HTML 9.2.6: "If the line is empty (a blank line): Dispatch the event".
        if line.is_empty() {
            return Line::Blank;
        }
        match memchr::memchr(b':', line) {
            // WHATWG HTML 9.2.6: "If the line starts with a U+003A COLON character (:): Ignore the line".
            Some(0) => Line::Comment(&line[1..]),
            Some(colon) => {
                let value = &line[colon + 1..];
                // WHATWG HTML 9.2.6: "If value starts with a U+0020 SPACE character, remove it".
                let value = value.strip_prefix(b" ").unwrap_or(value);
                Line::Field {
                    name: &line[..colon],
                    value,
                }
            }
            // WHATWG HTML 9.2.6: "using the whole line as the field name, and the empty string as the field value".
            None => Line::Field {
                name: line,
                value: b"",
            },
        }
    }
}

/// The id of a block: the last `id` field without U+0000 (WHATWG HTML 9.2.6).
pub(crate) fn id_of(block: &[u8]) -> Option<&[u8]> {
    let ids = Lines::new(block)
        .filter_map(|line| Some(&line[value_of(line, b"id")?..]))
        .filter(|id| !id.contains(&0));
    ids.last()
}

/// The lines of a byte string, each without its line end. Includes a last line that has no line end.
#[derive(Clone, Debug)]
pub(crate) struct Lines<'a> {
    ranges: LineRanges<'a>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self {
            ranges: LineRanges::new(text),
        }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.ranges.next()?;
        Some(&self.ranges.text[line])
    }
}

/// The ranges of the lines of a byte string, each without its line end.
#[derive(Clone, Debug)]
pub(super) struct LineRanges<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> LineRanges<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }
}

impl Iterator for LineRanges<'_> {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        let (start, rest) = (self.at, &self.text[self.at..]);
        if rest.is_empty() {
            return None;
        }
        let (line, taken) = match memchr2(b'\n', b'\r', rest) {
            Some(end) => (end, end + line_end_len(&rest[end..])),
            None => (rest.len(), rest.len()),
        };
        self.at += taken;
        Some(start..start + line)
    }
}

/// The offset of the value if the line is a field of this name: after the colon and one space, if they are present (WHATWG HTML
/// 9.2.6).
#[inline(always)]
pub(super) fn value_of(line: &[u8], name: &[u8]) -> Option<usize> {
    match line.strip_prefix(name)? {
        [] => Some(name.len()),
        [b':', b' ', ..] => Some(name.len() + 2),
        [b':', ..] => Some(name.len() + 1),
        _ => None,
    }
}

/// The length of the line end that `at` starts with: 2 for CRLF, else 1 (WHATWG HTML 9.2.5, `end-of-line`).
#[inline(always)]
pub(super) fn line_end_len(at: &[u8]) -> usize {
    match at {
        [b'\r', b'\n', ..] => 2,
        _ => 1,
    }
}

/// Whether a line completes its block: a blank line, or the first line if it is a comment or `retry`. `start` is the offset of
/// the line in its block.
#[inline]
pub(super) fn completes_item(line: &[u8], start: usize) -> bool {
    line.is_empty() || (start == 0 && is_standalone(line))
}

/// Whether a line takes effect without a blank line: a comment keeps the connection alive, and a client applies `retry` when it
/// reads the line (WHATWG HTML 9.2.6).
#[inline]
pub(super) fn is_standalone(line: &[u8]) -> bool {
    matches!(
        line,
        [b':', ..] | b"retry" | [b'r', b'e', b't', b'r', b'y', b':', ..]
    )
}

/// The value of a `retry` field in milliseconds, or `None` if it is not one or more ASCII digits (WHATWG HTML 9.2.6). A number
/// above `u64::MAX` gives `u64::MAX`.
pub(super) fn parse_retry(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0u64, |ms, digit| {
        ms.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_removes_one_leading_space_of_a_value() {
        let value = |line| match Line::parse(line) {
            Line::Field { value, .. } => value,
            other => panic!("{other:?}"),
        };
        assert_eq!(value(b"data:  x"), b" x");
        assert_eq!(value(b"data:\tx"), b"\tx");
        assert_eq!(value(b"data"), b"");
    }

    #[test]
    fn only_lf_cr_and_crlf_end_a_line() {
        let text = "a\nb\rc\r\nd\u{2028}\u{85}\u{b}e\n\rf".as_bytes();
        let lines: Vec<_> = Lines::new(text).map(String::from_utf8_lossy).collect();
        assert_eq!(lines, ["a", "b", "c", "d\u{2028}\u{85}\u{b}e", "", "f"]);
    }

    #[test]
    fn retry_accepts_ascii_digits_only_and_saturates() {
        assert_eq!(parse_retry(b"03000"), Some(3000));
        assert_eq!(parse_retry(b"99999999999999999999999"), Some(u64::MAX));
        for bad in [&b""[..], b"+5", b"-5", b"5 ", b"1e3", b"\xef\xbc\x95"] {
            assert_eq!(parse_retry(bad), None);
        }
    }

    #[test]
    fn id_of_a_block_is_its_last_id_without_nul() {
        for (block, id) in [
            (&b"data: 1"[..], None),
            (b"id: 1\nid: 2\nid: 3\0\ndata: 1", Some(&b"2"[..])),
            (b"id", Some(b"")),
            (b"id: \0", None),
        ] {
            assert_eq!(id_of(block), id);
        }
    }
}
