//! The interface by which blocks leave the pipeline.

use crate::codec::Block;

/// The destination of the blocks that the interceptors have forwarded.
pub(crate) trait Sink {
    /// Adds the byte order mark at the start of the stream.
    fn byte_order_mark(&mut self);

    /// Adds a block.
    fn block(&mut self, block: Block);

    /// Adds a block that directly follows the last one in the same chunk, without taking it. Returns `false` and adds nothing if
    /// that is not possible.
    fn extend(&mut self, _block: &Block) -> bool {
        false
    }

    /// Adds the LF of a CRLF whose CR ended the last block. The block is unchanged.
    fn split_line_feed(&mut self);

    /// The bytes of the blocks that wait to leave. Small blocks may count for more than their size.
    fn waiting_bytes(&self) -> usize;

    /// Whether the sink has blocks that wait to leave.
    fn has_blocks(&self) -> bool {
        self.waiting_bytes() > 0
    }

    /// Whether the sink has enough blocks for one poll.
    fn is_full(&self) -> bool;
}
