//! What is held back, in order, and the texts in it. No clock, no I/O.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Range,
};

use tokio::time::Instant;

use super::{
    edit::{self, Place},
    extract::{Extract, Unreadable},
    find::{Found, Name, Text, find},
    judge::{Judgement, Mask, Passage},
    questions::Questions,
    reading::{Reader, Spelling},
};
use crate::codec::{Block, Event};

/// Blocks that wait, and the state of each channel.
#[derive(Debug, Default)]
pub(super) struct Held {
    queue: VecDeque<Item>,
    bytes: usize,
    channels: BTreeMap<String, Channel>,
    /// How many items have left.
    left: u64,
}

/// A block that waits.
#[derive(Debug)]
pub(super) struct Item {
    block: Block,
    arrived: Instant,
    parts: Vec<Part>,
}

/// A text in a block.
#[derive(Debug)]
struct Part {
    place: Place,
    text: String,
    spelling: Spelling,
    /// The channel that it goes on in, and at which byte of that; a text by itself has none.
    within: Option<(String, usize)>,
}

impl Part {
    /// Where the text ends in its channel. A character that begins behind it and is completed later counts as a byte.
    fn ends(&self, at: usize) -> usize {
        at + self.text.len() + usize::from(self.spelling.is_unfinished())
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

/// A text that goes on from event to event; counted in bytes from its beginning.
#[derive(Debug, Default)]
struct Channel {
    /// What has left last.
    context: String,
    /// So much has left.
    sent: usize,
    /// So much has come.
    come: usize,
    done: bool,
    reader: Reader,
    /// When the last of it left, in items of the stream.
    left: u64,
}

impl Channel {
    /// Whether it is finished and nothing of it is held.
    fn is_over(&self) -> bool {
        self.done && self.sent == self.come
    }
}

/// Items that are to leave together, and the passages that have to be judged first.
#[derive(Debug)]
pub(super) struct Batch {
    items: Vec<Item>,
    /// With the byte of the channel at which the passage begins, or the item and part that it is.
    passages: Vec<(Of, Passage)>,
}

#[derive(Debug)]
enum Of {
    Channel(String, usize),
    Part(usize, usize),
}

/// The key of a channel that is read in this way. Its first part is the channel's name.
fn key(name: &str, is_alias: bool, layer: usize) -> String {
    if layer == 0 && !is_alias {
        return name.to_owned();
    }
    // A finished channel finishes all readings of it.
    format!("{name}{READING}{layer}")
}

/// Marks the key of a channel that usually has the text of another one. No name contains U+0000.
const READING: &str = " \0";

fn is_alias(key: &str) -> bool {
    key.contains(READING)
}

fn name_of(key: &str) -> &str {
    key.split_once(READING).map_or(key, |(name, _)| name)
}

/// More channels than any answer has.
const CHANNELS: usize = 1024;

/// So many texts that have been finished are remembered at least, and twice as many at most.
const FINISHED: usize = 1024;

/// A longer name of a channel, in bytes, than any answer gives cause for.
const CHANNEL_NAME: usize = 256;

/// What a window keeps in sight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub(super) overlap: usize,
    pub(super) size: usize,
}

impl Held {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest came.
    pub(super) fn since(&self) -> Option<Instant> {
        self.queue.front().map(|item| item.arrived)
    }

    /// Gives up everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn push_block(&mut self, block: Block, now: Instant) {
        self.bytes += block.as_bytes().len();
        self.queue.push_back(Item {
            block: block.detached(),
            arrived: now,
            parts: Vec::new(),
        });
    }

    /// Takes in an event and finds the texts in it. Gives it back if it cannot be read in one way only.
    pub(super) fn push(
        &mut self,
        event: Event,
        extract: &dyn Extract,
        now: Instant,
    ) -> Result<(), (Event, Unreadable)> {
        let parts = match self.parts(&event, extract) {
            Ok(parts) => parts,
            Err(error) => return Err((event, error)),
        };
        self.bytes += event.as_bytes().len();
        self.queue.push_back(Item {
            block: event.detached().into(),
            arrived: now,
            parts,
        });
        Ok(())
    }

