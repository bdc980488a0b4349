//! Keys of channels. A channel with escapes is read in several ways, and each reading has its own key.

/// The key of one reading of a channel: `layer` more layers of escapes undone than the location of the text needs.
pub(super) fn key(name: &str, is_alias: bool, layer: usize) -> String {
    if layer == 0 && !is_alias {
        return name.to_owned();
    }
    // The key begins with the name and a space, so finishing the channel finishes all of its readings.
    format!("{name}{READING}{layer}")
}

/// Separates the name in the key of an alias. No name contains U+0000.
const READING: &str = " \0";

/// Whether the text of this key usually equals the text of another key, so that one decision serves both.
pub(super) fn is_alias(key: &str) -> bool {
    key.contains(READING)
}

/// The name of the channel that a key belongs to.
pub(super) fn name_of(key: &str) -> &str {
    key.split_once(READING).map_or(key, |(name, _)| name)
}
