//! The layer as an HTTP middleware: which responses it inspects, what it changes in them, and how their bodies behave.

#[path = "../support/mod.rs"]
mod support;

mod body_contract;
mod codings;
mod content_type;
mod detection;
mod ending;
mod grpc;
mod keep_alive;
mod leaving;
mod not_sse;
mod one_request;
mod reports;
mod stack;
mod streaming;
mod untouched;
