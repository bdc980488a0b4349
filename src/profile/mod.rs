//! Policies for protocols that are spoken over event streams, made of what the rest of the crate has to offer.
//!
//! * [`Mcp`]: the Model Context Protocol, each request by the revision that it names.
//! * [`OriginCheck`]: the check of `Origin` and `Host` that MCP demands, of use for any server that browsers must not be tricked
//!   into asking.

mod mcp;
mod origin;

pub use mcp::Mcp;
pub use origin::{CheckedOrigin, CheckedOriginFuture, OriginCheck};
