//! What a judge is asked about together, and what becomes of it.

use std::{collections::HashMap, fmt, ops::Range};

use super::{
    channel_key::is_alias,
    decision::{Decision, Mask, TextSegment},
    early::Early,
    item::{Item, add_masks, rewritten},
    masks::{ChannelMasks, tidy},
    questions::Questions,
};
use crate::codec::Block;

/// Items that are to leave together, and the passages that have to be judged first.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    pub(super) passages: Vec<(Of, TextSegment)>,
    /// So many items leave even if the judge says to hold them.
    pub(super) forced: usize,
    pub(super) early: Early,
}

/// What a passage is.
#[derive(Debug)]
pub(super) enum Of {
    /// A channel, by its key, from this byte of it on.
    Channel(String, usize),
    /// The part of that number in the item of that number.
    Part(usize, usize),
}

/// What is done with a batch.
#[derive(Debug)]
pub(super) struct Settled {
    /// What leaves; `None`: blocked.
    pub(super) blocks: Option<Vec<Block>>,
    /// What became of the items, for [`Held::settle`](super::held::Held::settle).
    pub(super) rest: Rest,
}

/// What a batch leaves behind.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Texts that have left, with the key of the channel and the byte at which they stood.
    pub(super) left: Vec<(String, usize, String)>,
    /// Items that have to wait, in order.
    pub(super) kept: Vec<Item>,
    pub(super) early: Early,
}

impl Rest {
    fn leave(&mut self, items: &mut [Item]) {
        for part in items.iter_mut().flat_map(|item| &mut item.parts) {
            if let Some((key, at)) = part.within.take() {
                self.left.push((key, at, std::mem::take(&mut part.text)));
            }
        }
    }
}

impl Batch {
    /// What has to be judged, in order.
    pub(super) fn passages(&self) -> impl Iterator<Item = &TextSegment> {
        self.passages.iter().map(|(_, passage)| passage)
    }

    /// What the judge is asked about the passages.
    pub(super) fn questions(&self) -> Questions {
        Questions::new(self.passages.iter().map(|(of, passage)| {
            let is_alias = matches!(of, Of::Channel(key, _) if is_alias(key));
            (passage, is_alias)
        }))
    }

    /// Lets all items leave as they came.
    pub(super) fn let_all_pass(mut self) -> Settled {
        let mut rest = Rest::default();
        rest.leave(&mut self.items);
        let blocks = self.items.into_iter().map(|item| item.block);
        Settled {
            blocks: Some(blocks.collect()),
            rest,
        }
    }

    /// Whether the judgements, one for each passage, can be carried out.
    pub(super) fn check(&self, judgements: &[Decision]) -> Result<(), InvalidJudgement> {
        for (passage, judgement) in self.passages().zip(judgements) {
            let bytes = passage.text.len();
            let masks = match judgement {
                Decision::Mask(masks) => masks,
                Decision::Hold { from, masks } => {
                    if *from > bytes {
                        let from = *from;
                        return Err(InvalidJudgement::Hold { from, bytes });
                    }
                    masks
                }
                _ => continue,
            };
            for Mask { range, .. } in masks {
                if passage.text.get(range.clone()).is_none() {
                    let range = range.clone();
                    return Err(InvalidJudgement::Mask { range, bytes });
                }
            }
        }
        Ok(())
    }

