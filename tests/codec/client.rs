//! A client that follows the standard (WHATWG HTML 9.2.6), on top of the decoder.

use bytes::Bytes;
use serde::Deserialize;
use tower_sse_proxy::codec::{Block, Decoder, Event, Item, Line};

/// What a client has got out of a stream when it is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Client {
    pub events: Vec<Dispatched>,
    /// The reconnection time in milliseconds, if the stream has set it.
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
    pub fn read<'a>(pieces: impl IntoIterator<Item = &'a Item>) -> Self {
        let mut client = Self::default();
        for piece in pieces {
            match piece {
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

    /// Nothing in it is dispatched and its id does not count, but a `retry` takes effect when its line is
    /// read. The last line never was, unless a line end came.
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

/// All pieces of a stream that comes in these chunks.
pub fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Item> {
    let mut decoder = Decoder::default();
    let mut pieces = Vec::new();
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Some(piece) = decoder.next_item().unwrap() {
            pieces.push(piece);
        }
    }
    pieces.extend(decoder.finish());
    pieces
}

/// The bytes of a piece on the wire.
pub fn raw(piece: &Item) -> &[u8] {
    match piece {
        Item::Bom => b"\xef\xbb\xbf",
        Item::Event(event) => event.as_bytes(),
        Item::Block(block) => block.as_bytes(),
        Item::SplitLineFeed(_) => b"\n",
        other => panic!("a piece of a new kind: {other:?}"),
    }
}

/// The bytes of all pieces, each in valid UTF-8: what is ill-formed is the U+FFFD that a client reads.
pub fn repaired(pieces: &[Item]) -> Vec<u8> {
    let text = pieces
        .iter()
        .map(|piece| String::from_utf8_lossy(raw(piece)));
    text.collect::<String>().into_bytes()
}
