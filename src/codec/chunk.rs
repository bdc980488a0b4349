//! A chunk of input. The blocks in it share its memory.

use std::{
    ops::{Deref, Range},
    sync::Arc,
};

use bytes::Bytes;
use yoke::Yoke;

/// The bytes of a chunk and, if they have been checked, their well-formed part as text.
#[derive(Default)]
pub(super) struct Chunk {
    bytes: Bytes,
    text: Option<Text>,
}

/// The well-formed part of a chunk from `start` on, borrowed from the same bytes.
struct Text {
    start: usize,
    text: Yoke<&'static str, Arc<Bytes>>,
}

impl Chunk {
    /// From this size on, in bytes, a chunk stores its text. For a smaller chunk it is cheaper to check a block again when its
    /// text is read.
    const MIN_STORED_TEXT: usize = 1 << 10;

    /// A chunk that has not been checked.
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, text: None }
    }

    /// A checked chunk, and the offset up to which it is well-formed UTF-8; see [`check`](Self::check).
    pub(super) fn checked(bytes: Bytes, start: usize) -> (Self, usize) {
        let mut chunk = Self::new(bytes);
        let well_formed = chunk.check(start);
        (chunk, well_formed)
    }

    /// Checks the bytes from `start` on. Returns the offset up to which they are well-formed UTF-8.
    pub(super) fn check(&mut self, start: usize) -> usize {
        if self.bytes.len() - start < Self::MIN_STORED_TEXT {
            return start + well_formed(&self.bytes[start..]).len();
        }
        let shared = Arc::new(self.bytes.clone());
        let text =
            Yoke::<&'static str, _>::attach_to_cart(shared, |bytes| well_formed(&bytes[start..]));
        let well_formed = start + text.get().len();
        self.text = Some(Text { start, text });
        well_formed
    }

    /// The text in this range, or `None` if the range is not in the checked, well-formed part.
    #[inline]
    pub(super) fn text(&self, range: Range<usize>) -> Option<&str> {
        let Text { start, text } = self.text.as_ref()?;
        let range = range.start.checked_sub(*start)?..range.end.checked_sub(*start)?;
        text.get().get(range)
    }
}

impl Deref for Chunk {
    type Target = Bytes;

    #[inline]
    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl From<Chunk> for Bytes {
    fn from(chunk: Chunk) -> Self {
        chunk.bytes
    }
}

/// The longest prefix that is well-formed UTF-8.
fn well_formed(bytes: &[u8]) -> &str {
    let valid_up_to = match simdutf8::basic::from_utf8(bytes) {
        Ok(text) => return text,
        // Slower, because it also finds the position of the error.
        Err(_) => simdutf8::compat::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len),
    };
    simdutf8::basic::from_utf8(&bytes[..valid_up_to]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Decoder, Event, Item};

    #[test]
    fn checked_chunk_is_text_up_to_the_first_ill_formed_sequence() {
        let good = "data: \u{65e5}\u{672c}\n\n".repeat(200);
        let ill_formed = Bytes::from([good.as_bytes(), b"data: \xe6\x97"].concat());
        let (chunk, well_formed) = Chunk::checked(ill_formed.clone(), 0);
        let end = good.len() + 6;
        assert_eq!(well_formed, end);
        assert!(chunk.text(0..end).is_some() && chunk.text(0..end + 1).is_none());
        assert_eq!(Chunk::checked(good.clone().into(), 0).1, good.len());
        assert_eq!(Chunk::checked(Bytes::from_static(b"data: \xff"), 0).1, 6);

        // The bytes before `start` are not checked.
        assert_eq!(Chunk::checked(ill_formed.slice(7..), 0).1, 0);
        let (chunk, well_formed) = Chunk::checked(ill_formed.slice(7..), 5);
        assert_eq!(well_formed, end - 7);
        assert_eq!(chunk.text(5..13), Some("\n\ndata: "));
        assert_eq!((chunk.text(4..13), chunk.text(2..4)), (None, None));
        assert_eq!(Chunk::checked(Bytes::from_static(b"\x97: \xff"), 1).1, 3);
    }

    #[test]
    fn chunk_below_1_kib_stores_no_text() {
        let checked = |size: usize, start| Chunk::checked("x".repeat(size).into(), start);
        let (small, well_formed) = checked(1023, 0);
        assert_eq!((small.text(0..1), well_formed), (None, 1023));
        let (large, well_formed) = checked(1024, 0);
        assert_eq!((large.text(1023..1024), well_formed), (Some("x"), 1024));
        assert_eq!(checked(1500, 477).0.text(500..501), None);
        assert_eq!(checked(1500, 476).0.text(500..501), Some("x"));
    }

    #[test]
    fn data_is_the_same_from_checked_and_unchecked_chunks() {
        let lines = [
            "plain",
            "\u{65e5}\u{672c}",
            "",
            " two\ndata:lines",
            "\u{1f600}",
        ];
        let mut stream: Vec<u8> = lines
            .repeat(60)
            .iter()
            .flat_map(|line| format!("data: {line}\n\n").into_bytes())
            .collect();
        stream.splice(2000..2001, [0xff]);
        let read = |chunk: usize| {
            let mut decoder = Decoder::default().check_utf8(true);
            let mut data = Vec::new();
            for chunk in stream.chunks(chunk) {
                decoder.push(Bytes::copy_from_slice(chunk));
                while let Some(item) = decoder.next_item().unwrap() {
                    if let Item::Event(event) = item {
                        let alone = Event::new(event.data()).data().into_owned();
                        assert_eq!(alone, event.data());
                        data.push(event.data().into_owned());
                    }
                }
            }
            data
        };
        assert_eq!(read(stream.len()), read(1));
        assert_eq!(read(1500), read(1));
        assert!(read(1).iter().any(|data| data.contains('\u{fffd}')));
    }
}
