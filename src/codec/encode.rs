//! Writing blocks such that they read back as what was meant.

use std::fmt;

use crate::codec::lines::Lines;

/// A value that its field cannot carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    field: &'static str,
    found: char,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the `{}` field of an event cannot hold {:?}: it takes text without CR, LF and NUL",
            self.field, self.found
        )
    }
}

impl std::error::Error for FieldError {}

/// The value, if it can stand in a field of one line.
pub(super) fn checked<'a>(field: &'static str, value: &'a str) -> Result<&'a [u8], FieldError> {
    match value.chars().find(|c| matches!(c, '\r' | '\n' | '\0')) {
        Some(found) => Err(FieldError { field, found }),
        None => Ok(value.as_bytes()),
    }
}

/// Writes one field. The space after the colon is always there, since a value may begin with one.
pub(super) fn field(raw: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    raw.extend_from_slice(name);
    raw.extend_from_slice(b": ");
    raw.extend_from_slice(value);
    raw.push(b'\n');
}

/// Writes data as one `data` line for each of its lines; data that ends in a line end has an empty last line.
pub(super) fn data(raw: &mut Vec<u8>, data: &str) {
    each_line(data, |line| field(raw, b"data", line));
}

/// Writes a comment as one line for each of its lines.
pub(super) fn comment(raw: &mut Vec<u8>, text: &str) {
    each_line(text, |line| field(raw, b"", line));
}

fn each_line(text: &str, mut write: impl FnMut(&[u8])) {
    Lines::new(text.as_bytes()).for_each(&mut write);
    if text.is_empty() || text.ends_with(['\n', '\r']) {
        write(b"");
    }
}
