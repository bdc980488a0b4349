//! Whatever the input and wherever it is cut: the pieces are the input, they do not depend on the cuts, they are where slow
//! parsers find them, and a client reads in them what the standard says.

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
use reference::{Reference, Whole, cut, whole};
use tower_sse_proxy::codec::{Decoder, Item};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    stream: &'a [u8],
    cuts: Vec<u8>,
    limit: u16,
}

/// The pieces of a stream, and whether the limit ended it.
fn pieces(chunks: &[&[u8]], limit: usize) -> (Vec<Item>, bool) {
    let mut decoder = Decoder::new(limit);
    let mut pieces = Vec::new();
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        loop {
            match decoder.next_item() {
                Ok(Some(piece)) => pieces.push(piece),
                Ok(None) => break,
                Err(_) => return (pieces, true),
            }
        }
    }
    pieces.extend(decoder.finish());
    (pieces, false)
}

fuzz_target!(|input: Input<'_>| {
    let limit = 16 + usize::from(input.limit);
    let expected = cut(input.stream);
    let over = expected.iter().position(|piece| piece.counted() > limit);
    let within = &expected[..over.unwrap_or(expected.len())];

    let check = |chunks: &[&[u8]]| {
        let (pieces, failed) = pieces(chunks, limit);
        let found: Vec<Whole> = whole(&pieces);
        assert_eq!(failed, over.is_some());
        assert_eq!(found, within);
        if !failed {
            assert_eq!(Client::read(&pieces), Reference::read(input.stream));
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
