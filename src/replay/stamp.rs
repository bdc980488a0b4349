//! What goes into a log: blocks, each event with an id of ours.

use std::{borrow::Cow, collections::VecDeque, io::Write};

use bytes::Bytes;

use super::{EventId, Position, Token, log::OVERHEAD};
use crate::{
    codec::{BOM, Block, Raw, with_id, without_id},
    source::Sink,
};

/// Events that come together share a chunk of about this size, so that they can leave together without being copied. No larger,
/// for it is kept until the last of them is let go.
const CHUNK: usize = 16 << 10;

/// What an id takes at the most.
const ID: usize = 80;

/// Collects blocks until they are written.
#[derive(Debug)]
pub(crate) struct Stamp {
    /// Of the ids; without one, events keep those that they have.
    token: Option<Token>,
    blocks: VecDeque<Block>,
    /// What they will take.
    bytes: u64,
    room: (u64, u64),
    /// The unfinished rest of the stream. Only at its end it is known to be that.
    rest: Option<Block>,
    /// The last id of the upstream's.
    last_id: Option<String>,
}

impl Stamp {
    pub(crate) fn new(token: Option<Token>) -> Self {
        Self {
            token,
            blocks: VecDeque::new(),
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
        self.room = (blocks, bytes);
    }

    /// What the next block will take.
    pub(crate) fn next_size(&self) -> u64 {
        self.blocks.front().map_or(0, size)
    }

    /// How many blocks wait.
    pub(crate) fn waiting(&self) -> usize {
        self.blocks.len()
    }

    /// The stream is over: the unfinished rest is one more block.
    pub(crate) fn finish(&mut self) {
        if let Some(mut rest) = self.rest.take() {
            // Nobody resumes after what is not finished, by our id or by the upstream's.
            if self.token.is_some() && rest.has_id() {
                rest = without_id(&rest);
            }
            if !rest.as_bytes().is_empty() {
                self.bytes += size(&rest);
                self.blocks.push_back(rest);
            }
        }
    }

    /// What has been collected, as it is to be kept, and whether it is an event; the first of it stands there. So much as there is
    /// room for, and one block in any case.
    pub(crate) fn take(&mut self, mut next: Position) -> Vec<(Raw, bool)> {
        let (most, room) = self.room;
        let (mut number, mut bytes) = (0, 0);
        for size in self.blocks.iter().take(most.max(1) as usize).map(size) {
            if number > 0 && bytes + size > room {
                break;
            }
            number += 1;
            bytes += size;
        }
        self.bytes -= bytes;
        let blocks = self.blocks.range(..number);
        let mut ids = blocks
            .rev()
            .filter_map(|block| block.id().map(Cow::into_owned));
        self.last_id = ids.next().or(self.last_id.take());
        let mut written = Vec::with_capacity(number);
        let mut chunk = Vec::new();
        let mut ends = Vec::new();
        let mut id = Vec::new();
        let mut left = bytes as usize;
        for block in self.blocks.drain(..number) {
            let size = size(&block) as usize;
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

/// What a block takes in a log, at the most.
fn size(block: &Block) -> u64 {
    (block.as_bytes().len() + ID + OVERHEAD) as u64
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

    fn block(&mut self, block: Block) {
        // As in a stream that is not kept: what is not finished goes if anything follows.
        self.rest = None;
        if block.is_terminated() {
            self.bytes += size(&block);
            self.blocks.push_back(block);
        } else {
            self.rest = Some(block);
        }
    }

    /// The CR before it has ended the line.
    fn late_line_feed(&mut self) {}

    fn is_full(&self) -> bool {
        let (blocks, bytes) = self.room;
        self.blocks.len() as u64 >= blocks || self.bytes >= bytes
    }
}
