//! Byte order marks of encodings other than UTF-8.
//!
//! Event streams are UTF-8 (WHATWG HTML 9.2.5), but clients that detect an encoding believe a byte order mark, and read other
//! text than the interceptors do.

/// The marks, and what they are of. The one of UTF-32LE begins as that of UTF-16LE.
const FOREIGN: [(&[u8], &str); 7] = [
    (b"\xfe\xff", "UTF-16"),
    (b"\xff\xfe", "UTF-16"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"+/v8", "UTF-7"),
    (b"+/v9", "UTF-7"),
    (b"+/v+", "UTF-7"),
    (b"+/v/", "UTF-7"),
];

const LONGEST: usize = 4;

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

/// Reads the first bytes of a body, however it is cut into chunks.
///
/// No mark contains a line end. A decoder that gets each chunk after this one has seen it has not handed out a byte of a mark by
/// the time the mark is complete.
#[derive(Debug, Default)]
pub(crate) struct FirstBytes {
    bytes: [u8; LONGEST],
    len: usize,
}

impl FirstBytes {
    /// Takes the next chunk. Returns the encoding whose byte order mark the body begins with, once that is known.
    #[inline]
    pub(crate) fn handle_chunk(&mut self, chunk: &[u8]) -> Option<&'static str> {
        if self.len == LONGEST {
            return None;
        }
        let taken = chunk.len().min(LONGEST - self.len);
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
    fn a_mark_is_found_however_it_is_cut() {
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
    fn a_mark_is_one_at_the_start_only() {
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
