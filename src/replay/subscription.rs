//! The parts of a response whose body reads a recorded stream.

use bytes::Bytes;
use http::response;

use crate::{log::Reader, stream_id::StreamId};

/// The head and the reader of a response that reads a recorded stream.
pub(crate) struct Subscription {
    /// `None` if the stream is unknown.
    pub(crate) stream: Option<StreamId>,
    pub(crate) head: response::Parts,
    /// `None` if nothing of the stream is left: the response then has only the block in `first`.
    pub(crate) reader: Option<Reader>,
    /// A block that this client gets before all others: the report of a gap.
    pub(crate) first: Option<Bytes>,
}

impl Subscription {
    /// Reads this stream from the position of the reader on.
    pub(crate) fn new(stream: StreamId, head: response::Parts, reader: Reader) -> Self {
        Self {
            stream: Some(stream),
            head,
            reader: Some(reader),
            first: None,
        }
    }
}
