//! Undoes the escapes of JSON strings, and maps ranges of the text back to the escaped text.

use std::{borrow::Cow, ops::Range};

use memchr::memchr;

/// A text without the escapes of JSON strings (RFC 8259 section 7).
///
/// A backslash that begins no escape stays in the text, so any text can be read: the inside of a string literal, a string that
/// contains JSON, or data that is not JSON. An unpaired surrogate reads as U+FFFD.
#[derive(Debug)]
pub(crate) struct Unescaped<'a> {
    text: Cow<'a, str>,
    escapes: Vec<Escape>,
    /// The byte of the original at which an escape begins that later text may complete.
    unfinished: Option<usize>,
}

/// An escape, or a surrogate pair of two escapes.
#[derive(Debug)]
struct Escape {
    /// The range of its character in the text.
    read: Range<usize>,
    /// The range of the escape in the original.
    original: Range<usize>,
}

impl<'a> Unescaped<'a> {
    /// Undoes the escapes of a text. A text without a backslash costs one search and no copy.
    pub(crate) fn new(original: &'a str) -> Self {
        Self::read_as(original, false)
    }

    /// As [`new`](Self::new), for the outer of several layers of escapes: an unpaired surrogate stays escaped, because an
    /// inner layer may contain its other half.
    pub(crate) fn outer(original: &'a str) -> Self {
        Self::read_as(original, true)
    }

    fn read_as(original: &'a str, keep_unpaired: bool) -> Self {
        let mut unescaped = Self {
            text: Cow::Borrowed(original),
            escapes: Vec::new(),
            unfinished: None,
        };
        let Some(mut at) = memchr(b'\\', original.as_bytes()) else {
            return unescaped;
        };
        let mut text = String::with_capacity(original.len());
        let mut copied = 0;
        loop {
            let rest = &original.as_bytes()[at..];
            if unescaped.unfinished.is_none() && is_unfinished(rest) {
                unescaped.unfinished = Some(at);
            }
            let next = match escape(rest) {
                Some((char, len)) => {
                    text.push_str(&original[copied..at]);
                    let begins = text.len();
                    match char {
                        Some(char) => text.push(char),
                        None if keep_unpaired => text.push_str(&original[at..at + len]),
                        None => text.push(char::REPLACEMENT_CHARACTER),
                    }
                    unescaped.escapes.push(Escape {
                        read: begins..text.len(),
                        original: at..at + len,
                    });
                    copied = at + len;
                    copied
                }
                None => at + 1,
            };
            match memchr(b'\\', &original.as_bytes()[next..]) {
                Some(further) => at = next + further,
                None => break,
            }
        }
        if !unescaped.escapes.is_empty() {
            text.push_str(&original[copied..]);
            unescaped.text = Cow::Owned(text);
        }
        unescaped
    }

    /// The text without escapes.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn into_text(self) -> Cow<'a, str> {
        self.text
    }

    /// Returns an owned copy, or `None` if the original has no escapes.
    pub(crate) fn detached(self) -> Option<Unescaped<'static>> {
        (!self.escapes.is_empty()).then(|| Unescaped {
            text: self.text.into_owned().into(),
            escapes: self.escapes,
            unfinished: self.unfinished,
        })
    }

    /// The number of bytes of the text that do not depend on later text. The rest is an incomplete escape or the first half of
    /// a surrogate pair.
    pub(crate) fn settled(&self) -> usize {
        match self.unfinished {
            Some(original) => self.read(original),
            None => self.text.len(),
        }
    }

    /// The range of the original for a range of the text. Both have character boundaries.
    pub(crate) fn original(&self, read: Range<usize>) -> Range<usize> {
        let start = self.start(read.start);
        start..self.end(read.end).max(start)
    }

    /// The byte of the original at which the character begins that begins at this byte of the text.
    pub(crate) fn start(&self, read: usize) -> usize {
        let before = self
            .escapes
            .partition_point(|escape| escape.read.start <= read);
        match before.checked_sub(1).map(|last| &self.escapes[last]) {
            None => read,
            Some(escape) if read < escape.read.end => escape.original.start,
            Some(escape) => escape.original.end + (read - escape.read.end),
        }
    }

    /// The byte of the original at which the character ends that ends at this byte of the text.
    fn end(&self, read: usize) -> usize {
        let before = self
            .escapes
            .partition_point(|escape| escape.read.start < read);
        match before.checked_sub(1).map(|last| &self.escapes[last]) {
            None => read,
            Some(escape) if read <= escape.read.end => escape.original.end,
            Some(escape) => escape.original.end + (read - escape.read.end),
        }
    }

    /// The number of bytes of the text for the first bytes of the original, without an escape that is cut there.
    fn read(&self, original: usize) -> usize {
        let before = self
            .escapes
            .partition_point(|escape| escape.original.start <= original);
        match before.checked_sub(1).map(|last| &self.escapes[last]) {
            None => original,
            Some(escape) if original < escape.original.end => escape.read.start,
            Some(escape) => escape.read.end + (original - escape.original.end),
        }
    }
}

