//! Shared code of the benchmarks: typical event streams, and measurements that stay fair on a busy machine.

pub mod rounds;
pub mod streams;
