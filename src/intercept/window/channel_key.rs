//! The keys by which the readings of channels are found.

/// The key of a channel that is read in this way. Its first part is the channel's name.
pub(super) fn key(name: &str, is_alias: bool, layer: usize) -> String {
    if layer == 0 && !is_alias {
        return name.to_owned();
    }
    // A finished channel finishes all readings of it.
    format!("{name}{READING}{layer}")
}

/// Marks the key of a channel that usually has the text of another one. No name contains U+0000.
const READING: &str = " \0";

pub(super) fn is_alias(key: &str) -> bool {
    key.contains(READING)
}

pub(super) fn name_of(key: &str) -> &str {
    key.split_once(READING).map_or(key, |(name, _)| name)
}
