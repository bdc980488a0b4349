//! Header fields and request targets: one parser for each, used by all other modules.

pub(crate) mod accept;
pub(crate) mod accept_encoding;
pub(crate) mod content_encoding;
pub(crate) mod content_type;
pub(crate) mod event_stream_head;
pub(crate) mod incremental;
mod known_value;
pub(crate) mod list;
pub(crate) mod mcp_method_name;
pub(crate) mod mcp_protocol_version;
#[cfg(any(feature = "replay", feature = "sessions"))]
pub(crate) mod query;
pub(crate) mod replaced_body;
pub(crate) mod stored;