    fn parts(&mut self, event: &Event, extract: &dyn Extract) -> Result<Vec<Part>, Unreadable> {
        let Found { texts, done } = find(event, extract)?;
        let mut parts = Vec::new();
        for text in texts {
            if text.channels.is_empty() {
                alone(&text, &mut parts);
            }
            for channel in &text.channels {
                self.going_on(&text, channel, &mut parts)?;
            }
        }
        done.iter().for_each(|name| self.finish(name));
        Ok(parts)
    }

    /// Nothing more comes in these channels.
    fn finish(&mut self, name: &str) {
        for (channel, state) in self.channels.range_mut(name.to_owned()..) {
            match channel.strip_prefix(name) {
                Some(rest) if rest.is_empty() || rest.starts_with(' ') => state.done = true,
                Some(_) => {}
                None => break,
            }
        }
    }

    /// Adds the parts of a text that goes on in a channel, one for each way in which it is read.
    fn going_on(
        &mut self,
        found: &Text,
        channel: &Name,
        parts: &mut Vec<Part>,
    ) -> Result<(), Unreadable> {
        let name = channel.name.replace('\0', "\u{2400}");
        if name.len() > CHANNEL_NAME {
            return Err(Unreadable::new("a text with a name of more than 256 bytes"));
        }
        for layer in 0..=found.more_layers {
            let key = key(&name, channel.is_alias, layer);
            if self.is_full() && !is_alias(&key) && !self.channels.contains_key(&key) {
                return Err(Unreadable::new("more than 1024 texts side by side"));
            }
            let channel = self.channels.entry(key.clone()).or_default();
            let (text, spelling) = channel.reader.read(&found.source, found.layers + layer);
            let at = channel.come;
            channel.come += text.len();
            channel.done = false;
            parts.push(Part {
                place: found.place.clone(),
                text,
                spelling,
                within: Some((key, at)),
            });
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        let going_on = || {
            let channels = self.channels.iter();
            channels.filter(|(key, channel)| !is_alias(key) && !channel.is_over())
        };
        self.channels.len() >= CHANNELS && going_on().count() >= CHANNELS
    }

    /// Forgets the texts that were finished first. What continues a text that is finished is judged with what came before,
    /// for as long as that is remembered.
    fn forget_finished(&mut self) {
        if self.channels.len() <= 2 * FINISHED {
            return;
        }
        let over = self.channels.values().filter(|channel| channel.is_over());
        let mut left: Vec<_> = over.map(|channel| channel.left).collect();
        let excess = left.len().saturating_sub(FINISHED);
        if excess > FINISHED {
            let (_, oldest, _) = left.select_nth_unstable(excess);
            let oldest = *oldest;
            self.channels
                .retain(|_, channel| !channel.is_over() || channel.left >= oldest);
        }
    }

    /// Takes what may leave: what came before `until`, and what is out of sight of anything that may still come.
    pub(super) fn take(
        &mut self,
        sight: Sight,
        until: Option<Instant>,
        all: bool,
    ) -> Option<Batch> {
        let due = |item: &Item| all || until.is_some_and(|until| item.arrived <= until);
        let forced = self.queue.iter().take_while(|item| due(item)).count();
        let free = self
            .queue
            .iter()
            .take_while(|item| self.is_free(item, sight))
            .count();
        let count = if forced > 0 || self.is_worth_judging(free, sight) {
            forced.max(free)
        } else {
            // What has no text has nothing to wait for but its turn.
            self.queue
                .iter()
                .take_while(|item| item.parts.is_empty())
                .count()
        };
        if count == 0 {
            return None;
        }
        let passages = self.passages(count);
        let items: Vec<_> = self.queue.drain(..count).collect();
        self.leave(&items, sight);
        Some(Batch { items, passages })
    }

    /// Whether enough text has come since the last time.
    fn is_worth_judging(&self, free: usize, sight: Sight) -> bool {
        if sight.size == 0 {
            return true;
        }
        let (mut bytes, mut complete) = (0, false);
        for item in self.queue.iter().take(free) {
            let mut goes_on = false;
            for part in &item.parts {
                let Some((key, _)) = &part.within else {
                    continue;
                };
                goes_on = true;
                complete |= self.channels.get(key).is_some_and(|channel| channel.done);
                if !is_alias(key) {
                    bytes += part.text.len();
                }
            }
            // A text by itself, such as an id, is judged with the text that goes on in its event.
            complete |= !goes_on && !item.parts.is_empty();
        }
        complete || bytes >= sight.size
    }

    /// Whether all texts of an item are farther from the end of their channel than anything reaches.
    fn is_free(&self, item: &Item, sight: Sight) -> bool {
        item.parts.iter().all(|part| match &part.within {
            None => true,
            Some((name, at)) => self.channels.get(name).is_none_or(|channel| {
                channel.done || part.ends(*at).saturating_add(sight.overlap) <= channel.come
            }),
        })
    }

    /// The passages that the first `count` items are part of.
    fn passages(&self, count: usize) -> Vec<(Of, Passage)> {
        let mut passages = Vec::new();
        let mut order: Vec<&str> = Vec::new();
        let mut texts: HashMap<&str, String> = HashMap::new();
        for (i, item) in self.queue.iter().take(count).enumerate() {
            for (p, part) in item.parts.iter().enumerate() {
                let Some((name, _)) = &part.within else {
                    let passage = Passage {
                        text: part.text.clone(),
                        sent: 0,
                        channel: None,
                    };
                    passages.push((Of::Part(i, p), passage));
                    continue;
                };
                texts.entry(name).or_insert_with(|| {
                    order.push(name);
                    let channel = self.channels.get(name);
                    channel.map_or_else(String::new, |channel| channel.context.clone())
                });
            }
        }
        for part in self.queue.iter().flat_map(|item| &item.parts) {
            if let Some((name, _)) = &part.within
                && let Some(text) = texts.get_mut(name.as_str())
            {
                text.push_str(&part.text);
            }
        }
        for name in order {
            let (Some(channel), Some(text)) = (self.channels.get(name), texts.remove(name)) else {
                continue;
            };
            let passage = Passage {
                text,
                sent: channel.context.len(),
                channel: Some(name_of(name).to_owned()),
            };
            let start = channel.sent - channel.context.len();
            passages.push((Of::Channel(name.to_owned(), start), passage));
        }
        passages
    }

    /// Remembers what the end of each channel is now.
    fn leave(&mut self, items: &[Item], sight: Sight) {
        for item in items {
            self.bytes -= item.block.as_bytes().len();
            self.left += 1;
            for part in &item.parts {
                let Some((name, at)) = &part.within else {
                    continue;
                };
                if let Some(channel) = self.channels.get_mut(name) {
                    channel.sent = at + part.text.len();
                    channel.left = self.left;
                    channel.context.push_str(&part.text);
                    // Twice, so that what is recognised by what stands before it still is.
                    let mut from = channel
                        .context
                        .len()
                        .saturating_sub(sight.overlap.saturating_mul(2));
                    while !channel.context.is_char_boundary(from) {
                        from -= 1;
                    }
                    channel.context.drain(..from);
                }
            }
        }
        self.forget_finished();
    }
}

impl Batch {
    /// What has to be judged, in order.
    pub(super) fn passages(&self) -> impl Iterator<Item = &Passage> {
        self.passages.iter().map(|(_, passage)| passage)
    }

