//! Slow parsers that are simple enough to be checked by reading.

use bytes::Bytes;
use tower_sse_proxy::codec::Item;

use super::client::{Client, Dispatched, milliseconds, raw};

pub const BOM: &[u8] = b"\xef\xbb\xbf";

/// An item with its complete last line end, even if the decoder returned the LF of a CRLF separately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeItem {
    pub kind: Kind,
    pub raw: Bytes,
    pub terminated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bom,
    Event,
    Block,
}

impl WholeItem {
    /// The bytes that count toward the size limit: all except the LF of a CRLF that ends the block.
    pub fn counted_bytes(&self) -> usize {
        let late = self.terminated && self.raw.ends_with(b"\r\n");
        self.raw.len() - usize::from(late)
    }
}

/// Joins each separate LF with the item that it ends.
pub fn join_line_feeds(items: &[Item]) -> Vec<WholeItem> {
    let mut all: Vec<WholeItem> = Vec::new();
    for item in items {
        let (kind, terminated) = match item {
            Item::SplitLineFeed(_) => {
                let open = all
                    .last_mut()
                    .filter(|last| last.terminated && last.raw.ends_with(b"\r"));
                let raw = &mut open
                    .expect("a separate LF follows an item that ends with CR")
                    .raw;
                *raw = [raw, &b"\n"[..]].concat().into();
                continue;
            }
            Item::Event(event) => (Kind::Event, event.is_terminated()),
            Item::Block(block) => (Kind::Block, block.is_terminated()),
            _ => (Kind::Bom, true),
        };
        let raw = Bytes::copy_from_slice(raw(item));
        all.push(WholeItem {
            kind,
            raw,
            terminated,
        });
    }
    all
}

/// Splits a stream after each blank line, and after each comment or `retry` line at the start of a block.
pub fn split_stream(input: &[u8]) -> Vec<WholeItem> {
    let mut all = Vec::new();
    let mut rest = input;
    if let Some(text) = input.strip_prefix(BOM) {
        rest = text;
        all.push(WholeItem {
            kind: Kind::Bom,
            raw: BOM.into(),
            terminated: true,
        });
    }
    let mut raw = Vec::new();
    let mut kind = Kind::Block;
    while !rest.is_empty() {
        let found = rest.iter().position(|b| b"\r\n".contains(b));
        let len = found.unwrap_or(rest.len());
        let (line, after) = rest.split_at(len);
        let end = match after {
            [b'\r', b'\n', ..] => 2,
            [_, ..] => 1,
            [] => 0,
        };
        let name = line.split(|&b| b == b':').next().unwrap();
        if name == b"data" {
            kind = Kind::Event;
        }
        let alone = raw.is_empty() && (line.starts_with(b":") || name == b"retry");
        raw.extend_from_slice(&rest[..len + end]);
        rest = &after[end..];
        let terminated = end > 0 && (line.is_empty() || alone);
        if terminated || rest.is_empty() {
            let raw = std::mem::take(&mut raw).into();
            all.push(WholeItem {
                kind,
                raw,
                terminated,
            });
            kind = Kind::Block;
        }
    }
    all
}

/// The algorithm of WHATWG HTML 9.2.6, step by step, on the text of the whole stream.
#[derive(Default)]
pub struct Reference {
    client: Client,
    data: String,
    event_type: String,
    id_buffer: String,
}

impl Reference {
    pub fn read(input: &[u8]) -> Client {
        let text = String::from_utf8_lossy(input);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut chars = text.chars().peekable();
        let mut parser = Self::default();
        let mut line = String::new();
        while let Some(c) = chars.next() {
            match c {
                '\r' | '\n' => {
                    if c == '\r' {
                        chars.next_if_eq(&'\n');
                    }
                    parser.line(&std::mem::take(&mut line));
                }
                c => line.push(c),
            }
        }
        parser.client
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            return self.dispatch();
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => self.event_type = value.into(),
            "data" => self.data += &format!("{value}\n"),
            "id" if !value.contains('\0') => self.id_buffer = value.into(),
            "retry" => self.client.retry = milliseconds(value).or(self.client.retry),
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        self.client.last_event_id = self.id_buffer.clone();
        let data = std::mem::take(&mut self.data);
        let mut event = std::mem::take(&mut self.event_type);
        if event.is_empty() {
            event = "message".into();
        }
        if let Some(data) = data.strip_suffix('\n') {
            self.client.events.push(Dispatched {
                event,
                data: data.into(),
                last_event_id: self.id_buffer.clone(),
            });
        }
    }
}
