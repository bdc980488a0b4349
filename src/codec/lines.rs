//! Lines: where they end, and what one line says.

use std::ops::Range;

use memchr::memchr2;

/// One line of an event stream, without its line end.
///
/// The grammar is WHATWG HTML 9.2.5: a line is a comment, a field, or blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Line<'a> {
    /// A line that starts with a colon; the text after it, leading space included.
    Comment(&'a [u8]),
    /// A field: the name is everything before the first colon (or the whole line), and the value has
    /// lost exactly one leading space (WHATWG HTML 9.2.6).
    Field {
        /// Case-sensitive: `Data` is not `data`.
        name: &'a [u8],
        /// Empty where the line has no colon.
        value: &'a [u8],
    },
    /// Nothing at all: the line that ends a block.
    Blank,
}

impl<'a> Line<'a> {
    /// Reads a line that has been cut off its line end.
    pub fn parse(line: &'a [u8]) -> Self {
        if line.is_empty() {
            return Line::Blank;
        }
        match memchr::memchr(b':', line) {
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
            None => Line::Field {
                name: line,
                value: b"",
            },
        }
    }
}

/// The id in a block (WHATWG HTML 9.2.6: the last `id` field without a U+0000).
pub(crate) fn id_of(block: &[u8]) -> Option<&[u8]> {
    let ids = Lines::new(block)
        .filter_map(|line| Some(&line[value_of(line, b"id")?..]))
        .filter(|id| !id.contains(&0));
    ids.last()
}

/// The lines of a byte string, each without its line end; a last line without one is included.
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

/// Where the lines of a byte string stand in it.
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

/// Where the value begins, if the line is a field of that name (WHATWG HTML 9.2.6: after the colon and one space, if they are
/// there).
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

/// Whether a line that begins at `start` in its block completes a piece: a blank line does, and so does one
/// that no field has come before and that takes effect by itself.
#[inline]
pub(super) fn completes_item(line: &[u8], start: usize) -> bool {
    line.is_empty() || (start == 0 && is_standalone(line))
}

/// A comment keeps a connection alive, and a `retry` takes effect when its line is read (WHATWG HTML 9.2.6):
/// neither needs a blank line.
#[inline]
pub(super) fn is_standalone(line: &[u8]) -> bool {
    matches!(
        line,
        [b':', ..] | b"retry" | [b'r', b'e', b't', b'r', b'y', b':', ..]
    )
}

/// The value of a `retry` field in milliseconds, if it is one: ASCII digits only, at least one, any number
/// of them (WHATWG HTML 9.2.6). What does not fit is the largest number, not an error.
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
    fn a_value_loses_one_space_and_only_a_space() {
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
    fn a_retry_is_ascii_digits_and_never_overflows() {
        assert_eq!(parse_retry(b"03000"), Some(3000));
        assert_eq!(parse_retry(b"99999999999999999999999"), Some(u64::MAX));
        for bad in [&b""[..], b"+5", b"-5", b"5 ", b"1e3", b"\xef\xbc\x95"] {
            assert_eq!(parse_retry(bad), None);
        }
    }
}
