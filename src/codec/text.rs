//! Bytes as the text that a client reads.

use std::borrow::Cow;

/// The text of these bytes: each ill-formed sequence reads as U+FFFD, one for each maximal subpart, which is
/// what the decoder of WHATWG HTML 9.2.5 yields.
#[inline]
pub(super) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    // The standard library decodes lossily byte by byte; valid text, the rule, is told much faster.
    match simdutf8::basic::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}
