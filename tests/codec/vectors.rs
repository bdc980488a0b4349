//! Streams with the events that a client must read from them, from the tests of other projects, in any chunks.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;

use crate::client::{Client, decode, raw, repaired};

#[derive(Deserialize)]
struct File {
    count: usize,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    source: String,
    input_b64: String,
    #[serde(flatten)]
    expected: Client,
}

impl Vector {
    fn input(&self) -> Vec<u8> {
        BASE64_STANDARD.decode(&self.input_b64).unwrap()
    }

    /// Checks that a client reads the expected events, that the items contain every byte, and that the client reads the same
    /// events after ill-formed UTF-8 has been replaced by U+FFFD.
    fn check<'a>(&self, input: &[u8], chunks: impl IntoIterator<Item = &'a [u8]>, how: &str) {
        let Self { name, source, .. } = self;
        let items = decode(chunks);
        assert_eq!(
            Client::read(&items),
            self.expected,
            "{name} ({source}), {how}"
        );
        let joined: Vec<u8> = items.iter().flat_map(raw).copied().collect();
        assert!(
            joined == input,
            "{name} ({source}), {how}: the items differ from the input"
        );
        let repaired = repaired(&items);
        if repaired != input {
            let client = Client::read(&decode([&repaired[..]]));
            assert_eq!(client, self.expected, "{name} ({source}), {how}, repaired");
        }
    }
}

fn vectors() -> Vec<Vector> {
    let file: File = serde_json::from_str(include_str!("vectors/sse_vectors.json")).unwrap();
    assert_eq!((file.vectors.len(), file.count), (159, 159));
    file.vectors
}

/// Split points: all of a small input; of a large input those near its start and end, and some in the middle.
fn splits(len: usize) -> impl Iterator<Item = usize> {
    let step = if len <= 4 << 10 { 1 } else { len / 256 };
    (0..=len).filter(move |&at| at <= 64 || at + 64 >= len || at % step == 0)
}

#[test]
fn vectors_decode_to_the_expected_events() {
    for vector in vectors() {
        let input = vector.input();
        vector.check(&input, [&input[..]], "whole");
    }
}

#[test]
fn vectors_decode_to_the_same_events_at_any_split() {
    for vector in vectors() {
        let input = vector.input();
        for at in splits(input.len()) {
            let (head, tail) = input.split_at(at);
            vector.check(&input, [head, tail], &format!("split at {at}"));
        }
    }
}

#[test]
fn vectors_decode_to_the_same_events_byte_by_byte() {
    for vector in vectors() {
        let input = vector.input();
        vector.check(&input, input.chunks(1), "byte by byte");
    }
}
