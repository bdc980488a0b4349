//! Releases held blocks by the decisions of a judge.

use std::collections::HashMap;

use super::{Cause, HeldBlocks, HoldRules, bytes_of};
use crate::intercept::window::{
    batch::{Batch, BatchResult, Subject},
    channel_key::name_of,
    decision::TextSegment,
    early::EarlyRelease,
    item::Item,
};

impl HeldBlocks {
    /// Takes the items that may be sent once a judge has decided: those that must be sent, and those with enough text after
    /// them. `None` if there are no such items.
    pub(in crate::intercept::window) fn take(
        &mut self,
        rules: HoldRules,
        cause: Cause,
    ) -> Option<Batch> {
        let forced = self.forced(cause);
        let free = |item: &&Item| self.is_free(item, rules);
        let free = self.queue.iter().take_while(free).count();
        let count = match cause {
            // At the end all items are judged; the decisions say which are sent.
            Cause::End { .. } => self.queue.len(),
            _ if forced > 0 || self.is_worth_judging(free, rules) => forced.max(free),
            _ => self.leading_without_text(),
        };
        if count == 0 {
            return None;
        }
        let complete = matches!(cause, Cause::End { complete: true });
        let mut early = EarlyRelease::default();
        if !complete {
            let forced = self.queue.iter().take(forced).skip(free);
            let bytes = forced.map(|item| {
                item.add_up(|reading| match self.has_overlap(reading, rules) {
                    true => 0,
                    false => reading.text.len(),
                })
            });
            early.add(bytes.sum(), false);
        }
        let segments = self.segments(count, complete);
        let items: Vec<_> = self.queue.drain(..count).collect();
        self.bytes -= bytes_of(&items);
        Some(Batch {
            items,
            segments,
            forced,
            early,
        })
    }

    /// Records the result of a batch: puts items back that stay held, and keeps the end of the sent texts as context.
    pub(in crate::intercept::window) fn settle(&mut self, result: BatchResult, rules: HoldRules) {
        self.bytes += bytes_of(&result.held);
        let held = result.held.into_iter().rev();
        held.for_each(|item| self.queue.push_front(item));
        for (key, start, text) in &result.sent {
            self.sent_texts += 1;
            if let Some(channel) = self.channels.get_mut(key) {
                channel.sent = start + text.len();
                channel.last_sent = self.sent_texts;
                channel.context.push_str(text);
            }
        }
        // Trims each context once, not after each text.
        for (key, ..) in &result.sent {
            if let Some(channel) = self.channels.get_mut(key) {
                let mut from = channel.context.len().saturating_sub(rules.context());
                while !channel.context.is_char_boundary(from) {
                    from -= 1;
                }
                channel.context.drain(..from);
            }
        }
        self.forget_finished();
    }

    /// The segments of the first `count` items.
    fn segments(&self, count: usize, complete: bool) -> Vec<(Subject, TextSegment)> {
        let mut segments = Vec::new();
        let mut order: Vec<&str> = Vec::new();
        let mut texts: HashMap<&str, String> = HashMap::new();
        for (i, item) in self.queue.iter().take(count).enumerate() {
            for (r, reading) in item.readings.iter().enumerate() {
                let Some((key, _)) = &reading.position else {
                    let segment = TextSegment {
                        text: reading.text.clone(),
                        sent: 0,
                        channel: None,
                        complete: true,
                    };
                    segments.push((Subject::Reading(i, r), segment));
                    continue;
                };
                texts.entry(key).or_insert_with(|| {
                    order.push(key);
                    let channel = self.channels.get(key);
                    channel.map_or_else(String::new, |channel| channel.context.clone())
                });
            }
        }
        for reading in self.queue.iter().flat_map(|item| &item.readings) {
            if let Some((key, _)) = &reading.position
                && let Some(text) = texts.get_mut(key.as_str())
            {
                text.push_str(&reading.text);
            }
        }
        for key in order {
            let (Some(channel), Some(text)) = (self.channels.get(key), texts.remove(key)) else {
                continue;
            };
            let segment = TextSegment {
                text,
                sent: channel.context.len(),
                channel: Some(name_of(key).to_owned()),
                complete: complete || channel.finished,
            };
            let start = channel.sent - channel.context.len();
            segments.push((Subject::Channel(key.to_owned(), start), segment));
        }
        segments
    }
}
