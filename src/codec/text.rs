//! Bytes as the text that a client reads.

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;
use bytestring::ByteString;

/// The bytes of a block, as text where that is known.
#[derive(Clone)]
pub(super) enum Raw {
    /// Known to be UTF-8: a part of it is text without another look.
    Text(ByteString),
    /// Anything.
    Bytes(Bytes),
}

impl Raw {
    #[inline]
    pub(super) fn bytes(&self) -> &Bytes {
        match self {
            Raw::Text(text) => text.as_bytes(),
            Raw::Bytes(bytes) => bytes,
        }
    }

    #[inline]
    pub(super) fn into_bytes(self) -> Bytes {
        match self {
            Raw::Text(text) => text.into_bytes(),
            Raw::Bytes(bytes) => bytes,
        }
    }

    /// A part that begins and ends where a field does.
    #[inline]
    pub(super) fn text(&self, part: Range<usize>) -> Cow<'_, str> {
        match self {
            Raw::Text(text) => Cow::Borrowed(&text[part]),
            Raw::Bytes(bytes) => lossy(&bytes[part]),
        }
    }
}

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