/// The character and the length of the escape at the beginning of a text. `None` in place of the character for an unpaired
/// surrogate.
fn escape(text: &[u8]) -> Option<(Option<char>, usize)> {
    let char = match text.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let first = unit(text)?;
            let second = text.get(6..).and_then(unit);
            let mut pair = char::decode_utf16([first].into_iter().chain(second));
            return Some(match pair.next()? {
                Ok(char) => (Some(char), 6 * char.len_utf16()),
                Err(_) => (None, 6),
            });
        }
        _ => return None,
    };
    Some((Some(char), 2))
}

/// The code unit of the escape `\uXXXX` at the beginning of a text.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.get(..6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        u16::try_from(digit).ok().map(|digit| unit << 4 | digit)
    })
}

/// Whether later text may turn all of this text into an escape, or into another escape.
fn is_unfinished(text: &[u8]) -> bool {
    let text = match unit(text) {
        Some(0xd800..0xdc00) => match &text[6..] {
            [] => return true,
            // Only the escape of a low surrogate completes the pair.
            rest => {
                return is_start(rest, |at, digit| match at {
                    0 => matches!(digit, b'd' | b'D'),
                    1 => matches!(digit, b'c'..=b'f' | b'C'..=b'F'),
                    _ => true,
                });
            }
        },
        Some(_) => return false,
        None => text,
    };
    is_start(text, |_, _| true)
}

/// Whether the text is a proper prefix of `\uXXXX` in which `may` accepts each digit.
fn is_start(text: &[u8], may: impl Fn(usize, u8) -> bool) -> bool {
    match text {
        b"\\" | b"\\u" => true,
        [b'\\', b'u', digits @ ..] if digits.len() < 4 => {
            let mut digits = digits.iter().enumerate();
            digits.all(|(at, digit)| digit.is_ascii_hexdigit() && may(at, *digit))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undoes_escapes_and_keeps_other_text() {
        for (original, text) in [
            ("", ""),
            ("plain \u{e9}", "plain \u{e9}"),
            (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
            (
                r"\u0041\u00e9\u20AC\ud83d\ude00!",
                "A\u{e9}\u{20ac}\u{1f600}!",
            ),
            (r"\ud83d", "\u{fffd}"),
            (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
            (r"\ud83d\u0041\ude00", "\u{fffd}A\u{fffd}"),
            // A backslash that begins no escape does not hide a later escape.
            (r"\x41 \u12 \u12g4 \", "\\x41 \\u12 \\u12g4 \\"),
            (r"\x\u0041\u00", "\\xA\\u00"),
            (r"\\u0041 \\\u0041", "\\u0041 \\A"),
            ("\\\u{e9}\\n", "\\\u{e9}\n"),
        ] {
            assert_eq!(Unescaped::new(original).text(), text, "{original}");
        }
    }

    #[test]
    fn maps_each_range_to_its_original() {
        let original = r"a\u0062c\ud83d\ude00\n\\d";
        let read = Unescaped::new(original);
        assert_eq!(read.text(), "abc\u{1f600}\n\\d");
        for (part, from) in [
            ("a", "a"),
            ("b", r"\u0062"),
            ("abc", r"a\u0062c"),
            ("c\u{1f600}", r"c\ud83d\ude00"),
            ("\u{1f600}\n\\d", r"\ud83d\ude00\n\\d"),
            ("\\", r"\\"),
            ("d", "d"),
        ] {
            let at = read.text().find(part).unwrap();
            assert_eq!(&original[read.original(at..at + part.len())], from);
        }
    }

    #[test]
    fn text_that_later_text_may_change_is_not_settled() {
        for (original, settled) in [
            ("", 0),
            ("abc", 3),
            (r"ab\", 2),
            (r"ab\\", 3),
            (r"\n\u", 1),
            (r"\n\u00e", 1),
            (r"\n\u00e9", 3),
            (r"\n\u00g", 6),
            (r"\x", 2),
            (r"a\ud83d", 1),
            (r"a\ud83d\", 1),
            (r"a\uD83D\uDe0", 1),
            (r"a\ud83d\ude00", 5),
            (r"a\ud83d\u0", 4),
            (r"a\ud83d\ud8", 4),
            (r"a\ud83db", 5),
            (r"a\ude00", 4),
        ] {
            assert_eq!(Unescaped::new(original).settled(), settled, "{original}");
        }
    }
}
