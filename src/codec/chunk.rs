//! A chunk of the stream as it came, shared by the blocks in it.

use std::{ops::Deref, sync::Arc};

use bytes::Bytes;
use yoke::Yoke;

/// Bytes, and so much of them as is known to be text.
#[derive(Default)]
pub(super) struct Chunk {
    bytes: Bytes,
    /// The well-formed beginning, borrowed from the same bytes.
    text: Option<Yoke<&'static str, Arc<Bytes>>>,
}

impl Chunk {
    /// Below this size it is cheaper to look at a block's text when it is asked for than to keep it.
    const WORTH_KEEPING: usize = 1 << 10;

    /// A chunk of which nobody knows whether it is text.
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, text: None }
    }

    /// Looks how much of the chunk is well-formed UTF-8, and keeps it as text.
    pub(super) fn checked(bytes: Bytes) -> (Self, usize) {
        if bytes.len() < Self::WORTH_KEEPING {
            let well_formed = well_formed(&bytes).len();
            return (Self::new(bytes), well_formed);
        }
        let shared = Arc::new(bytes.clone());
        let text = Yoke::<&'static str, _>::attach_to_cart(shared, |bytes| well_formed(bytes));
        let well_formed = text.get().len();
        let text = Some(text);
        (Self { bytes, text }, well_formed)
    }

    /// The beginning of the chunk that is known to be text.
    #[inline]
    pub(super) fn text(&self) -> &str {
        self.text.as_ref().map_or("", |text| text.get())
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

/// As much of the bytes as is well-formed UTF-8, from the start.
fn well_formed(bytes: &[u8]) -> &str {
    let valid_up_to = match simdutf8::basic::from_utf8(bytes) {
        Ok(text) => return text,
        // It is slower to tell where.
        Err(_) => simdutf8::compat::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len),
    };
    simdutf8::basic::from_utf8(&bytes[..valid_up_to]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Decoder, Event, Piece};

    #[test]
    fn the_beginning_up_to_the_first_ill_formed_byte_is_text() {
        let good = "data: \u{65e5}\u{672c}\n\n".repeat(200);
        let cut = Bytes::from([good.as_bytes(), b"data: \xe6\x97"].concat());
        let (chunk, well_formed) = Chunk::checked(cut);
        assert_eq!(
            (chunk.text().len(), well_formed),
            (good.len() + 6, good.len() + 6)
        );
        assert_eq!(Chunk::checked(good.clone().into()).1, good.len());
        assert_eq!(Chunk::checked(Bytes::from_static(b"data: \xff")).1, 6);
    }

    #[test]
    fn the_text_of_a_small_chunk_is_not_kept() {
        let text = |size: usize| Chunk::checked("x".repeat(size).into());
        let (small, well_formed) = text(1023);
        assert_eq!((small.text(), well_formed), ("", 1023));
        let (large, well_formed) = text(1024);
        assert_eq!((large.text().len(), well_formed), (1024, 1024));
    }

    #[test]
    fn data_reads_the_same_from_a_checked_chunk_and_from_a_chunk_of_its_own() {
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
                while let Some(piece) = decoder.next_piece().unwrap() {
                    if let Piece::Event(event) = piece {
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
