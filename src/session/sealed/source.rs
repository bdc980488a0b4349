//! A test of the source of a [`SealError`].

use std::error::Error;

use super::{Reason, SealError};

#[test]
fn random_number_error_is_the_source() {
    let cause = getrandom::Error::new_custom(7);
    let error = SealError(Reason::NoRandomNumbers(cause));
    let source = error.source().and_then(|source| source.downcast_ref());
    assert_eq!(source, Some(&cause));
    assert!(SealError(Reason::TooLong).source().is_none());
}
