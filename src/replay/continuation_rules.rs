//! When a resume request may ask the upstream to continue a recorded stream.

use http::Method;

use crate::replay::Replay;

/// After which ends of a response another response may continue the stream.
///
/// Only a `GET` asks the upstream for another response. Whether a `GET` continues the stream depends on the request that opened it: a
/// request with any other method must not be sent twice (RFC 9110 9.2.2), and a `GET` of the same target returns another resource,
/// unless the protocol says that it continues the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContinuationRules {
    /// After the connection broke, or ended inside an event.
    pub(crate) after_break: bool,
    /// After an end between two events, without the event that completes the stream.
    pub(crate) after_end: bool,
    /// After such an end of a stream without ids: a resume request is then forwarded without an id, and opens a new stream.
    pub(crate) anew: bool,
    /// A `GET` opened the stream.
    pub(crate) opened_by_get: bool,
}

impl ContinuationRules {
    /// The rules for a stream. `reconnects_by_get`: the reconnect policy continues this stream by `GET`.
    pub(crate) fn new(replay: &Replay, opened_by: &Method, reconnects_by_get: bool) -> Self {
        let is_get = opened_by == Method::GET;
        let by_get = is_get || reconnects_by_get || replay.continue_by_get;
        let after_end = by_get && replay.continue_after_end;
        Self {
            after_break: by_get,
            after_end,
            anew: is_get && after_end,
            opened_by_get: is_get,
        }
    }
}
