//! The revision of the Model Context Protocol that a request names.

use http::HeaderMap;

use super::known_value::known_value;

/// The revisions whose requests name them (since 2025-06-18), and those before.
const REVISIONS: [&str; 5] = [
    "2024-11-05",
    "2025-03-26",
    "2025-06-18",
    "2025-11-25",
    "2026-07-28",
];

/// The revision in `MCP-Protocol-Version`, or `other`. `None` without this field.
pub(crate) fn mcp_protocol_version(headers: &HeaderMap) -> Option<&'static str> {
    known_value(headers, "mcp-protocol-version", &REVISIONS)
}