    /// Carries out the judgements, one for each passage.
    pub(super) fn settle(self, judgements: Vec<Decision>) -> Settled {
        let Self {
            mut items,
            passages,
            forced,
            early,
        } = self;
        // The rest of masks that have begun stands first, so that nothing stands in its place once more.
        let begun = |item: &Item| -> Vec<Vec<Mask>> {
            let parts = item.parts.iter().map(|part| {
                let ranges = part.masked.iter().cloned();
                let masks = ranges.map(|range| Mask {
                    range,
                    with: String::new(),
                });
                masks.collect()
            });
            parts.collect()
        };
        let mut masks: Vec<Vec<Vec<Mask>>> = items.iter().map(begun).collect();
        let mut channels: HashMap<&str, ChannelMasks> = HashMap::new();
        // From which byte of which channel on text has to wait.
        let mut holds: HashMap<&str, usize> = HashMap::new();
        // Up to which byte each channel has left.
        let mut sent: HashMap<&str, usize> = HashMap::new();
        for ((of, passage), judgement) in passages.iter().zip(judgements) {
            let (found, hold) = match judgement {
                Decision::Pass => continue,
                Decision::Block => {
                    return Settled {
                        blocks: None,
                        rest: Rest::default(),
                    };
                }
                Decision::Mask(found) => (tidy(found), None),
                Decision::Hold { from, masks } => (tidy(masks), Some(from)),
            };
            match of {
                Of::Channel(key, start) => {
                    if let Some(from) = hold.filter(|_| !passage.complete) {
                        holds.insert(key, start + from);
                    }
                    sent.insert(key, start + passage.sent);
                    let start = *start;
                    let masks = found;
                    channels.insert(key, ChannelMasks { start, masks });
                }
                Of::Part(item, part) => masks[*item][*part].extend(found),
            }
        }
        let mut rest = Rest {
            early,
            ..Rest::default()
        };
        let leaving = leaving(&items, &holds, forced, &mut rest.early);
        let mut kept = items.split_off(leaving);
        add_masks(&items, &channels, &mut masks);
        for part in items.iter().flat_map(|item| &item.parts) {
            if let Some((key, at)) = &part.within
                && let Some(sent) = sent.get_mut(key.as_str())
            {
                // A mask that begins in an unfinished character begins where that is complete.
                *sent = at + part.text.len();
            }
        }
        for part in kept.iter_mut().flat_map(|item| &mut item.parts) {
            let Some((key, at)) = &part.within else {
                continue;
            };
            let (Some(found), Some(sent)) = (channels.get(key.as_str()), sent.get(key.as_str()))
            else {
                continue;
            };
            // What has begun to leave as something else goes on to do so, whatever is found later.
            let begun = found
                .masks
                .partition_point(|mask| found.start + mask.range.start < *sent);
            let begun = part.masks(&found.masks[..begun], at - found.start);
            let begun: Vec<_> = begun.map(|mask| mask.range).collect();
            for range in begun {
                if !part.masked.contains(&range) {
                    part.masked.push(range);
                }
            }
        }
        rest.kept = kept;
        rest.leave(&mut items);
        Settled {
            blocks: Some(rewritten(items, masks)),
            rest,
        }
    }
}

/// How many of the items leave. Those that have to leave before they are decided are noted.
fn leaving(
    items: &[Item],
    holds: &HashMap<&str, usize>,
    forced: usize,
    early: &mut Early,
) -> usize {
    for (n, item) in items.iter().enumerate() {
        let mut waits = false;
        for part in &item.parts {
            if let Some((key, at)) = &part.within
                && let Some(from) = holds.get(key.as_str())
            {
                waits |= part.ends(*at) > *from;
            }
        }
        if waits && n >= forced {
            return n;
        }
        let held = item.add_up(|part| {
            let hold = part.within.as_ref().and_then(|(key, at)| {
                let from = holds.get(key.as_str())?;
                Some(part.ends(*at).saturating_sub(*from))
            });
            part.text.len().min(hold.unwrap_or(0))
        });
        early.add(held, true);
    }
    items.len()
}

/// A judgement that does not fit its passage.
#[derive(Debug)]
pub(super) enum InvalidJudgement {
    Mask { range: Range<usize>, bytes: usize },
    Hold { from: usize, bytes: usize },
}

impl fmt::Display for InvalidJudgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mask { range, bytes } => write!(
                f,
                "a judge masked bytes {range:?} of a passage of {bytes} bytes: a mask lies within the passage and begins \
                 and ends between two characters"
            ),
            Self::Hold { from, bytes } => write!(
                f,
                "a judge held a passage of {bytes} bytes from byte {from} on: that byte is at most its size"
            ),
        }
    }
}

impl std::error::Error for InvalidJudgement {}
