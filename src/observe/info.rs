//! What identifies an open event stream, and a snapshot of one.

use std::{sync::Arc, time::Duration};

use http::Method;
use tokio::time::Instant;

use crate::{session::Owner, stream_id::StreamId};

/// A snapshot of an open event stream.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamInfo {
    /// The id of the stream.
    pub id: StreamId,
    /// The label that the policy gave the route. See [`Policy::route`](crate::Policy::route).
    pub route: Option<Arc<str>>,
    /// The method of the request.
    pub method: Method,
    /// The owner of the request.
    pub owner: Owner,
    /// The clients that read the stream now. A recorded stream may have none, and a shared one may have several.
    pub clients: usize,
    /// Whether the stream is recorded, so that clients can resume it.
    pub is_recorded: bool,
    /// The time since the request arrived.
    pub age: Duration,
    /// The time since the last complete event of the upstream, or since the request arrived.
    pub idle: Duration,
    /// The complete events that the interceptors have forwarded.
    pub events: u64,
    /// The bytes of the stream, as one client gets them.
    pub bytes: u64,
    /// The bytes that the layer holds for the stream: of an unfinished event, of events that wait for an interceptor, and of frames
    /// that the server has not taken. The log of a recorded stream, and blocks that an interceptor stores, do not count.
    pub buffered: usize,
}

impl StreamInfo {
    /// Whether the stream continues without a client.
    pub fn is_detached(&self) -> bool {
        self.clients == 0
    }
}

/// The request that opened a stream.
#[derive(Debug)]
pub(crate) struct StreamOrigin {
    pub(crate) route: Option<Arc<str>>,
    pub(crate) method: Method,
    pub(crate) owner: Owner,
    /// See [`StreamRecord::mcp_protocol_version`](super::StreamRecord::mcp_protocol_version).
    pub(crate) mcp_protocol_version: Option<&'static str>,
    /// See [`StreamRecord::mcp_method_name`](super::StreamRecord::mcp_method_name).
    pub(crate) mcp_method_name: Option<&'static str>,
    /// When the request arrived.
    pub(crate) arrived: Instant,
}
