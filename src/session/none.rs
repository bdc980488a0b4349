//! The replacement of the files for session mapping in builds without the feature `sessions`: no session is mapped.

use http::{HeaderMap, HeaderName};

use super::ObserveStore;

/// A type without values.
#[derive(Debug)]
pub(crate) enum SessionMapping {}

impl SessionMapping {
    pub(crate) fn reads_events(&self) -> bool {
        match *self {}
    }

    pub(crate) fn strip_trailers(&self, _: &mut HeaderMap) {
        match *self {}
    }

    pub(crate) fn has_header(&self, _: &HeaderName) -> bool {
        match *self {}
    }

    pub(crate) fn has_cookie(&self, _: &str) -> bool {
        match *self {}
    }
}

/// A type without values.
pub(crate) enum SessionLease {}

#[derive(Clone, Default)]
pub(crate) struct AnyStore(());

impl AnyStore {
    pub(crate) fn observe(&mut self, _: ObserveStore) {}
}

#[derive(Default)]
pub(crate) struct SessionKeepAlive(());
