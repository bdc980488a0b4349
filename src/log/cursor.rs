//! Positions in a log, and the results of operations at a position.

use crate::codec::ChunkSlice;

/// A position between two blocks of a log: a reader reads from here on. It is the sequence number of the next block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Cursor(pub(super) u64);

/// Whether a stream has more events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogState {
    /// The writer appends events.
    #[default]
    Live,
    /// The response of the upstream has ended, and another response may continue the stream.
    Suspended,
    /// The stream has ended, and the log has had all its events.
    Complete,
    /// The stream broke, and events are missing at its end.
    Failed,
}

/// The position of a client that has received an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResumePoint {
    /// After the event. All later events are in the log or still to come.
    After(Cursor),
    /// At least one later event was evicted.
    Evicted,
    /// The log never had the event, or the event is not committed.
    Unknown,
}

/// The result of a read at a cursor.
#[derive(Debug)]
pub(crate) enum ReadResult {
    /// One or more neighboring blocks, and the cursor after them.
    Blocks(ChunkSlice, Cursor),
    /// The next block is larger than the size limit of the read.
    TooLarge,
    /// No block yet. More may come.
    Wait,
    /// An event after the cursor was evicted.
    Evicted,
    /// No block, and the stream has ended.
    End,
}
