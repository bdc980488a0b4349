//! Writes fields and comments such that a client reads the intended value.

use std::fmt;

use crate::codec::lines::Lines;

/// The error for a value that contains CR, LF or NUL, which an `id` or `event` field cannot hold.
///
/// CR and LF end the line, and the rest of the value would be read as another field. Clients ignore an `id` with NUL (WHATWG HTML
/// 9.2.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    field: &'static str,
    found: char,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the `{}` field of an event must be text without CR, LF and NUL, but contains {:?}",
            self.field, self.found
        )
    }
}

impl std::error::Error for FieldError {}

/// The bytes of the value, or an error if it does not fit in a field of one line.
pub(super) fn checked<'a>(field: &'static str, value: &'a str) -> Result<&'a [u8], FieldError> {
    match value.chars().find(|c| matches!(c, '\r' | '\n' | '\0')) {
        Some(found) => Err(FieldError { field, found }),
        None => Ok(value.as_bytes()),
    }
}

/// Writes one field. There is always a space after the colon, because clients remove one space and the value may begin with one
/// (WHATWG HTML 9.2.6).
pub(super) fn field(raw: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    raw.extend_from_slice(name);
    raw.extend_from_slice(b": ");
    raw.extend_from_slice(value);
    raw.push(b'\n');
}

/// Writes one `data` line for each line of the data. If the data ends in a line end, the last `data` line is empty.
pub(super) fn data(raw: &mut Vec<u8>, data: &str) {
    each_line(data, |line| field(raw, b"data", line));
}

/// Writes one comment line for each line of the text.
pub(super) fn comment(raw: &mut Vec<u8>, text: &str) {
    each_line(text, |line| field(raw, b"", line));
}

fn each_line(text: &str, mut write: impl FnMut(&[u8])) {
    Lines::new(text.as_bytes()).for_each(&mut write);
    if text.is_empty() || text.ends_with(['\n', '\r']) {
        write(b"");
    }
}
