//! A test of the cause that a [`SealError`] names.

use std::error::Error;

use super::{SealError, Why};

#[test]
fn error_of_the_random_numbers_is_the_source() {
    let cause = getrandom::Error::new_custom(7);
    let error = SealError(Why::NoRandomNumbers(cause));
    let source = error.source().and_then(|source| source.downcast_ref());
    assert_eq!(source, Some(&cause));
    assert!(SealError(Why::TooLong).source().is_none());
}
