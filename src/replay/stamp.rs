//! What goes into a log: blocks, each event with an id of ours.

use std::{borrow::Cow, io::Write};

use bytes::Bytes;

use super::{EventId, Position, Token};
use crate::{
    codec::{BOM, Block, Raw, with_id},
    source::Sink,
};

/// Events that come together share a chunk of about this size, so that they can leave together without being copied. No larger,
/// for it is kept until the last of them is let go.
const CHUNK: usize = 16 << 10;

/// Collects blocks until they are written.
#[derive(Debug)]
pub(crate) struct Stamp {
    /// Of the ids; without one, events keep those that they have.
    token: Option<Token>,
    blocks: Vec<Block>,
    bytes: usize,
    room: (usize, usize),
    /// The unfinished rest of the stream. Only at its end it is known to be that.
    rest: Option<Block>,
    /// The last id of the upstream's.
    last_id: Option<String>,
}

impl Stamp {
    pub(crate) fn new(token: Option<Token>) -> Self {
        Self {
            token,
            blocks: Vec::new(),
            bytes: 0,
            room: (0, 0),
            rest: None,
            last_id: None,
        }
    }

    /// The last id that the upstream gave to what was taken, if it gave any.
    pub(crate) fn last_id(&mut self) -> Option<String> {
        self.last_id.take()
    }

    /// Takes so much until it is full.
    pub(crate) fn make_room(&mut self, blocks: u64, bytes: u64) {
        self.room = (blocks as usize, bytes as usize);
    }

    /// How many blocks wait.
    pub(crate) fn waiting(&self) -> usize {
        self.blocks.len()
    }

    /// The stream is over: the unfinished rest is one more block.
    pub(crate) fn finish(&mut self) {
        self.blocks.extend(self.rest.take());
    }

    /// What has been collected, as it is to be kept, and whether it is an event; the first of it stands there.
    pub(crate) fn take(&mut self, mut next: Position) -> Vec<(Raw, bool)> {
        self.bytes = 0;
        let last_id = self
            .blocks
            .iter()
            .rev()
            .find_map(|block| block.id().map(Cow::into_owned));
        self.last_id = last_id.or(self.last_id.take());
        let mut written = Vec::with_capacity(self.blocks.len());
        let mut chunk = Vec::new();
        let mut ends = Vec::new();
        let mut id = Vec::new();
        let mut left: usize = self
            .blocks
            .iter()
            .map(|block| block.as_bytes().len() + 80)
            .sum();
        for block in self.blocks.drain(..) {
            let size = block.as_bytes().len() + 80;
            if !chunk.is_empty() && chunk.len() + size > CHUNK {
                cut(&mut written, &mut chunk, &mut ends);
            }
            if chunk.is_empty() {
                chunk.reserve(left.min(CHUNK).max(size));
            }
            left -= size;
            let is_event = block.is_terminated() && (block.is_event() || block.has_id());
            match self.token {
                Some(token) if is_event => {
                    id.clear();
                    let position = next;
                    // Into memory: it cannot fail.
                    let _ = write!(id, "{}", EventId { token, position });
                    with_id(&mut chunk, &block, &id);
                }
                _ => {
                    if block.as_bytes().starts_with(&BOM) {
                        // Text here, it would be a byte order mark at the start of what a client gets.
                        chunk.extend_from_slice(b":\n\n");
                    }
                    chunk.extend_from_slice(block.as_bytes());
                }
            }
            ends.push((chunk.len(), is_event));
            next.number += 1;
        }
        cut(&mut written, &mut chunk, &mut ends);
        written
    }
}

fn cut(written: &mut Vec<(Raw, bool)>, chunk: &mut Vec<u8>, ends: &mut Vec<(usize, bool)>) {
    let mut chunk = std::mem::take(chunk);
    // What is kept for long leaves no room behind.
    chunk.shrink_to_fit();
    let parts = Raw::parts(Bytes::from(chunk), ends.iter().map(|(end, _)| *end));
    written.extend(parts.zip(ends.iter().map(|(_, is_event)| *is_event)));
    ends.clear();
}

impl Sink for Stamp {
    /// It stands at the start of a stream only, and nobody knows who will read this from where.
    fn byte_order_mark(&mut self) {}

    fn block(&mut self, block: Block) -> Option<Block> {
        // As in a stream that is not kept: what is not finished goes if anything follows.
        self.rest = None;
        if block.is_terminated() {
            self.bytes += block.as_bytes().len();
            self.blocks.push(block);
        } else {
            self.rest = Some(block);
        }
        None
    }

    /// The CR before it has ended the line.
    fn late_line_feed(&mut self) {}

    fn is_full(&self) -> bool {
        let (blocks, bytes) = self.room;
        self.blocks.len() >= blocks || self.bytes >= bytes
    }
}
