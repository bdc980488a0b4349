//! For any input and any chunks: the items contain every byte, do not depend on the chunks, and equal those of a slow parser. A
//! client reads from them the events that the algorithm of the standard gives.

#![no_main]

#[allow(dead_code)]
#[path = "../../tests/codec/client.rs"]
mod client;
#[path = "../../tests/codec/reference.rs"]
mod reference;

use arbitrary::Arbitrary;
use bytes::Bytes;
use client::Client;
use libfuzzer_sys::fuzz_target;
use reference::{Reference, WholeItem, join_line_feeds, split_stream};
use tower_sse_proxy::codec::{Decoder, Item};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    stream: &'a [u8],
    cuts: Vec<u8>,
    limit: u16,
}

/// Decodes a stream. Returns the items, and whether the size limit ended the stream.
fn items(chunks: &[&[u8]], limit: usize) -> (Vec<Item>, bool) {
    let mut decoder = Decoder::new(limit);
    let mut items = Vec::new();
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        loop {
            match decoder.next_item() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(_) => return (items, true),
            }
        }
    }
    items.extend(decoder.finish());
    (items, false)
}

fuzz_target!(|input: Input<'_>| {
    let limit = 16 + usize::from(input.limit);
    let expected = split_stream(input.stream);
    let over = expected
        .iter()
        .position(|item| item.counted_bytes() > limit);
    let within = &expected[..over.unwrap_or(expected.len())];

    let check = |chunks: &[&[u8]]| {
        let (items, failed) = items(chunks, limit);
        let found: Vec<WholeItem> = join_line_feeds(&items);
        assert_eq!(failed, over.is_some());
        assert_eq!(found, within);
        if !failed {
            assert_eq!(Client::read(&items), Reference::read(input.stream));
        }
    };
    check(&[input.stream]);

    let mut rest = input.stream;
    let mut chunks = Vec::new();
    for size in input.cuts {
        let (chunk, after) = rest.split_at(usize::from(size).min(rest.len()));
        chunks.push(chunk);
        rest = after;
    }
    chunks.push(rest);
    check(&chunks);

    let bytes: Vec<&[u8]> = input.stream.chunks(1).collect();
    check(&bytes);
});
