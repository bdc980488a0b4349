//! Reports of how streams ended.

pub(crate) mod report;
