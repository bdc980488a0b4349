//! Where the blocks of a stream go.

use crate::codec::Block;

/// Where blocks go once nothing more happens to them.
pub(crate) trait Sink {
    /// The byte order mark, if the stream began with one.
    fn byte_order_mark(&mut self);

    /// A block that the whole chain has let through.
    fn block(&mut self, block: Block);

    /// The same, if it is enough to know where it stands: whether it is.
    fn extend(&mut self, _block: &Block) -> bool {
        false
    }

    /// The LF of a CRLF whose CR ended a block that went through unchanged.
    fn split_line_feed(&mut self);

    /// Enough for one frame.
    fn is_full(&self) -> bool;
}
