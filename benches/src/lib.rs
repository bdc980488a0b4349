//! What the measurements share: streams of the shapes that there are, and ways to compare fairly on a machine that is
//! not quiet.

pub mod rounds;
pub mod streams;
