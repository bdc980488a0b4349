//! Sessions: the mapping of ids between clients and upstream, and the session stores.

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod contract;
mod cookie;
mod credentials;
mod data;
mod endpoint;
mod fairness;
mod forgetting;
mod header;
mod heal;
mod keep_alive;
mod mcp;
mod memory;
mod names;
mod owner;
mod properties;
mod proxy;
mod rules;
mod secrets;
mod shown;
mod slow_store;
mod sockets;
mod store_failure;
mod stores;
mod unread_events;
#[cfg(target_os = "linux")]
mod wall_clock;
