//! A batch: the items that are sent together, and the segments to judge first.

use std::{collections::HashMap, fmt, ops::Range};

use super::{
    channel_key::is_alias,
    decision::{Decision, Mask, TextSegment},
    early::EarlyRelease,
    item::{Item, add_masks, rewritten},
    masks::{ChannelMasks, merged},
    questions::Questions,
};
use crate::codec::Block;

/// Items that are to be sent together, and the segments that a judge has to see first.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    pub(super) segments: Vec<(Subject, TextSegment)>,
    /// The number of items that are sent even if the judge holds them.
    pub(super) forced: usize,
    pub(super) early: EarlyRelease,
}

/// The origin of a segment.
#[derive(Debug)]
pub(super) enum Subject {
    /// The channel with this key, from this byte on.
    Channel(String, usize),
    /// A text of one event: the index of the item, and of the reading in it.
    Reading(usize, usize),
}

/// The result of the decisions on a batch.
#[derive(Debug)]
pub(super) struct Settled {
    /// The blocks to send. `None`: the judge blocked the stream.
    pub(super) blocks: Option<Vec<Block>>,
    pub(super) result: BatchResult,
}

/// The changes of the window's state after a batch.
#[derive(Debug, Default)]
pub(super) struct BatchResult {
    /// The texts that are sent, each with the key of its channel and its first byte in the channel.
    pub(super) sent: Vec<(String, usize, String)>,
    /// Items that stay held, in order.
    pub(super) held: Vec<Item>,
    pub(super) early: EarlyRelease,
}

impl BatchResult {
    fn take_texts(&mut self, items: &mut [Item]) {
        for reading in items.iter_mut().flat_map(|item| &mut item.readings) {
            if let Some((key, start)) = reading.position.take() {
                let text = std::mem::take(&mut reading.text);
                self.sent.push((key, start, text));
            }
        }
    }
}

impl Batch {
    /// The segments, in order.
    fn segments(&self) -> impl Iterator<Item = &TextSegment> {
        self.segments.iter().map(|(_, segment)| segment)
    }

    /// The questions to the judge.
    pub(super) fn questions(&self) -> Questions {
        Questions::new(self.segments.iter().map(|(subject, segment)| {
            let is_alias = matches!(subject, Subject::Channel(key, _) if is_alias(key));
            (segment, is_alias)
        }))
    }

    /// Sends all items unchanged.
    pub(super) fn release_unchanged(mut self) -> Settled {
        let mut result = BatchResult::default();
        result.take_texts(&mut self.items);
        let blocks = self.items.into_iter().map(|item| item.block);
        Settled {
            blocks: Some(blocks.collect()),
            result,
        }
    }

    /// Checks that the decisions, one for each segment, have valid offsets.
    pub(super) fn check(&self, decisions: &[Decision]) -> Result<(), InvalidDecision> {
        for (segment, decision) in self.segments().zip(decisions) {
            let bytes = segment.text.len();
            let masks = match decision {
                Decision::Mask(masks) => masks,
                Decision::Hold { from, masks } => {
                    if *from > bytes {
                        let from = *from;
                        return Err(InvalidDecision::Hold { from, bytes });
                    }
                    masks
                }
                _ => continue,
            };
            for Mask { range, .. } in masks {
                if segment.text.get(range.clone()).is_none() {
                    let range = range.clone();
                    return Err(InvalidDecision::Mask { range, bytes });
                }
            }
        }
        Ok(())
    }

