//! What streams of the wild mean, as other projects' tests state it, whatever chunks they come in.

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

    /// Checks that the stream means what it should, loses no byte, and means the same once its ill-formed
    /// UTF-8 is replaced by what clients read in its place.
    fn check<'a>(&self, input: &[u8], chunks: impl IntoIterator<Item = &'a [u8]>, how: &str) {
        let Self { name, source, .. } = self;
        let pieces = decode(chunks);
        assert_eq!(
            Client::read(&pieces),
            self.expected,
            "{name} ({source}), {how}"
        );
        let joined: Vec<u8> = pieces.iter().flat_map(raw).copied().collect();
        assert!(
            joined == input,
            "{name} ({source}), {how}: other bytes came out"
        );
        let repaired = repaired(&pieces);
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

/// Every point of a small input. Of a large one its ends, where the grammar is, and some of the middle.
fn splits(len: usize) -> impl Iterator<Item = usize> {
    let step = if len <= 4 << 10 { 1 } else { len / 256 };
    (0..=len).filter(move |&at| at <= 64 || at + 64 >= len || at % step == 0)
}

#[test]
fn every_vector_means_what_it_should() {
    for vector in vectors() {
        let input = vector.input();
        vector.check(&input, [&input[..]], "whole");
    }
}

#[test]
fn every_vector_means_the_same_split_anywhere() {
    for vector in vectors() {
        let input = vector.input();
        for at in splits(input.len()) {
            let (head, tail) = input.split_at(at);
            vector.check(&input, [head, tail], &format!("split at {at}"));
        }
    }
}

#[test]
fn every_vector_means_the_same_byte_by_byte() {
    for vector in vectors() {
        let input = vector.input();
        vector.check(&input, input.chunks(1), "byte by byte");
    }
}
