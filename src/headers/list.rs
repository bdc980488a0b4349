//! Comma-separated lists in header fields (RFC 9110 5.6.1).
//!
//! [`members`] parses lists of media types with parameters, which may contain quoted strings: `Content-Type` and `Accept` (RFC 9110
//! 5.6.4, 5.6.6, 8.3.1). [`elements`] parses lists without quoted strings in their grammar, such as `Content-Encoding`.

use std::ops::Range;

/// One member of a list of media types, without the whitespace around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    bytes: &'a [u8],
    /// Whether a quoted string in it has no closing quote.
    unclosed: bool,
}

impl<'a> Member<'a> {
    pub(crate) fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The part before the first semicolon outside of quoted strings, without the whitespace around it (RFC 9110 8.3.1: `type "/"
    /// subtype`).
    pub(crate) fn essence(self) -> &'a [u8] {
        let essence = split(self.bytes, b';').next();
        essence.map_or(&[][..], |(range, _)| trim(&self.bytes[range]))
    }

    /// Whether the essence is not `type/subtype`, or a quoted string has no closing quote. Recipients may then read a type that
    /// differs from the essence.
    pub(crate) fn is_malformed(self) -> bool {
        let mut names = self.essence().split(|&byte| byte == b'/');
        let is_token = |name: Option<&[u8]>| {
            name.is_some_and(|name| !name.is_empty() && name.iter().copied().all(is_token_byte))
        };
        let essence = is_token(names.next()) && is_token(names.next()) && names.next().is_none();
        self.unclosed || !essence
    }

    /// The parts after the essence that are separated by semicolons, unparsed and without the whitespace around them.
    pub(crate) fn parameters(self) -> impl Iterator<Item = &'a [u8]> {
        let bytes = self.bytes;
        let parameters = split(bytes, b';').skip(1);
        parameters.map(move |(range, _)| trim(&bytes[range]))
    }
}

/// The elements of a list without quoted strings in its grammar, without the whitespace around them. Empty elements are included.
pub(crate) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

/// The members of a list of media types. Empty members are left out (RFC 9110 5.6.1.2).
pub(crate) fn members(value: &[u8]) -> impl Iterator<Item = Member<'_>> {
    split(value, b',').filter_map(|(range, unclosed)| {
        let bytes = trim(&value[range]);
        (!bytes.is_empty()).then_some(Member { bytes, unclosed })
    })
}

/// Splits a value at a separator outside of quoted strings. Returns the range of each part, and whether the part ends inside a
/// quoted string, which only the last part can.
fn split(value: &[u8], separator: u8) -> impl Iterator<Item = (Range<usize>, bool)> {
    let mut rest = Some(0);
    std::iter::from_fn(move || {
        let start = rest?;
        let (mut quoted, mut escaped) = (false, false);
        for (at, &byte) in value.iter().enumerate().skip(start) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if byte == separator && !quoted => {
                    rest = Some(at + 1);
                    return Some((start..at, false));
                }
                _ => {}
            }
        }
        rest = None;
        Some((start..value.len(), quoted))
    })
}

/// The offset after the closing quote of the quoted string at the start of the bytes (RFC 9110 5.6.4). `None` if the bytes do not
/// start with a quote, or there is no closing quote.
pub(crate) fn quoted_string_end(bytes: &[u8]) -> Option<usize> {
    let mut escaped = false;
    let inside = bytes.strip_prefix(b"\"")?;
    for (at, &byte) in inside.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 2),
            _ => {}
        }
    }
    None
}

/// Removes spaces and tabs at both ends (RFC 9110 5.6.3: OWS).
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes.iter().position(|byte| !is_space(byte));
    let end = bytes.iter().rposition(|byte| !is_space(byte));
    match (start, end) {
        (Some(start), Some(end)) => &bytes[start..=end],
        _ => &[],
    }
}

/// Whether a token may contain the byte (RFC 9110 5.6.2: `tchar`).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(value: &str) -> Vec<(String, Vec<String>, bool)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let parts = members(value.as_bytes()).map(|member| {
            let parameters = member.parameters().map(text).collect();
            (text(member.essence()), parameters, member.is_malformed())
        });
        parts.collect()
    }

    fn well_formed(essence: &str, parameters: &[&str]) -> (String, Vec<String>, bool) {
        let parameters = parameters.iter().map(ToString::to_string);
        (essence.to_owned(), parameters.collect(), false)
    }

    #[test]
    fn separators_inside_quoted_strings_do_not_separate() {
        assert_eq!(parts("a/b"), [well_formed("a/b", &[])]);
        assert_eq!(parts(" \ta/b\t; x=y ;"), [well_formed("a/b", &["x=y", ""])]);
        assert_eq!(
            parts("a/b;x=\"1,2;\\\",3\", c/d"),
            [
                well_formed("a/b", &["x=\"1,2;\\\",3\""]),
                well_formed("c/d", &[])
            ]
        );
        assert_eq!(parts(",, a/b ,,"), [well_formed("a/b", &[])]);
        assert_eq!(parts(""), []);
    }

    #[test]
    fn elements_are_separated_by_each_comma() {
        let all: Vec<_> = elements(b"gzip;q=0.5 ,\tbr,, \"a,b\"").collect();
        let expected = [&b"gzip;q=0.5"[..], b"br", b"", b"\"a", b"b\""];
        assert_eq!(all, expected);
        assert_eq!(elements(b"").collect::<Vec<_>>(), [b""]);
    }

    #[test]
    fn essence_must_be_two_tokens() {
        for value in [
            "a",
            "a/",
            "/b",
            "a/b/c",
            "a /b",
            "a/ b",
            "a b/c",
            "\"a/b\"",
            "a/b\u{e9}",
            "a/b c=d",
            ";x=y",
            "a/b; x=\"y",
            "a/b; x=\"y\\\"",
        ] {
            let malformed = members(value.as_bytes()).all(Member::is_malformed);
            assert!(malformed, "{value}");
        }
    }

    #[test]
    fn quoted_string_ends_after_its_closing_quote() {
        assert_eq!(quoted_string_end(b"\"\"x"), Some(2));
        assert_eq!(quoted_string_end(b"\"a\\\"b\";"), Some(6));
        assert_eq!(quoted_string_end(b"\"a"), None);
        assert_eq!(quoted_string_end(b"a\""), None);
    }
}
