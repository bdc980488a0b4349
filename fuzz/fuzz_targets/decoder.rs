//! Whatever the input and wherever it is cut: the pieces are the input, they do not depend on the cuts, and every event
//! can be read and edited.

#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_sse_proxy::codec::{Decoder, Piece};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    stream: &'a [u8],
    cuts: Vec<u8>,
    limit: u16,
}

/// The pieces of a stream, a late LF put back where it belongs, and whether the limit ended it.
fn pieces(chunks: &[&[u8]], limit: usize) -> (Vec<Vec<u8>>, bool) {
    let mut decoder = Decoder::new(limit);
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    let mut take = |piece: Piece| match piece {
        Piece::Bom => pieces.push(b"\xef\xbb\xbf".to_vec()),
        Piece::Event(mut event) => {
            pieces.push(event.as_bytes().to_vec());
            let terminated = event.is_terminated();
            event.set_data("a\rb\r\nc\n");
            assert_eq!(event.data(), "a\nb\nc\n");
            assert_eq!(event.is_terminated(), terminated);
        }
        Piece::Block(block) => pieces.push(block.into_raw().to_vec()),
        Piece::LateLineFeed(_) => pieces.last_mut().unwrap().push(b'\n'),
        _ => unreachable!(),
    };
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        loop {
            match decoder.next_piece() {
                Ok(Some(piece)) => take(piece),
                Ok(None) => break,
                Err(_) => return (pieces, true),
            }
        }
    }
    if let Some(tail) = decoder.finish() {
        take(tail);
    }
    (pieces, false)
}

fuzz_target!(|input: Input<'_>| {
    let limit = 16 + usize::from(input.limit);
    let whole = pieces(&[input.stream], limit);
    if !whole.1 {
        assert_eq!(whole.0.concat(), input.stream);
    }

    let mut rest = input.stream;
    let mut chunks = Vec::new();
    for cut in input.cuts {
        let (chunk, after) = rest.split_at(usize::from(cut).min(rest.len()));
        chunks.push(chunk);
        rest = after;
    }
    chunks.push(rest);
    assert_eq!(pieces(&chunks, limit), whole);

    let bytes: Vec<&[u8]> = input.stream.chunks(1).collect();
    assert_eq!(pieces(&bytes, limit), whole);
});
