//! How far a stream has got.

/// How far a stream has got: events and bytes, counted as in [`StreamRecord`](super::StreamRecord).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamProgress {
    /// The complete events of the upstream.
    pub events_in: u64,
    /// The complete events that the interceptors forwarded.
    pub events_out: u64,
    /// The bytes of the upstream's body.
    pub bytes_in: u64,
    /// The bytes of the stream as a client gets them.
    pub bytes_out: u64,
}

impl StreamProgress {
    /// The difference to `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            events_in: self.events_in.saturating_sub(earlier.events_in),
            events_out: self.events_out.saturating_sub(earlier.events_out),
            bytes_in: self.bytes_in.saturating_sub(earlier.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(earlier.bytes_out),
        }
    }
}
