//! The method of the Model Context Protocol that a request names.

use http::HeaderMap;

use super::known_value::known_value;

/// The methods and notifications of all revisions.
const METHODS: [&str; 33] = [
    "completion/complete",
    "elicitation/create",
    "initialize",
    "logging/setLevel",
    "notifications/cancelled",
    "notifications/elicitation/complete",
    "notifications/initialized",
    "notifications/message",
    "notifications/progress",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
    "notifications/resources/updated",
    "notifications/roots/list_changed",
    "notifications/tasks/status",
    "notifications/tools/list_changed",
    "ping",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "roots/list",
    "sampling/createMessage",
    "server/discover",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tools/call",
    "tools/list",
];

/// The method in `Mcp-Method` (MCP 2026-07-28), or `other`. `None` without this field.
pub(crate) fn mcp_method_name(headers: &HeaderMap) -> Option<&'static str> {
    known_value(headers, "mcp-method", &METHODS)
}
