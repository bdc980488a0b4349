//! What a stream is read from, its upstream or what is kept of it, and where its blocks go.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::HeaderMap;

use crate::{codec::Block, error::Error, frames::Frames, report::StreamReport};

/// Where the frames of one client come from.
pub(crate) trait Source {
    /// Polls without anything new after which what is ready leaves at the latest; see `Patience`.
    const PATIENCE: u8;

    /// Moves blocks to the frames until they are full, there are no more for now, or the stream is over. Not to be polled after
    /// that.
    fn poll_frames(self: Pin<&mut Self>, cx: &mut Context<'_>, frames: &mut Frames) -> Poll<Step>;

    /// Takes the report of a stream that has ended cleanly, and whose end is still to be sent.
    fn take_report(self: Pin<&mut Self>) -> Option<StreamReport>;
}

/// What a poll came to.
#[derive(Debug)]
pub(crate) enum Step {
    /// There is enough for now, or what there is should not wait for what there is still to do.
    Full,
    /// The stream ended, with these trailers.
    End(Option<Box<HeaderMap>>),
    /// The stream broke. What was sent before is all there is.
    Failed(Error),
}

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
    fn late_line_feed(&mut self);

    /// Enough for one frame.
    fn is_full(&self) -> bool;
}
