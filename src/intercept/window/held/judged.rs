//! What leaves once a judge has decided.

use std::collections::HashMap;

use super::{Due, Held, Sight, bytes_of};
use crate::intercept::window::{
    batch::{Batch, Of, Rest},
    channel_key::name_of,
    decision::TextSegment,
    early::Early,
    item::Item,
};

impl Held {
    /// Takes what may leave: what has to, and what is out of sight of anything that may still come.
    pub(in crate::intercept::window) fn take(&mut self, sight: Sight, due: Due) -> Option<Batch> {
        let forced = self.forced(due);
        let free = |item: &&Item| self.is_free(item, sight);
        let free = self.queue.iter().take_while(free).count();
        let count = match due {
            // What may leave of it is for the judge to say.
            Due::End { .. } => self.queue.len(),
            _ if forced > 0 || self.is_worth_judging(free, sight) => forced.max(free),
            _ => self.without_text(),
        };
        if count == 0 {
            return None;
        }
        let complete = matches!(due, Due::End { complete: true });
        let mut early = Early::default();
        if !complete {
            let forced = self.queue.iter().take(forced).skip(free);
            let bytes = forced.map(|item| {
                item.add_up(|part| match self.is_in_sight(part, sight) {
                    true => 0,
                    false => part.text.len(),
                })
            });
            early.add(bytes.sum(), false);
        }
        let passages = self.passages(count, complete);
        let items: Vec<_> = self.queue.drain(..count).collect();
        self.bytes -= bytes_of(&items);
        Some(Batch {
            items,
            passages,
            forced,
            early,
        })
    }

    /// Takes note of what has become of a batch.
    pub(in crate::intercept::window) fn settle(&mut self, rest: Rest, sight: Sight) {
        self.bytes += bytes_of(&rest.kept);
        let kept = rest.kept.into_iter().rev();
        kept.for_each(|item| self.queue.push_front(item));
        for (key, at, text) in &rest.left {
            self.left += 1;
            if let Some(channel) = self.channels.get_mut(key) {
                channel.sent = at + text.len();
                channel.left = self.left;
                channel.context.push_str(text);
            }
        }
        // Once for all that has left, not for each text.
        for (key, ..) in &rest.left {
            if let Some(channel) = self.channels.get_mut(key) {
                let mut from = channel.context.len().saturating_sub(sight.context());
                while !channel.context.is_char_boundary(from) {
                    from -= 1;
                }
                channel.context.drain(..from);
            }
        }
        self.forget_finished();
    }

    /// The passages that the first `count` items are part of.
    fn passages(&self, count: usize, complete: bool) -> Vec<(Of, TextSegment)> {
        let mut passages = Vec::new();
        let mut order: Vec<&str> = Vec::new();
        let mut texts: HashMap<&str, String> = HashMap::new();
        for (i, item) in self.queue.iter().take(count).enumerate() {
            for (p, part) in item.parts.iter().enumerate() {
                let Some((key, _)) = &part.within else {
                    let passage = TextSegment {
                        text: part.text.clone(),
                        sent: 0,
                        channel: None,
                        complete: true,
                    };
                    passages.push((Of::Part(i, p), passage));
                    continue;
                };
                texts.entry(key).or_insert_with(|| {
                    order.push(key);
                    let channel = self.channels.get(key);
                    channel.map_or_else(String::new, |channel| channel.context.clone())
                });
            }
        }
        for part in self.queue.iter().flat_map(|item| &item.parts) {
            if let Some((key, _)) = &part.within
                && let Some(text) = texts.get_mut(key.as_str())
            {
                text.push_str(&part.text);
            }
        }
        for key in order {
            let (Some(channel), Some(text)) = (self.channels.get(key), texts.remove(key)) else {
                continue;
            };
            let passage = TextSegment {
                text,
                sent: channel.context.len(),
                channel: Some(name_of(key).to_owned()),
                complete: complete || channel.done,
            };
            let start = channel.sent - channel.context.len();
            passages.push((Of::Channel(key.to_owned(), start), passage));
        }
        passages
    }
}
