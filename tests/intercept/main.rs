//! Interceptors: their order, verdicts, deadlines and failures, text windows, and proof that no part of a stream bypasses them.

#[path = "../support/mod.rs"]
mod support;

mod ended;
mod every_json;
mod failing;
mod no_bypass;
mod patterns;
mod slow;
mod truncated;
mod verdicts;
mod waiting;
mod window;
