//! A bounded set of names that upstreams choose.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// The longest name, in bytes.
const MAX_LEN: usize = 64;

/// The label of values that are not in the set.
pub(super) const OTHER: &str = "other";

/// The first `MAX` names. The limit prevents an upstream from creating any number of time series.
pub(super) struct BoundedNames<const MAX: usize>(Mutex<BTreeSet<Arc<str>>>);

impl<const MAX: usize> BoundedNames<MAX> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    /// Returns the name if it is printable ASCII and one of the first `MAX` names, otherwise [`OTHER`].
    pub(super) fn label(&self, name: &str) -> Arc<str> {
        // Not every exporter escapes control characters.
        let is_printable = name.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if name.is_empty() || name.len() > MAX_LEN || !is_printable {
            return OTHER.into();
        }
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name) {
            return Arc::clone(known);
        }
        if names.len() >= MAX {
            return OTHER.into();
        }
        let new: Arc<str> = name.into();
        names.insert(Arc::clone(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_above_the_limits_share_one_label() {
        let names = BoundedNames::<2>::new();
        let long = "x".repeat(MAX_LEN + 1);
        for name in [&long, "", "a\rb", "a\nb", "caf\u{e9}"] {
            assert_eq!(&*names.label(name), OTHER);
        }
        for name in ["a", "b"] {
            assert_eq!(&*names.label(name), name);
        }
        for (name, label) in [("c", OTHER), ("a", "a"), ("b", "b"), ("d", OTHER)] {
            assert_eq!(&*names.label(name), label);
        }
    }
}
