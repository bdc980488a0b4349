//! The layer as HTTP middleware: which responses it treats as event streams, which header fields it changes, and how its
//! response bodies behave.

#[path = "../codec/client.rs"]
#[expect(
    dead_code,
    reason = "the client on top of the decoder is not tested here"
)]
mod client;
#[path = "../codec/reference.rs"]
#[expect(
    dead_code,
    reason = "the tests need only the algorithm of the standard"
)]
mod reference;
#[path = "../support/mod.rs"]
mod support;

mod admission;
mod body_contract;
mod buffered;
mod codings;
mod content_type;
mod dependencies;
mod detection;
mod drain;
mod early_head;
mod ending;
mod fidelity;
mod grpc;
mod http2;
mod json_body;
mod keep_alive;
mod large_event;
mod leaving;
mod metrics;
mod no_body;
mod not_sse;
mod one_request;
mod outcomes;
mod read_ahead;
mod read_ahead_model;
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
