//! The layer as HTTP middleware: which responses it treats as event streams, which header fields it changes, and how its
//! response bodies behave.

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod body_contract;
mod buffered;
mod codings;
mod content_type;
mod detection;
mod drain;
mod early_head;
mod ending;
mod grpc;
mod http2;
mod json_body;
mod keep_alive;
mod large_event;
mod leaving;
mod metrics;
mod not_sse;
mod one_request;
mod outcomes;
mod read_ahead;
mod recheck;
mod records;
mod reports;
mod spans;
mod stack;
mod streaming;
mod streams;
mod tap;
mod untouched;
mod usage;
mod watchdogs;
