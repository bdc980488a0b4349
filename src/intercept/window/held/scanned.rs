//! What leaves once scans have decided.

use std::collections::HashMap;

use super::{Due, Held, Sight, bytes_of, channel_state::Channel};
use crate::{
    codec::Block,
    intercept::window::{
        decision::Mask,
        early::Early,
        item::{Item, add_masks, rewritten},
        masks::{ChannelMasks, masks},
    },
};

/// What the scans of all texts let go.
#[derive(Debug, Default)]
pub(in crate::intercept::window) struct Scanned {
    pub(in crate::intercept::window) blocks: Vec<Block>,
    /// Nothing else may leave.
    pub(in crate::intercept::window) blocked: bool,
    pub(in crate::intercept::window) early: Early,
}

impl Held {
    /// Takes what the scans of its texts let go.
    pub(in crate::intercept::window) fn take_scanned(&mut self, sight: Sight, due: Due) -> Scanned {
        let forced = match due {
            Due::Above(most) => {
                // The oldest leave, as many as have to: what came last is seen whole.
                let mut bytes = self.bytes;
                let above = |item: &&Item| {
                    let is_above = bytes > most;
                    bytes -= item.bytes();
                    is_above
                };
                self.queue.iter().take_while(above).count()
            }
            _ => self.forced(due),
        };
        if let Due::End { complete: true } = due {
            for channel in self.channels.values_mut() {
                channel.done = true;
                channel.read_ending();
                self.blocked |= channel.blocked.is_some();
            }
        }
        let mut count = 0;
        for n in 0..self.queue.len() {
            if !self.is_decided(&self.queue[n], sight) {
                if n >= forced {
                    break;
                }
                self.read_undecided(n);
            }
            if self.blocked && self.is_blocked(&self.queue[n]) {
                break;
            }
            count += 1;
        }
        if forced == 0 && !self.blocked && !self.is_worth_judging(count, sight) {
            count = self.without_text();
        }
        let items: Vec<_> = self.queue.drain(..count).collect();
        self.bytes -= bytes_of(&items);
        let (blocks, early) = self.leave(items);
        Scanned {
            blocks,
            blocked: self.blocked,
            early,
        }
    }

    /// An item has to leave before its texts are decided: of those, what would be found if they ended here is found.
    fn read_undecided(&mut self, item: usize) {
        for part in &self.queue[item].parts {
            if let Some((key, at)) = &part.within
                && let Some(channel) = self.channels.get_mut(key)
                && part.ends(*at) > channel.decided()
            {
                channel.read_ending();
                self.blocked |= channel.blocked.is_some();
            }
        }
    }

    /// Carries out what the scans have found in these items, which leave. Also tells how much of their text leaves
    /// undecided, and without a mask.
    fn leave(&mut self, items: Vec<Item>) -> (Vec<Block>, Early) {
        let mut ends: HashMap<&str, (usize, usize)> = HashMap::new();
        for part in items.iter().flat_map(|item| &item.parts) {
            if let Some((key, at)) = &part.within {
                ends.insert(key, (at + part.text.len(), part.ends(*at)));
            }
        }
        let mut channels: HashMap<&str, ChannelMasks> = HashMap::new();
        for (key, (_, end)) in &ends {
            if let Some(channel) = self.channels.get(*key) {
                let masks = channel.masks(*end);
                channels.insert(key, ChannelMasks { start: 0, masks });
            }
        }
        let mut early = Early::default();
        for item in &items {
            let undecided = item.add_up(|part| {
                let Some((key, at)) = &part.within else {
                    return 0;
                };
                let channel = self.channels.get(key);
                let (Some(channel), Some(found)) = (channel, channels.get(key.as_str())) else {
                    return 0;
                };
                let decided = channel.decided();
                if part.ends(*at) <= decided {
                    return 0;
                }
                let known = decided.saturating_sub(*at);
                let masked = part.masks(&found.masks, *at).map(|mask| {
                    let end = mask.range.end.min(part.text.len());
                    end.saturating_sub(mask.range.start.max(known))
                });
                let undecided = part.text.len().saturating_sub(known);
                undecided.saturating_sub(masked.sum())
            });
            early.add(undecided, true);
        }
        let alone = |item: &Item| -> Vec<Vec<Mask>> {
            item.parts
                .iter()
                .map(|part| masks(&part.found, 0))
                .collect()
        };
        let mut all: Vec<Vec<Vec<Mask>>> = items.iter().map(alone).collect();
        add_masks(&items, &channels, &mut all);
        for (key, (sent, _)) in ends {
            self.left += 1;
            if let Some(channel) = self.channels.get_mut(key) {
                channel.sent = sent;
                channel.left = self.left;
                channel.forget(sent);
            }
        }
        self.forget_finished();
        (rewritten(items, all), early)
    }

    fn is_decided(&self, item: &Item, sight: Sight) -> bool {
        item.parts.iter().all(|part| match &part.within {
            None => true,
            Some((key, at)) => {
                let decided = self.channels.get(key).map(Channel::decided);
                decided.is_none_or(|decided| part.ends(*at) <= decided)
                    && self.is_in_sight(part, sight)
            }
        })
    }

    fn is_blocked(&self, item: &Item) -> bool {
        item.parts.iter().any(|part| match &part.within {
            None => part.found.iter().any(|found| found.with.is_none()),
            Some((key, at)) => {
                let blocked = self.channels.get(key).and_then(|channel| channel.blocked);
                blocked.is_some_and(|blocked| part.ends(*at) > blocked)
            }
        })
    }
}
