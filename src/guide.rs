//! Guides: how to build a guardrail, an MCP gateway and resumable answers, and how to operate them.

// The text of each guide is a file of `docs/`, which ends with link definitions for readers of the repository. The first definition of
// a link applies (CommonMark 4.7), so rustdoc uses those below, and checks them.

/// [`TextWindow`]: crate::intercept::TextWindow
/// [`Interceptor`]: crate::intercept::Interceptor
/// [MCP gateway]: crate::guide::mcp_gateway
/// [resumable answers]: crate::guide::resumable_answers
/// [operating it]: crate::guide::operating
///
#[doc = include_str!("../docs/guardrails.md")]
pub mod guardrails {}

/// [`Mcp`]: crate::profile::Mcp
/// [`OriginCheckLayer`]: crate::profile::OriginCheckLayer
/// [`MemoryStore`]: crate::session::MemoryStore
/// [`UpstreamKey`]: crate::session::UpstreamKey
/// [guardrails]: crate::guide::guardrails
/// [resumable answers]: crate::guide::resumable_answers
/// [operating it]: crate::guide::operating
///
#[doc = include_str!("../docs/mcp_gateway.md")]
pub mod mcp_gateway {}

/// [`Replay`]: crate::replay::Replay
/// [`Retention`]: crate::replay::Retention
/// [`Streams::close`]: crate::Streams::close
/// [guardrails]: crate::guide::guardrails
/// [MCP gateway]: crate::guide::mcp_gateway
/// [operating it]: crate::guide::operating
///
#[doc = include_str!("../docs/resumable_answers.md")]
pub mod resumable_answers {}

/// [`SseProxyLayer`]: crate::SseProxyLayer
/// [diagnostics]: crate::SseProxyLayer#diagnostics
/// [guardrails]: crate::guide::guardrails
/// [MCP gateway]: crate::guide::mcp_gateway
/// [resumable answers]: crate::guide::resumable_answers
/// [`Streams`]: crate::Streams
/// [`StreamRecord`]: crate::observe::StreamRecord
///
#[doc = include_str!("../docs/operating.md")]
pub mod operating {}
