//! Which streams are closed, and why.

use crate::{
    observe::StreamOutcome,
    session::{Owner, SessionId},
    stream_id::StreamId,
};

/// Which streams [`Streams::close`](super::Streams::close) closes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Select {
    /// The stream with this id.
    Stream(StreamId),
    /// All streams of a session, by the id that its client uses.
    Session(SessionId),
    /// All streams of an owner.
    Owner(Owner),
    /// All streams.
    All,
}

impl From<StreamId> for Select {
    fn from(stream: StreamId) -> Self {
        Self::Stream(stream)
    }
}

impl From<SessionId> for Select {
    fn from(session: SessionId) -> Self {
        Self::Session(session)
    }
}

impl From<Owner> for Select {
    fn from(owner: Owner) -> Self {
        Self::Owner(owner)
    }
}

/// Why [`Streams::close`](super::Streams::close) closes a stream: the outcome in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// Someone has asked to stop the stream.
    Cancelled,
    /// The client has lost the right to read the stream.
    Revoked,
    /// The server found that the client takes nothing.
    Stalled,
}

impl CloseReason {
    pub(super) fn outcome(self) -> StreamOutcome {
        match self {
            Self::Cancelled => StreamOutcome::Cancelled,
            Self::Revoked => StreamOutcome::Revoked,
            Self::Stalled => StreamOutcome::Stalled,
        }
    }
}
