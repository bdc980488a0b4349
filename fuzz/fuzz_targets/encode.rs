//! After any edits, an event has the values that were set, and a client reads the same values from its wire form.

#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_sse_proxy::{
    Event,
    codec::{Block, Decoder, Item, Line},
};

#[derive(Arbitrary, Debug)]
enum Edit {
    Data(String),
    EventType(String),
    Id(String),
    RemoveId,
    Retry(u32),
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    stream: &'a [u8],
    edits: Vec<Edit>,
}

/// The values that a client reads from an event.
#[derive(Clone, Debug, PartialEq)]
struct Read {
    data: String,
    event: Option<String>,
    id: Option<String>,
    retry: Option<Duration>,
}

fn read(event: &Event) -> Read {
    Read {
        data: event.data().into_owned(),
        event: event.event_field().map(Into::into),
        id: event.id().map(Into::into),
        retry: event.retry(),
    }
}

/// The lines that clients ignore: unknown fields in order, and comments sorted, because an edit may move a first comment.
fn ignored_lines(block: &Block) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let lines = block.lines().filter_map(|line| match line {
        Line::Comment(text) => Some([b":", text].concat()),
        Line::Field {
            name: b"data" | b"event" | b"id" | b"retry",
            ..
        } => None,
        Line::Field { name, value } => Some([name, b":", value].concat()),
        _ => None,
    });
    let (mut comments, fields): (Vec<_>, Vec<_>) =
        lines.partition(|line: &Vec<u8>| line.starts_with(b":"));
    comments.sort();
    (fields, comments)
}

/// Decodes a stream. Returns the events and the blocks without data.
fn decode(stream: &[u8]) -> (Vec<Event>, Vec<Block>) {
    let mut decoder = Decoder::default();
    let (mut events, mut blocks) = (Vec::new(), Vec::new());
    decoder.push(Bytes::copy_from_slice(stream));
    while let Some(piece) = decoder.next_item().unwrap().or_else(|| decoder.finish()) {
        match piece {
            Item::Event(event) => events.push(event),
            Item::Block(block) => blocks.push(block),
            _ => {}
        }
    }
    (events, blocks)
}

fn fits_in_one_line(text: &str) -> bool {
    !text.contains(['\r', '\n', '\0'])
}

fuzz_target!(|input: Input<'_>| {
    let mut events = decode(input.stream).0;
    events.push(Event::new("fresh"));
    for mut event in events {
        let mut expected = read(&event);
        let ignored = ignored_lines(&event);
        let terminated = event.is_terminated();
        for edit in &input.edits {
            let before = event.as_bytes().to_vec();
            match edit {
                Edit::Data(data) => {
                    event.set_data(data);
                    expected.data = data.replace("\r\n", "\n").replace('\r', "\n");
                }
                Edit::EventType(name) => {
                    assert_eq!(event.set_event(name).is_ok(), fits_in_one_line(name));
                    if fits_in_one_line(name) {
                        expected.event = Some(name.clone());
                    } else {
                        assert_eq!(event.as_bytes(), before);
                    }
                }
                Edit::Id(id) => {
                    assert_eq!(event.set_id(id).is_ok(), fits_in_one_line(id));
                    if fits_in_one_line(id) {
                        expected.id = Some(id.clone());
                    } else {
                        assert_eq!(event.as_bytes(), before);
                    }
                }
                Edit::RemoveId => {
                    event.remove_id();
                    expected.id = None;
                }
                Edit::Retry(ms) => {
                    let after = Duration::from_millis(u64::from(*ms));
                    event.set_retry(after);
                    expected.retry = Some(after);
                }
            }
            assert_eq!(read(&event), expected);
            assert_eq!(event.is_terminated(), terminated);
        }
        assert_eq!(ignored_lines(&event), ignored);

        // The wire form decodes to the same values in the middle of a stream.
        let wire = [b": first\n", event.as_bytes(), b": last\n"].concat();
        if terminated && event.as_bytes().ends_with(b"\n") {
            let (again, around) = decode(&wire);
            assert_eq!(again.len(), 1);
            let (found, retry) = (
                read(&again[0]),
                around.iter().filter_map(|block| block.retry()).last(),
            );
            let retry = found.retry.or(retry);
            assert_eq!(Read { retry, ..found }, expected);
        }
    }
});
