//! Blocks that wait, the texts in them, and the masks that fall on those.

use std::{collections::HashMap, ops::Range};

use tokio::time::Instant;

use super::{
    decision::Mask,
    edit::{self, Place},
    masks::{ChannelMasks, tidy},
    reading::Spelling,
    scan::Found,
};
use crate::codec::Block;

/// A block that waits.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) block: Block,
    pub(super) arrived: Instant,
    /// One for each way in which each text of it is read. Those of one text stand side by side.
    pub(super) parts: Vec<Part>,
}

/// A text in a block, read in one way.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) place: Place,
    pub(super) text: String,
    pub(super) spelling: Spelling,
    /// The key of the channel that it goes on in, and at which byte of that; a text by itself has none.
    pub(super) within: Option<(String, usize)>,
    /// What a scan has found in a text by itself.
    pub(super) found: Vec<Found>,
    /// The rest of masks that begin in text that has left.
    pub(super) masked: Vec<Range<usize>>,
}

impl Item {
    pub(super) fn bytes(&self) -> usize {
        self.block.as_bytes().len()
    }

    /// Adds up bytes of its texts. A text that is read in several ways counts once, by the reading with the most bytes.
    pub(super) fn add_up(&self, count: impl Fn(&Part) -> usize) -> usize {
        let mut sum = 0;
        let mut last: Option<(&Place, usize)> = None;
        for part in &self.parts {
            let bytes = count(part);
            match &mut last {
                Some((place, most)) if **place == part.place => {
                    let more = bytes.saturating_sub(*most);
                    sum += more;
                    *most += more;
                }
                _ => {
                    sum += bytes;
                    last = Some((&part.place, bytes));
                }
            }
        }
        sum
    }
}

impl Part {
    /// Where the text ends in its channel. A character that begins behind it and is completed later counts as a byte.
    pub(super) fn ends(&self, at: usize) -> usize {
        at + self.text.len() + usize::from(self.spelling.is_unfinished())
    }

    /// The parts of these masks, which are tidy, that fall on this text, which begins there in the passage.
    pub(super) fn masks<'a>(
        &'a self,
        masks: &'a [Mask],
        begins: usize,
    ) -> impl Iterator<Item = Mask> + 'a {
        let first = masks.partition_point(|mask| mask.range.end <= begins);
        masks[first..]
            .iter()
            .map_while(move |mask| self.within(mask, begins))
    }

    /// The part of a mask that falls on this text, which begins there in the passage.
    fn within(&self, mask: &Mask, begins: usize) -> Option<Mask> {
        let here = begins..self.ends(begins);
        let range = mask.range.start.max(here.start)..mask.range.end.min(here.end);
        // What stands in place of the whole stands where its first character is complete.
        let is_first = (begins..begins + self.text.len()).contains(&mask.range.start);
        (range.start < range.end).then(|| Mask {
            range: range.start - here.start..range.end - here.start,
            with: if is_first {
                mask.with.clone()
            } else {
                String::new()
            },
        })
    }
}

/// Adds to the masks of each part those of its channel. There is a list for each part of each item.
pub(super) fn add_masks(
    items: &[Item],
    channels: &HashMap<&str, ChannelMasks>,
    masks: &mut [Vec<Vec<Mask>>],
) {
    for (item, masks) in items.iter().zip(masks) {
        for (part, masks) in item.parts.iter().zip(masks) {
            if let Some((key, at)) = &part.within
                && let Some(found) = channels.get(key.as_str())
            {
                masks.extend(part.masks(&found.masks, at - found.start));
            }
        }
    }
}

/// The blocks of these items, with the masks of each part of each item carried out.
pub(super) fn rewritten(items: Vec<Item>, masks: Vec<Vec<Vec<Mask>>>) -> Vec<Block> {
    let blocks = items.into_iter().zip(masks).map(|(item, masks)| {
        let parts = item.parts.into_iter().zip(masks);
        let changed = parts.filter(|(_, masks)| !masks.is_empty());
        let changed = changed.map(|(part, masks)| {
            let masks = tidy(masks).into_iter();
            let edits = masks.map(|mask| part.spelling.edit(mask));
            (part.place, edits.collect())
        });
        edit::rewrite(item.block, changed.collect())
    });
    blocks.collect()
}
