//! The frames that were read ahead, merged.

use std::{collections::VecDeque, mem};

use bytes::{Bytes, BytesMut};

/// The size below which a frame counts as small, in bytes. hyper's client counts unread frames below this size (h2 0.4.20).
const SMALL_FRAME: usize = 256;

/// The size below which a frame is copied, in bytes, because a frame holds the whole read buffer of the connection in memory.
const COPIED_FRAME: usize = 4 << 10;

/// The size at which a part of copied frames is complete, in bytes.
const PART: usize = 16 << 10;

/// The frames that were read ahead, merged into parts.
#[derive(Debug, Default)]
pub(super) struct ReadAheadBuffer {
    parts: VecDeque<Part<Bytes>>,
    /// The last part, to which small frames are copied.
    copies: Part<BytesMut>,
    bytes: usize,
    frames: usize,
}

#[derive(Debug, Default)]
struct Part<T> {
    bytes: T,
    frames: usize,
}

impl ReadAheadBuffer {
    /// The size of the content, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the frames of the content are small on average.
    pub(super) fn has_small_frames(&self) -> bool {
        self.bytes < self.frames.saturating_mul(SMALL_FRAME)
    }

    /// Appends a frame.
    pub(super) fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames += 1;
        if frame.len() < COPIED_FRAME {
            self.copies.bytes.extend_from_slice(&frame);
            self.copies.frames += 1;
            if self.copies.bytes.len() >= PART {
                self.end_part();
            }
        } else {
            self.end_part();
            self.parts.push_back(Part {
                bytes: frame,
                frames: 1,
            });
        }
    }

    /// Takes the first part.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.parts.is_empty() {
            self.end_part();
        }
        let part = self.parts.pop_front()?;
        self.bytes -= part.bytes.len();
        self.frames -= part.frames;
        Some(part.bytes)
    }

    fn end_part(&mut self) {
        if !self.copies.bytes.is_empty() {
            let Part { bytes, frames } = mem::take(&mut self.copies);
            self.parts.push_back(Part {
                bytes: bytes.freeze(),
                frames,
            });
        }
    }
}
