//! Releases held blocks by the results of scans.

use std::collections::HashMap;

use super::{Cause, HeldBlocks, HoldRules, bytes_of, channel_state::ChannelState};
use crate::{
    codec::Block,
    intercept::window::{
        decision::Mask,
        early::EarlyRelease,
        item::{Item, add_masks, rewritten},
        masks::{ChannelMasks, masks_of},
    },
};

/// The blocks that scans release.
#[derive(Debug, Default)]
pub(in crate::intercept::window) struct ScanRelease {
    pub(in crate::intercept::window) blocks: Vec<Block>,
    /// Whether a match blocks the stream: nothing else may be sent.
    pub(in crate::intercept::window) blocked: bool,
    pub(in crate::intercept::window) early: EarlyRelease,
}

impl HeldBlocks {
    /// Takes the blocks that scans have decided, and those that must be sent, with the masks applied.
    pub(in crate::intercept::window) fn take_scanned(
        &mut self,
        rules: HoldRules,
        cause: Cause,
    ) -> ScanRelease {
        let forced = match cause {
            Cause::Above(max_bytes) => {
                // Only the oldest items, as many as necessary, so that the newest text is scanned as a whole.
                let mut bytes = self.bytes;
                let above = |item: &&Item| {
                    let is_above = bytes > max_bytes;
                    bytes -= item.bytes();
                    is_above
                };
                self.queue.iter().take_while(above).count()
            }
            _ => self.forced(cause),
        };
        if let Cause::End { complete: true } = cause {
            for channel in self.channels.values_mut() {
                channel.finished = true;
                channel.scan_end();
                self.has_block |= channel.block_at.is_some();
            }
        }
        let mut count = 0;
        for n in 0..self.queue.len() {
            if !self.is_decided(&self.queue[n], rules) {
                if n >= forced {
                    break;
                }
                self.scan_undecided_end(n);
            }
            if self.has_block && self.is_blocked(&self.queue[n]) {
                break;
            }
            count += 1;
        }
        if forced == 0 && !self.has_block && !self.is_worth_judging(count, rules) {
            count = self.leading_without_text();
        }
        let items: Vec<_> = self.queue.drain(..count).collect();
        self.bytes -= bytes_of(&items);
        let (blocks, early) = self.send(items);
        ScanRelease {
            blocks,
            blocked: self.has_block,
            early,
        }
    }

    /// Computes the matches that exist if the undecided texts of an item end here, because the item must be sent.
    fn scan_undecided_end(&mut self, item: usize) {
        for reading in &self.queue[item].readings {
            if let Some((key, start)) = &reading.position
                && let Some(channel) = self.channels.get_mut(key)
                && reading.end(*start) > channel.decided()
            {
                channel.scan_end();
                self.has_block |= channel.block_at.is_some();
            }
        }
    }

    /// Applies the masks to items that are sent. Also returns how much of their text is undecided and not masked.
    fn send(&mut self, items: Vec<Item>) -> (Vec<Block>, EarlyRelease) {
        let mut ends: HashMap<&str, (usize, usize)> = HashMap::new();
        for reading in items.iter().flat_map(|item| &item.readings) {
            if let Some((key, start)) = &reading.position {
                ends.insert(key, (start + reading.text.len(), reading.end(*start)));
            }
        }
        let mut masks: HashMap<&str, ChannelMasks> = HashMap::new();
        for (key, (_, end)) in &ends {
            if let Some(channel) = self.channels.get(*key) {
                let of_channel = ChannelMasks {
                    start: 0,
                    masks: channel.masks(*end),
                };
                masks.insert(key, of_channel);
            }
        }
        let mut early = EarlyRelease::default();
        for item in &items {
            let undecided = item.add_up(|reading| {
                let Some((key, start)) = &reading.position else {
                    return 0;
                };
                let channel = self.channels.get(key);
                let (Some(channel), Some(masks)) = (channel, masks.get(key.as_str())) else {
                    return 0;
                };
                let decided = channel.decided();
                if reading.end(*start) <= decided {
                    return 0;
                }
                let decided = decided.saturating_sub(*start);
                let masked = reading.masks(&masks.masks, *start).map(|mask| {
                    let end = mask.range.end.min(reading.text.len());
                    end.saturating_sub(mask.range.start.max(decided))
                });
                let undecided = reading.text.len().saturating_sub(decided);
                undecided.saturating_sub(masked.sum())
            });
            early.add(undecided, true);
        }
        let of_one_event = |item: &Item| -> Vec<Vec<Mask>> {
            let readings = item.readings.iter();
            readings.map(|reading| masks_of(&reading.matches)).collect()
        };
        let mut all: Vec<Vec<Vec<Mask>>> = items.iter().map(of_one_event).collect();
        add_masks(&items, &masks, &mut all);
        for (key, (sent, _)) in ends {
            self.sent_texts += 1;
            if let Some(channel) = self.channels.get_mut(key) {
                channel.sent = sent;
                channel.last_sent = self.sent_texts;
                channel.forget(sent);
            }
        }
        self.forget_finished();
        (rewritten(items, all), early)
    }

    fn is_decided(&self, item: &Item, rules: HoldRules) -> bool {
        item.readings.iter().all(|reading| match &reading.position {
            None => true,
            Some((key, start)) => {
                let decided = self.channels.get(key).map(ChannelState::decided);
                decided.is_none_or(|decided| reading.end(*start) <= decided)
                    && self.has_overlap(reading, rules)
            }
        })
    }

    fn is_blocked(&self, item: &Item) -> bool {
        item.readings.iter().any(|reading| match &reading.position {
            None => reading.matches.iter().any(|found| found.mask.is_none()),
            Some((key, start)) => {
                let block_at = self.channels.get(key).and_then(|channel| channel.block_at);
                block_at.is_some_and(|block_at| reading.end(*start) > block_at)
            }
        })
    }
}