    /// What the judge is asked about the passages.
    pub(super) fn questions(&self) -> Questions {
        Questions::new(self.passages.iter().map(|(of, passage)| {
            let is_alias = matches!(of, Of::Channel(key, _) if is_alias(key));
            (passage, is_alias)
        }))
    }

    /// The items as they came.
    pub(super) fn into_blocks(self) -> Vec<Block> {
        self.items.into_iter().map(|item| item.block).collect()
    }

    /// Whether the judgements, one for each passage, can be carried out.
    pub(super) fn check(&self, judgements: &[Judgement]) -> Result<(), InvalidMask> {
        for (passage, judgement) in self.passages().zip(judgements) {
            let Judgement::Mask(masks) = judgement else {
                continue;
            };
            for Mask { range, .. } in masks {
                if passage.text.get(range.clone()).is_none() {
                    let (range, bytes) = (range.clone(), passage.text.len());
                    return Err(InvalidMask { range, bytes });
                }
            }
        }
        Ok(())
    }

    /// Carries out the judgements, one for each passage. `None`: blocked.
    pub(super) fn settle(self, judgements: Vec<Judgement>) -> Option<Vec<Block>> {
        let Self { items, passages } = self;
        let none = |item: &Item| vec![Vec::new(); item.parts.len()];
        let mut masks: Vec<Vec<Vec<Mask>>> = items.iter().map(none).collect();
        // The masks of each channel, in order, and the byte of the channel that they count from.
        let mut found: HashMap<&str, (usize, Vec<Mask>)> = HashMap::new();
        for ((of, _), judgement) in passages.iter().zip(judgements) {
            let tidied = match judgement {
                Judgement::Pass => continue,
                Judgement::Block => return None,
                Judgement::Mask(found) => tidy(found),
            };
            match of {
                Of::Channel(key, start) => {
                    found.insert(key, (*start, tidied));
                }
                Of::Part(item, part) => masks[*item][*part] = tidied,
            }
        }
        for (item, masks) in items.iter().zip(&mut masks) {
            for (part, masks) in item.parts.iter().zip(masks) {
                if let Some((name, at)) = &part.within
                    && let Some((start, found)) = found.get(name.as_str())
                {
                    let begins = at - start;
                    let first = found.partition_point(|mask| mask.range.end <= begins);
                    let here = found[first..]
                        .iter()
                        .map_while(|mask| part.within(mask, begins));
                    masks.extend(here);
                }
            }
        }
        let blocks = items.into_iter().zip(masks).map(|(item, masks)| {
            let parts = item.parts.into_iter().zip(masks);
            let changed = parts.filter(|(_, masks)| !masks.is_empty());
            let changed = changed.map(|(part, masks)| {
                let edits = masks.into_iter().map(|mask| part.spelling.edit(mask));
                (part.place, edits.collect())
            });
            edit::rewrite(item.block, changed.collect())
        });
        Some(blocks.collect())
    }
}

/// Adds the parts of a text by itself, one for each way in which it is read, if they differ.
fn alone(found: &Text, parts: &mut Vec<Part>) {
    let mut before: Option<String> = None;
    for layer in 0..=found.more_layers {
        let (text, spelling) = Reader::whole(&found.source, found.layers + layer);
        if before.as_ref() == Some(&text) {
            break;
        }
        before = Some(text.clone());
        parts.push(Part {
            place: found.place.clone(),
            text,
            spelling,
            within: None,
        });
    }
}

/// Masks in order and apart from each other.
fn tidy(mut masks: Vec<Mask>) -> Vec<Mask> {
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

/// A mask that is not a part of its passage.
#[derive(Debug)]
pub(super) struct InvalidMask {
    range: Range<usize>,
    bytes: usize,
}

impl std::fmt::Display for InvalidMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a judge masked bytes {:?} of a passage of {} bytes: a mask lies within the passage and begins and ends \
             between two characters",
            self.range, self.bytes
        )
    }
}

impl std::error::Error for InvalidMask {}
