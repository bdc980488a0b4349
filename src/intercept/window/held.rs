//! What is held back, in order, and the texts in it. No clock, no I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use tokio::time::Instant;

use super::{
    edit::{self, Place},
    extract::{Extract, Texts, Unreadable, leaves},
    judge::{Judgement, Mask, Passage},
};
use crate::{
    codec::{Block, Event},
    intercept::{Json, JsonValue},
};

/// Blocks that wait, and the state of each channel.
#[derive(Debug, Default)]
pub(super) struct Held {
    queue: VecDeque<Item>,
    bytes: usize,
    channels: BTreeMap<String, Channel>,
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
    /// The channel that it goes on in, and at which byte of that; a text by itself has none.
    within: Option<(String, usize)>,
}

impl Part {
    fn ends(&self, at: usize) -> usize {
        at + self.text.len()
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
    Channel(usize),
    Part(usize, usize),
}

/// More channels than any answer has.
const CHANNELS: usize = 1024;

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
        let json = Json::parse(event.data()).ok();
        let mut texts = Texts::default();
        extract.extract(event, json.as_ref().map(Json::root), &mut texts);
        let Texts {
            deltas,
            plain,
            done,
            known,
        } = texts;

        let mut parts = Vec::new();
        if let Some(json) = &json
            && plain.is_none()
        {
            for leaf in leaves(json)? {
                let is = |value: &JsonValue<'_>| std::ptr::eq(value.raw(), leaf.raw());
                if known.iter().any(is) {
                    continue;
                }
                let delta = deltas.iter().find(|(_, value)| is(value));
                let channel = delta.map(|(channel, _)| channel.clone());
                let text = leaf.as_str().unwrap_or(leaf.raw().into()).into_owned();
                parts.push((channel, Place::Json(json.place(leaf)), text));
            }
        } else {
            parts.push((plain, Place::Data, event.data().into_owned()));
        }
        let parts = parts.into_iter().filter(|(_, _, text)| !text.is_empty());
        let parts = parts.map(|(channel, place, text)| self.part(channel, place, text));
        let parts = parts.collect::<Result<_, _>>()?;
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

    fn part(
        &mut self,
        channel: Option<String>,
        place: Place,
        text: String,
    ) -> Result<Part, Unreadable> {
        let within = match channel {
            None => None,
            Some(name) => {
                if name.len() > CHANNEL_NAME {
                    return Err(Unreadable::new("a text with a name of more than 256 bytes"));
                }
                if self.channels.len() >= CHANNELS && !self.channels.contains_key(&name) {
                    return Err(Unreadable::new("more than 1024 texts side by side"));
                }
                let channel = self.channels.entry(name.clone()).or_default();
                let at = channel.come;
                channel.come += text.len();
                channel.done = false;
                Some((name, at))
            }
        };
        Ok(Part {
            place,
            text,
            within,
        })
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
        let text = self.queue.iter().take(free).flat_map(|item| &item.parts);
        let done = |part: &Part| match &part.within {
            Some((name, _)) => self.channels.get(name).is_some_and(|channel| channel.done),
            None => true,
        };
        let (mut bytes, mut complete) = (0, false);
        for part in text {
            bytes += part.text.len();
            complete |= done(part);
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
        let mut channels: Vec<&str> = Vec::new();
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
                if !channels.contains(&name.as_str()) {
                    channels.push(name);
                }
            }
        }
        for name in channels {
            let Some(channel) = self.channels.get(name) else {
                continue;
            };
            let mut text = channel.context.clone();
            let parts = self.queue.iter().flat_map(|item| &item.parts);
            for part in parts {
                if part.within.as_ref().is_some_and(|(of, _)| of == name) {
                    text.push_str(&part.text);
                }
            }
            let passage = Passage {
                text,
                sent: channel.context.len(),
                channel: Some(name.to_owned()),
            };
            passages.push((Of::Channel(channel.sent - channel.context.len()), passage));
        }
        passages
    }

    /// Remembers what the end of each channel is now.
    fn leave(&mut self, items: &[Item], sight: Sight) {
        for item in items {
            self.bytes -= item.block.as_bytes().len();
            for part in &item.parts {
                let Some((name, at)) = &part.within else {
                    continue;
                };
                if let Some(channel) = self.channels.get_mut(name) {
                    channel.sent = part.ends(*at);
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
        self.channels
            .retain(|_, channel| !channel.done || channel.sent < channel.come);
    }
}

impl Batch {
    /// What has to be judged, in order.
    pub(super) fn passages(&self) -> impl Iterator<Item = &Passage> {
        self.passages.iter().map(|(_, passage)| passage)
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
        for ((of, passage), judgement) in passages.iter().zip(judgements) {
            let found = match judgement {
                Judgement::Pass => continue,
                Judgement::Block => return None,
                Judgement::Mask(found) => tidy(found),
            };
            let start = match of {
                Of::Channel(start) => start,
                Of::Part(item, part) => {
                    masks[*item][*part] = found;
                    continue;
                }
            };
            for (item, masks) in items.iter().zip(&mut masks) {
                for (part, masks) in item.parts.iter().zip(masks) {
                    if let Some((name, at)) = &part.within
                        && Some(name) == passage.channel.as_ref()
                    {
                        let here = at - start..part.ends(*at) - start;
                        masks.extend(found.iter().filter_map(|mask| within(mask, &here)));
                    }
                }
            }
        }
        let blocks = items.into_iter().zip(masks).map(|(item, masks)| {
            let parts = item.parts.into_iter().zip(masks);
            let changed = parts.filter(|(_, masks)| !masks.is_empty());
            let changed = changed.map(|(part, masks)| (part.place, masked(&part.text, &masks)));
            edit::rewrite(item.block, changed.collect())
        });
        Some(blocks.collect())
    }
}

/// The part of a mask that falls on a text that stands there in the passage.
fn within(mask: &Mask, here: &Range<usize>) -> Option<Mask> {
    let range = mask.range.start.max(here.start)..mask.range.end.min(here.end);
    // What stands in place of the whole stands where it begins.
    let begins = here.contains(&mask.range.start);
    (range.start < range.end).then(|| Mask {
        range: range.start - here.start..range.end - here.start,
        with: if begins {
            mask.with.clone()
        } else {
            String::new()
        },
    })
}

/// Masks in order and apart from each other.
fn tidy(mut masks: Vec<Mask>) -> Vec<Mask> {
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

fn masked(text: &str, masks: &[Mask]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for mask in masks {
        out.push_str(&text[from..mask.range.start]);
        out.push_str(&mask.with);
        from = mask.range.end;
    }
    out.push_str(&text[from..]);
    out
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
