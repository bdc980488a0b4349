//! Streams that outlast a connection: replay to clients that resume, sharing, and reconnecting to the upstream.

#[path = "../support/mod.rs"]
mod support;

mod authorization;
mod backpressure;
mod clean_end;
mod closed;
mod continuation;
mod detached;
mod ending;
mod event_ids;
mod fairness;
mod gap;
mod heads;
mod hooks;
mod mcp;
mod memory;
mod operations;
mod query;
mod races;
mod reconnect;
mod reconnect_limits;
mod reconnect_sockets;
mod reconnect_watchdog;
mod records;
mod reports;
mod resume;
mod retention;
mod sharing;
mod single_request;
mod sockets;
mod successor;
