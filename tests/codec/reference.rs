//! Slow parsers that are plainly right.

use bytes::Bytes;
use tower_sse_proxy::codec::Item;

use super::client::{Client, Dispatched, milliseconds, raw};

pub const BOM: &[u8] = b"\xef\xbb\xbf";

/// A piece whose last line end is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
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

impl Whole {
    /// What counts toward the limit: everything but the LF of a CRLF that ends the block.
    pub fn counted(&self) -> usize {
        let late = self.terminated && self.raw.ends_with(b"\r\n");
        self.raw.len() - usize::from(late)
    }
}

/// Puts each late LF back to the piece it belongs to.
pub fn whole(pieces: &[Item]) -> Vec<Whole> {
    let mut all: Vec<Whole> = Vec::new();
    for piece in pieces {
        let (kind, terminated) = match piece {
            Item::SplitLineFeed(_) => {
                let open = all
                    .last_mut()
                    .filter(|last| last.terminated && last.raw.ends_with(b"\r"));
                let raw = &mut open.expect("an LF that comes late has a CR before it").raw;
                *raw = [raw, &b"\n"[..]].concat().into();
                continue;
            }
            Item::Event(event) => (Kind::Event, event.is_terminated()),
            Item::Block(block) => (Kind::Block, block.is_terminated()),
            _ => (Kind::Bom, true),
        };
        let raw = Bytes::copy_from_slice(raw(piece));
        all.push(Whole {
            kind,
            raw,
            terminated,
        });
    }
    all
}

/// Cuts a stream where a blank line ends, and after a comment or `retry` line that nothing came before.
pub fn cut(input: &[u8]) -> Vec<Whole> {
    let mut all = Vec::new();
    let mut rest = input;
    if let Some(text) = input.strip_prefix(BOM) {
        rest = text;
        all.push(Whole {
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
            all.push(Whole {
                kind,
                raw,
                terminated,
            });
            kind = Kind::Block;
        }
    }
    all
}

/// The steps of WHATWG HTML 9.2.6, one after the other, on the text of the whole stream.
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
