//! Generators of difficult inputs and of chunk sizes.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};
use tower_sse_proxy::codec::{Decoder, EventTooLarge, Item};

use super::reference::BOM;

/// Random sequences of line ends, field names, lines and byte sequences that matter to the grammar or to UTF-8.
pub fn scraps() -> impl Strategy<Value = Bytes> {
    let ends: [&[u8]; 5] = [b"\r", b"\n", b"\r\n", b"\r\r", b"\n\n"];
    let grammar: [&[u8]; 8] = [b":", b" ", b"data", b"id", b"event", b"retry", b"\0", BOM];
    let lines: [&[u8]; 17] = [
        b": hi",
        b"data:",
        b"data: a",
        b"data:  b:c",
        b"Data: a",
        b"id: 1",
        b"id:2",
        b"id:a\0b",
        b"event: e",
        b"event:f",
        b"event:\0",
        b"retry: 10",
        b"retry:020",
        b"retry:+5",
        b"retry: 5 ",
        b"retry: 99999999999999999999999999",
        b"foo: bar",
    ];
    let text: [&[u8]; 11] = [
        b"a",
        b"aaaaaaaaaaa",
        b"\xef\xbb",
        b"\xbf",
        b"\xff",
        b"\xc0\xaf",
        b"\xf0\x9f\x98",
        "\u{e9}".as_bytes(),
        "\u{1f600}".as_bytes(),
        "\u{2028}".as_bytes(),
        "\u{85}\u{b}\u{c}".as_bytes(),
    ];
    let any = |of: &[&'static [u8]]| select(of.to_vec());
    let scrap = prop_oneof![4 => any(&ends), 2 => any(&grammar), 3 => any(&lines), 1 => any(&text)];
    vec(scrap, 0..40).prop_map(|scraps| scraps.concat().into())
}

pub fn input() -> impl Strategy<Value = Bytes> {
    let marks: [&[u8]; 6] = [b"", b"", BOM, b"\xef", b"\xef\xbb", b"\xef\xbb\xef\xbb\xbf"];
    let start = select(marks.to_vec());
    prop_oneof![
        9 => (start, scraps()).prop_map(|(start, rest)| [start, &rest[..]].concat().into()),
        1 => vec(any::<u8>(), 0..100).prop_map(Bytes::from),
    ]
}

/// For each chunk, its size and the number of items that are read before the next chunk. The rest of the input is the last
/// chunk.
pub fn chunks() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop_oneof![
        Just(vec![]),
        Just(vec![(1, usize::MAX); 1000]),
        vec((0..12usize, Just(usize::MAX)), 0..100),
        vec((0..12usize, 0..3usize), 0..100),
    ]
}

/// The output of a decoder.
#[derive(Debug, Default)]
pub struct Out {
    pub items: Vec<Item>,
    pub errors: Vec<EventTooLarge>,
}

impl Out {
    pub fn take(&mut self, decoder: &mut Decoder, at_most: usize) {
        for _ in 0..at_most {
            match decoder.next_item() {
                Ok(Some(item)) => self.items.push(item),
                Ok(None) => break,
                Err(error) => return self.errors.push(error),
            }
        }
    }
}

/// Feeds the input to a decoder in these chunks and reads its output to the end.
pub fn feed(mut decoder: Decoder, input: &Bytes, chunks: &[(usize, usize)]) -> Out {
    let mut out = Out::default();
    let mut rest = input.clone();
    for &(len, at_most) in chunks {
        decoder.push(rest.split_to(len.min(rest.len())));
        out.take(&mut decoder, at_most);
    }
    decoder.push(rest);
    out.take(&mut decoder, usize::MAX);
    // After an error, the decoder must return no more items.
    out.take(&mut decoder, usize::MAX);
    out.items.extend(decoder.finish());
    out
}
