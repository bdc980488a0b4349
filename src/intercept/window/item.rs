//! Held blocks, the texts in them, and the masks on these texts.

use std::{collections::HashMap, ops::Range};

use tokio::time::Instant;

use super::{
    decision::Mask,
    edit::{self, Location},
    masks::{ChannelMasks, merged},
    reading::Spelling,
    scan::Match,
};
use crate::codec::Block;

/// A held block.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) block: Block,
    pub(super) arrived: Instant,
    /// The readings of the texts of the block. The readings of one text are adjacent.
    pub(super) readings: Vec<Reading>,
}

/// A text of a block, with a certain number of escape layers undone.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) location: Location,
    pub(super) text: String,
    pub(super) spelling: Spelling,
    /// The key of the channel, and the byte of the channel at which the text begins. `None` for a text of one event only.
    pub(super) position: Option<(String, usize)>,
    /// The matches of a scan in a text of one event only.
    pub(super) matches: Vec<Match>,
    /// The rest of masks that begin in text that was sent.
    pub(super) masked: Vec<Range<usize>>,
}

impl Item {
    pub(super) fn bytes(&self) -> usize {
        self.block.as_bytes().len()
    }

    /// Adds up the bytes of the texts. A text with several readings counts once, by the reading with the most bytes.
    pub(super) fn add_up(&self, count: impl Fn(&Reading) -> usize) -> usize {
        let mut sum = 0;
        let mut last: Option<(&Location, usize)> = None;
        for reading in &self.readings {
            let bytes = count(reading);
            match &mut last {
                Some((location, most)) if **location == reading.location => {
                    let more = bytes.saturating_sub(*most);
                    sum += more;
                    *most += more;
                }
                _ => {
                    sum += bytes;
                    last = Some((&reading.location, bytes));
                }
            }
        }
        sum
    }
}

impl Reading {
    /// The end of a text that begins at `start`. A character that a later text completes counts as one byte.
    pub(super) fn end(&self, start: usize) -> usize {
        start + self.text.len() + usize::from(self.spelling.is_unfinished())
    }

    /// The parts of these masks that cover this text, which begins at `start`. The masks are sorted and do not overlap.
    pub(super) fn masks<'a>(
        &'a self,
        masks: &'a [Mask],
        start: usize,
    ) -> impl Iterator<Item = Mask> + 'a {
        let first = masks.partition_point(|mask| mask.range.end <= start);
        masks[first..]
            .iter()
            .map_while(move |mask| self.clip(mask, start))
    }

    /// The part of a mask that covers this text, which begins at `start`.
    fn clip(&self, mask: &Mask, start: usize) -> Option<Mask> {
        let end = self.end(start);
        let range = mask.range.start.max(start)..mask.range.end.min(end);
        // The replacement belongs to the text that completes the first character of the mask.
        let is_first = (start..start + self.text.len()).contains(&mask.range.start);
        (range.start < range.end).then(|| Mask {
            range: range.start - start..range.end - start,
            with: if is_first {
                mask.with.clone()
            } else {
                String::new()
            },
        })
    }
}

/// Adds the masks of each channel to those of its readings. `masks` has a list for each reading of each item.
pub(super) fn add_masks(
    items: &[Item],
    channels: &HashMap<&str, ChannelMasks>,
    masks: &mut [Vec<Vec<Mask>>],
) {
    for (item, masks) in items.iter().zip(masks) {
        for (reading, masks) in item.readings.iter().zip(masks) {
            if let Some((key, start)) = &reading.position
                && let Some(channel) = channels.get(key.as_str())
            {
                masks.extend(reading.masks(&channel.masks, start - channel.start));
            }
        }
    }
}

/// The blocks of these items, with the masks of each reading applied.
pub(super) fn rewritten(items: Vec<Item>, masks: Vec<Vec<Vec<Mask>>>) -> Vec<Block> {
    let blocks = items.into_iter().zip(masks).map(|(item, masks)| {
        let readings = item.readings.into_iter().zip(masks);
        let changed = readings.filter(|(_, masks)| !masks.is_empty());
        let changed = changed.map(|(reading, masks)| {
            let masks = merged(masks).into_iter();
            let edits = masks.map(|mask| reading.spelling.edit(mask));
            (reading.location, edits.collect())
        });
        edit::rewrite(item.block, changed.collect())
    });
    blocks.collect()
}
