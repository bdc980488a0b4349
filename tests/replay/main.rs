//! Streams that outlast a connection: replay to clients that resume, sharing, and reconnecting to the upstream.

#[path = "../support/mod.rs"]
mod support;

mod edges;
mod log;
mod races;
mod reconnect;
mod reconnect_sockets;
mod resume;
mod sharing;
mod sockets;
