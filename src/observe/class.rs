//! What an event tells about the progress of its stream.

/// What an event tells about the progress of its stream.
///
/// Comments have no class: they never count as progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventClass {
    /// The upstream says only that the connection works.
    Ping,
    /// The event tells about the stream, as the start of a message or a count of tokens does.
    Meta,
    /// The event carries what the client has asked for.
    Content,
    /// The event says that the stream is complete, or that it has failed.
    Terminal,
}
