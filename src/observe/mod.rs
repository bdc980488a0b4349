//! Reports of the outcome of streams, for operators.

pub(crate) mod report;
