//! Decodes bytes to the text that a client reads.

use std::borrow::Cow;

/// Decodes UTF-8. Each maximal subpart of an ill-formed sequence becomes one U+FFFD, as in the UTF-8 decode algorithm (WHATWG HTML
/// 9.2.6: "Streams must be decoded using the UTF-8 decode algorithm").
#[inline]
pub(super) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    // Most text is well-formed. `simdutf8` checks that much faster than the standard library decodes.
    match simdutf8::basic::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}