    /// Applies the decisions, one for each segment.
    pub(super) fn settle(self, decisions: Vec<Decision>) -> Settled {
        let Self {
            mut items,
            segments,
            forced,
            early,
        } = self;
        // The rest of masks that began in sent text comes first: no later mask may put a replacement there.
        let begun = |item: &Item| -> Vec<Vec<Mask>> {
            let readings = item.readings.iter().map(|reading| {
                let ranges = reading.masked.iter().cloned();
                let masks = ranges.map(|range| Mask {
                    range,
                    with: String::new(),
                });
                masks.collect()
            });
            readings.collect()
        };
        let mut masks: Vec<Vec<Vec<Mask>>> = items.iter().map(begun).collect();
        let mut channels: HashMap<&str, ChannelMasks> = HashMap::new();
        // For each channel, the byte from which its text is held.
        let mut holds: HashMap<&str, usize> = HashMap::new();
        // For each channel, the end of its sent text.
        let mut sent: HashMap<&str, usize> = HashMap::new();
        for ((subject, segment), decision) in segments.iter().zip(decisions) {
            let (new, hold) = match decision {
                Decision::Pass => continue,
                Decision::Block => {
                    return Settled {
                        blocks: None,
                        result: BatchResult::default(),
                    };
                }
                Decision::Mask(masks) => (merged(masks), None),
                Decision::Hold { from, masks } => (merged(masks), Some(from)),
            };
            match subject {
                Subject::Channel(key, start) => {
                    if let Some(from) = hold.filter(|_| !segment.complete) {
                        holds.insert(key, start + from);
                    }
                    sent.insert(key, start + segment.sent);
                    let start = *start;
                    let masks = new;
                    channels.insert(key, ChannelMasks { start, masks });
                }
                Subject::Reading(item, reading) => masks[*item][*reading].extend(new),
            }
        }
        let mut result = BatchResult {
            early,
            ..BatchResult::default()
        };
        let count = count_to_send(&items, &holds, forced, &mut result.early);
        let mut held = items.split_off(count);
        add_masks(&items, &channels, &mut masks);
        for reading in items.iter().flat_map(|item| &item.readings) {
            if let Some((key, start)) = &reading.position
                && let Some(sent) = sent.get_mut(key.as_str())
            {
                // Without an unfinished character: a mask that begins in it begins in the text that completes it.
                *sent = start + reading.text.len();
            }
        }
        for reading in held.iter_mut().flat_map(|item| &mut item.readings) {
            let Some((key, start)) = &reading.position else {
                continue;
            };
            let (Some(channel), Some(sent)) = (channels.get(key.as_str()), sent.get(key.as_str()))
            else {
                continue;
            };
            // The replacement of these masks is sent, so the rest of their ranges stays masked, whatever a later decision is.
            let begun = channel
                .masks
                .partition_point(|mask| channel.start + mask.range.start < *sent);
            let begun = reading.masks(&channel.masks[..begun], start - channel.start);
            let begun: Vec<_> = begun.map(|mask| mask.range).collect();
            for range in begun {
                if !reading.masked.contains(&range) {
                    reading.masked.push(range);
                }
            }
        }
        result.held = held;
        result.take_texts(&mut items);
        Settled {
            blocks: Some(rewritten(items, masks)),
            result,
        }
    }
}

/// The number of items to send. Adds their undecided text to `early`.
fn count_to_send(
    items: &[Item],
    holds: &HashMap<&str, usize>,
    forced: usize,
    early: &mut EarlyRelease,
) -> usize {
    for (n, item) in items.iter().enumerate() {
        let mut is_held = false;
        for reading in &item.readings {
            if let Some((key, start)) = &reading.position
                && let Some(from) = holds.get(key.as_str())
            {
                is_held |= reading.end(*start) > *from;
            }
        }
        if is_held && n >= forced {
            return n;
        }
        let undecided = item.add_up(|reading| {
            let hold = reading.position.as_ref().and_then(|(key, start)| {
                let from = holds.get(key.as_str())?;
                Some(reading.end(*start).saturating_sub(*from))
            });
            reading.text.len().min(hold.unwrap_or(0))
        });
        early.add(undecided, true);
    }
    items.len()
}

/// The error for a decision with offsets outside its segment.
#[derive(Debug)]
pub(super) enum InvalidDecision {
    Mask { range: Range<usize>, bytes: usize },
    Hold { from: usize, bytes: usize },
}

impl fmt::Display for InvalidDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mask { range, bytes } => write!(
                f,
                "a judge masked bytes {range:?} of a text segment of {bytes} bytes: a mask must lie within the segment, at \
                 character boundaries"
            ),
            Self::Hold { from, bytes } => write!(
                f,
                "a judge held a text segment of {bytes} bytes from byte {from} on: the offset must be at most the length"
            ),
        }
    }
}

impl std::error::Error for InvalidDecision {}
