//! Lists of masks.

use super::{decision::Mask, scan::Found};

/// The masks of one channel, tidy, and the byte of the channel that they count from.
#[derive(Debug, Default)]
pub(super) struct ChannelMasks {
    pub(super) start: usize,
    pub(super) masks: Vec<Mask>,
}

/// Masks for the matches, in order and relative to `from`; matches that end before it are left out.
pub(super) fn masks(found: &[Found], from: usize) -> Vec<Mask> {
    let mut found: Vec<_> = found
        .iter()
        .filter(|found| found.range.end > from)
        .collect();
    found.sort_by_key(|found| (found.range.start, found.pattern));
    let masks = found.into_iter().filter_map(|found| {
        let with = found.with.as_deref()?.to_owned();
        // A match that began before `from` has its mask there.
        let (start, with) = match found.range.start.checked_sub(from) {
            Some(start) => (start, with),
            None => (0, String::new()),
        };
        let range = start..found.range.end - from;
        Some(Mask { range, with })
    });
    masks.collect()
}

/// Masks in order and apart from each other.
pub(super) fn tidy(mut masks: Vec<Mask>) -> Vec<Mask> {
    masks.retain(|mask| !mask.range.is_empty());
    masks.sort_by_key(|mask| mask.range.start);
    let mut apart: Vec<Mask> = Vec::with_capacity(masks.len());
    for mask in masks {
        match apart.last_mut() {
            Some(last) if mask.range.start < last.range.end => {
                last.range.end = last.range.end.max(mask.range.end);
            }
            _ => apart.push(mask),
        }
    }
    apart
}
