//! The gateway's text search in blocks finds a text exactly if one of the values of the block contains it. All blocks are
//! valid UTF-8, as they are in a layer.

use proptest::{
    collection,
    prelude::*,
    test_runner::{Config, RngSeed},
};
use tower_sse_proxy::codec::{Decoder, Item};

use crate::text::Text;

/// Returns whether a value of the block contains the text. Builds and searches each value separately.
fn is_in_a_value(block: &[u8], text: &str) -> bool {
    values(block).iter().any(|value| value.contains(text))
}

/// The values of a block. The first is its data.
fn values(block: &[u8]) -> Vec<String> {
    let block = String::from_utf8_lossy(block);
    let mut data: Vec<String> = Vec::new();
    let mut values: Vec<String> = Vec::new();
    for line in block.replace("\r\n", "\n").split(['\n', '\r']) {
        if line.is_empty() {
            continue;
        }
        let Some(colon) = line.find(':') else {
            match line {
                "data" => data.push(String::new()),
                "event" | "id" | "retry" => {}
                _ => values.extend([line.to_owned(), format!("{line}:"), format!("{line}: ")]),
            }
            continue;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() {
            values.push(value.to_owned());
            continue;
        }
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => data.push(value.to_owned()),
            "event" | "id" | "retry" => values.push(value.to_owned()),
            _ => values.extend([
                name.to_owned(),
                value.to_owned(),
                format!("{name}:{value}"),
                format!("{name}: {value}"),
            ]),
        }
    }
    values.insert(0, data.join("\n"));
    values
}

fn is_found(block: Item, text: &str) -> bool {
    let search = Text::new(text);
    match block {
        Item::Event(event) => {
            let is_in_data = values(event.as_bytes())[0].contains(text);
            assert_eq!(search.is_in_data(&event), is_in_data);
            search.is_in(&event)
        }
        Item::Block(block) => search.is_in_a_line(&block),
        _ => unreachable!("a decoder returns events and other blocks"),
    }
}

fn wire() -> impl Strategy<Value = Vec<u8>> {
    let pieces: [&[u8]; 14] = [
        b"data",
        b"data:",
        b"data: ",
        b"event:",
        b"id: ",
        b"retry",
        b":",
        b": ",
        b" ",
        b"ab",
        b"a",
        "\u{fffd}".as_bytes(),
        b"\r",
        b"\n",
    ];
    let item = (0..pieces.len()).prop_map(move |n| pieces[n]);
    collection::vec(item, 1..24).prop_map(|pieces| pieces.concat())
}

fn text() -> impl Strategy<Value = String> {
    let pieces = ["a", "b", "ab", ":", " ", "\n", "\r", "data", "\u{fffd}"];
    let item = (0..pieces.len()).prop_map(move |n| pieces[n]);
    collection::vec(item, 1..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    // A fixed seed: the same cases in each run.
    #![proptest_config(Config { cases: 20_000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..Config::default() })]

    #[test]
    fn text_is_found_exactly_if_a_value_contains_it(wire in wire(), text in text()) {
        let mut decoder = Decoder::default();
        decoder.push([&wire[..], b"\n\n"].concat().into());
        while let Some(item) = decoder.next_item().unwrap() {
            let bytes = match &item {
                Item::Event(event) => event.as_bytes().to_vec(),
                Item::Block(block) => block.as_bytes().to_vec(),
                _ => continue,
            };
            let found = is_found(item, &text);
            prop_assert_eq!(found, is_in_a_value(&bytes, &text), "{:?} in {:?}", text, bytes.escape_ascii().to_string());
        }
    }
}
