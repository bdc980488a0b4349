//! Byte order marks of encodings other than UTF-8.
//!
//! Event streams are UTF-8 (WHATWG HTML 9.2.5). But a client that detects encodings obeys a byte order mark, and then reads other
//! text than the interceptors did.

/// Byte order marks and their encodings. The mark of UTF-32LE begins with the mark of UTF-16LE.
const FOREIGN: [(&[u8], &str); 7] = [
    (b"\xfe\xff", "UTF-16"),
    (b"\xff\xfe", "UTF-16"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"+/v8", "UTF-7"),
    (b"+/v9", "UTF-7"),
    (b"+/v+", "UTF-7"),
    (b"+/v/", "UTF-7"),
];

/// The length of the longest mark, in bytes.
const MAX_LEN: usize = 4;

/// Returns whether text begins with a byte order mark of UTF-7, which is well-formed UTF-8.
pub(crate) fn is_utf7(bytes: &[u8]) -> bool {
    encoding(bytes) == Some("UTF-7")
}

fn encoding(bytes: &[u8]) -> Option<&'static str> {
    let mut marks = FOREIGN.into_iter();
    marks
        .find(|(mark, _)| bytes.starts_with(mark))
        .map(|(_, encoding)| encoding)
}

/// Collects the first bytes of a body to find a byte order mark that may be split between chunks.
///
/// A mark contains no line end. So if each chunk is passed here before it is passed to the decoder, the decoder has returned no
/// block when the mark is found.
#[derive(Debug, Default)]
pub(crate) struct FirstBytes {
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl FirstBytes {
    /// Handles the next chunk. Returns the encoding if the body begins with a foreign byte order mark that this chunk completes.
    #[inline]
    pub(crate) fn handle_chunk(&mut self, chunk: &[u8]) -> Option<&'static str> {
        if self.len == MAX_LEN {
            return None;
        }
        let taken = chunk.len().min(MAX_LEN - self.len);
        self.bytes[self.len..][..taken].copy_from_slice(&chunk[..taken]);
        self.len += taken;
        encoding(&self.bytes[..self.len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(chunks: &[&[u8]]) -> Option<&'static str> {
        let mut first = FirstBytes::default();
        chunks.iter().find_map(|chunk| first.handle_chunk(chunk))
    }

    #[test]
    fn mark_split_between_chunks_is_found() {
        for (mark, encoding) in FOREIGN {
            let body = [mark, b"data: 1\n\n"].concat();
            let bytes: Vec<&[u8]> = body.chunks(1).collect();
            assert_eq!(found(&[&body]), Some(encoding));
            assert_eq!(found(&bytes), Some(encoding));
            for cut in 0..=mark.len() {
                assert_eq!(found(&[&body[..cut], &body[cut..]]), Some(encoding));
            }
        }
    }

    #[test]
    fn mark_after_the_first_byte_is_ignored() {
        for body in [
            &b"\n\xff\xfe"[..],
            b"\xef\xbb\xbf\xff\xfe",
            b"data\xfe\xff",
            b"+/v",
            b"+/vx8",
            b"\xff",
            b"\0\0",
            b"",
        ] {
            assert_eq!(found(&[body]), None, "{}", body.escape_ascii());
        }
    }
}
