//! Interceptors: the order in which they run, their verdicts, their failures, and that nothing passes around them.

#[path = "../support/mod.rs"]
mod support;

mod ended;
mod every_json;
mod failing;
mod no_bypass;
mod patterns;
mod truncated;
mod verdicts;
mod waiting;
mod window;
