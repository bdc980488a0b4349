//! Splits a JSON array or object into its values.

/// Iterates over the texts of the values between two brackets. In an object, names and values alternate.
///
/// [`Json::parse`](super::Json::parse) has checked the text, so the iteration cannot fail and skips no value: each byte is
/// white space, a comma, a colon, or part of a value.
pub(super) struct Elements<'a> {
    rest: &'a str,
}

impl<'a> Elements<'a> {
    /// Takes the text between the brackets.
    pub(super) fn new(inside: &'a str) -> Self {
        Self { rest: inside }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self
            .rest
            .trim_start_matches([' ', '\t', '\n', '\r', ',', ':']);
        if rest.is_empty() {
            self.rest = rest;
            return None;
        }
        let (raw, rest) = rest.split_at(value_len(rest.as_bytes()));
        self.rest = rest;
        Some(raw)
    }
}

/// The length of the value at the beginning of a text, in bytes.
fn value_len(text: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at += string_len(&text[at..]),
            b'[' | b'{' => {
                depth += 1;
                at += 1;
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' if depth > 0 => at += 1,
            _ => {
                // A number or a name such as `true`.
                let ends = |byte: &u8| b",:]}[{\" \t\n\r".contains(byte);
                let rest = &text[at..];
                at += rest.iter().position(ends).unwrap_or(rest.len()).max(1);
            }
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the string literal at the beginning of a text, in bytes.
fn string_len(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = text
        .get(at..)
        .and_then(|rest| memchr::memchr2(b'"', b'\\', rest))
    {
        at += found + 1;
        if text[at - 1] == b'"' {
            return at;
        }
        // Skips the escaped character: an escaped quote does not end the literal.
        at += 1;
    }
    text.len()
}
