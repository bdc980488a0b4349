//! Sessions: the rules that map their ids, and the stores that keep them.

#[path = "../support/mod.rs"]
mod support;

mod contract;
mod mapping;
mod memory;
mod properties;
mod secrets;
mod sockets;
mod stores;
