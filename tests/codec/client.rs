//! A client that follows the standard (WHATWG HTML 9.2.6), on top of the decoder.

use bytes::Bytes;
use serde::Deserialize;
use tower_sse_proxy::codec::{Block, Decoder, Event, Item, Line};

/// The state of a client at the end of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Client {
    pub events: Vec<Dispatched>,
    /// The reconnection time in milliseconds, or `None` if the stream did not set it.
    pub retry: Option<u64>,
    pub last_event_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dispatched {
    pub event: String,
    pub data: String,
    pub last_event_id: String,
}

impl Client {
    /// Reads a whole stream.
    pub fn read<'a>(items: impl IntoIterator<Item = &'a Item>) -> Self {
        let mut client = Self::default();
        for item in items {
            match item {
                Item::Event(event) => client.block(event, Some(event)),
                Item::Block(block) => client.block(block, None),
                _ => {}
            }
        }
        client
    }

    fn block(&mut self, block: &Block, event: Option<&Event>) {
        if !block.is_terminated() {
            return self.unfinished(block);
        }
        if let Some(retry) = block.retry() {
            self.retry = Some(retry.as_millis().try_into().unwrap());
        }
        if let Some(id) = block.id() {
            self.last_event_id = id.into_owned();
        }
        if let Some(event) = event {
            self.events.push(Dispatched {
                event: event.event_type().into_owned(),
                data: event.data().into_owned(),
                last_event_id: self.last_event_id.clone(),
            });
        }
    }

    /// Applies an unfinished block at the end of the stream. A client dispatches no event from it and ignores its id. A
    /// `retry` line takes effect if its line end has arrived.
    fn unfinished(&mut self, block: &Block) {
        let mut lines: Vec<_> = block.lines().collect();
        if !block.as_bytes().ends_with(b"\n") && !block.as_bytes().ends_with(b"\r") {
            lines.pop();
        }
        for line in lines {
            if let Line::Field {
                name: b"retry",
                value,
            } = line
                && let Some(retry) = milliseconds(&String::from_utf8_lossy(value))
            {
                self.retry = Some(retry);
            }
        }
    }
}

/// The value of a `retry` field: ASCII digits and nothing else, however many.
pub fn milliseconds(value: &str) -> Option<u64> {
    let digits = !value.is_empty() && value.chars().all(|c| c.is_ascii_digit());
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

/// Decodes a stream that arrives in these chunks. Returns all items.
pub fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Item> {
    let mut decoder = Decoder::default();
    let mut items = Vec::new();
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Some(item) = decoder.next_item().unwrap() {
            items.push(item);
        }
    }
    items.extend(decoder.finish());
    items
}

/// The wire bytes of an item.
pub fn raw(item: &Item) -> &[u8] {
    match item {
        Item::Bom => b"\xef\xbb\xbf",
        Item::Event(event) => event.as_bytes(),
        Item::Block(block) => block.as_bytes(),
        Item::SplitLineFeed(_) => b"\n",
        other => panic!("unknown item: {other:?}"),
    }
}

/// The wire bytes of all items, with ill-formed UTF-8 replaced by U+FFFD as clients do.
pub fn repaired(items: &[Item]) -> Vec<u8> {
    let text = items.iter().map(|item| String::from_utf8_lossy(raw(item)));
    text.collect::<String>().into_bytes()
}
