//! The classes of events, by the progress of their stream.

/// The class of an event: whether its stream makes progress.
///
/// Comments have no class: they never count as progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventClass {
    /// The event only says that the connection works.
    Ping,
    /// The event describes the stream: for example the start of a message, or a count of tokens.
    Meta,
    /// The event carries the content that the client has requested.
    Content,
    /// The event says that the stream is complete, or that it has failed.
    Terminal,
}
