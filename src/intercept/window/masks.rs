//! Lists of masks.

use super::{decision::Mask, scan::Match};

/// The masks of one channel. They are sorted and do not overlap.
#[derive(Debug, Default)]
pub(super) struct ChannelMasks {
    /// The byte of the channel at which the offsets of the masks begin.
    pub(super) start: usize,
    pub(super) masks: Vec<Mask>,
}

/// Returns the masks of the matches, sorted by their start and pattern. Matches that block have none.
pub(super) fn masks_of(matches: &[Match]) -> Vec<Mask> {
    let mut matches: Vec<_> = matches.iter().collect();
    matches.sort_by_key(|found| (found.range.start, found.pattern));
    let masks = matches.into_iter().filter_map(|found| {
        let with = found.mask.as_deref()?.to_owned();
        let range = found.range.clone();
        Some(Mask { range, with })
    });
    masks.collect()
}

/// Sorts masks, drops empty ones, and merges masks that overlap. The replacement of the first mask stands for all of them.
pub(super) fn merged(mut masks: Vec<Mask>) -> Vec<Mask> {
    masks.retain(|mask| !mask.range.is_empty());
    masks.sort_by_key(|mask| mask.range.start);
    let mut merged: Vec<Mask> = Vec::with_capacity(masks.len());
    for mask in masks {
        match merged.last_mut() {
            Some(last) if mask.range.start < last.range.end => {
                last.range.end = last.range.end.max(mask.range.end);
            }
            _ => merged.push(mask),
        }
    }
    merged
}
