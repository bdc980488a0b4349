//! Policies for protocols that are spoken over event streams, made of what the rest of the crate has to offer.
//!
//! * [`Mcp`]: the Model Context Protocol, each request by the revision that it names.
//! * [`OriginCheckLayer`]: the check of `Origin` and `Host` that MCP demands, of use for any server that browsers must not be tricked
//!   into asking.
//!
//! ```
//! use tower_sse_proxy::{Event, Policy, SseProxyLayer, profile::Mcp, session::MemoryStore};
//!
//! // The rules of MCP below one path; elsewhere, those of the layer.
//! let mcp = Mcp::new(Policy::default());
//! let layer = SseProxyLayer::new(MemoryStore::default())
//!     .intercept(|event: Event| (event.event_type() != "debug").then_some(event))
//!     .policy(move |request, default| {
//!         if request.uri.path().starts_with("/mcp") { mcp.policy(request) } else { default }
//!     });
//! # let _ = layer;
//! ```

mod mcp;
mod origin_check;

pub use mcp::Mcp;
pub use origin_check::{OriginCheck, OriginCheckFuture, OriginCheckLayer};
