//! Policies for protocols that use event streams. They use only public parts of this crate.
//!
//! * [`Mcp`]: the Model Context Protocol, by the revision of each request.
//! * [`heal`]: MCP clients continue when their server has lost its sessions.
//! * [`OriginCheckLayer`]: the check of `Origin` and `Host` that MCP requires. It protects any HTTP server against requests that
//!   a foreign web page sends (DNS rebinding).
//!
//! ```
//! use tower_sse_proxy::{Event, Policy, SseProxyLayer, profile::Mcp, session::MemoryStore};
//!
//! // Policies of MCP below one path, and the default policy of the layer for other paths.
//! let mcp = Mcp::new(Policy::default());
//! let layer = SseProxyLayer::new(MemoryStore::default())
//!     .intercept(|event: Event| (event.event_type() != "debug").then_some(event))
//!     .policy(move |request, default| {
//!         if request.uri.path().starts_with("/mcp") { mcp.policy(request) } else { default }
//!     });
//! # let _ = layer;
//! ```

#[cfg(feature = "mcp")]
pub mod heal;

#[cfg(feature = "mcp")]
mod mcp;
mod origin_check;

#[cfg(feature = "mcp")]
pub use mcp::Mcp;
pub use origin_check::{OriginCheck, OriginCheckFuture, OriginCheckLayer};
