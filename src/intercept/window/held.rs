//! What is held back, in order, and the texts in it. No clock, no I/O.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    batch::{Batch, Early, Of, Rest},
    extract::{TextExtractor, Unreadable},
    find::{self, Name, Text, find},
    judge::{Mask, TextSegment},
    part::{ChannelMasks, Item, Part, add_masks, rewritten, tidy},
    reading::Reader,
    scan::{Found, Incremental, Scan, masks},
};
use crate::codec::{Block, Event};

/// Blocks that wait, and the state of each channel.
#[derive(Debug, Default)]
pub(super) struct Held {
    queue: VecDeque<Item>,
    bytes: usize,
    channels: BTreeMap<String, Channel>,
    /// How many texts have left.
    left: u64,
    /// Reads the texts as they come, where the judge can.
    scans: Option<Incremental>,
    /// A scan has found something that blocks.
    blocked: bool,
}

/// A text that goes on from event to event, read in one way; counted in bytes from its beginning.
#[derive(Default)]
struct Channel {
    /// What has left last.
    context: String,
    /// So much has left.
    sent: usize,
    /// So much has come.
    come: usize,
    done: bool,
    reader: Reader,
    /// When the last of it left, in texts of the stream.
    left: u64,
    scan: Option<Box<dyn Scan>>,
    /// The masks that the scan has found in text that is held: by first byte, pattern and end.
    found: BTreeMap<(usize, usize, usize), Option<Arc<str>>>,
    /// What it would find besides if the text ended here. `None`: not known.
    ending: Option<Vec<Found>>,
    /// The first byte of what blocks.
    blocked: Option<usize>,
}

/// Shows sizes, never the text.
impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("sent", &self.sent)
            .field("come", &self.come)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

impl Channel {
    /// Whether it is finished and nothing of it is held.
    fn is_over(&self) -> bool {
        self.done && self.sent == self.come
    }

    /// Scans some more of the text.
    fn read(&mut self, text: &str, scans: &Incremental) {
        let mut found = Vec::new();
        let scan = self.scan.get_or_insert_with(|| (scans.0)());
        scan.push(text, &mut found);
        self.ending = None;
        for found in found {
            self.note_block(&found);
            let Found {
                range,
                pattern,
                with,
            } = found;
            self.found.insert((range.start, pattern, range.end), with);
        }
    }

    /// Looks for what is found if nothing follows.
    fn read_ending(&mut self) {
        let (None, Some(scan)) = (&self.ending, &self.scan) else {
            return;
        };
        let mut ending = Vec::new();
        scan.finish(&mut ending);
        ending.iter().for_each(|found| self.note_block(found));
        self.ending = Some(ending);
    }

    fn note_block(&mut self, found: &Found) {
        if found.with.is_none() {
            let start = found.range.start;
            self.blocked = Some(self.blocked.map_or(start, |before| before.min(start)));
        }
    }

    /// Everything before this byte is decided, as far as a scan can tell.
    fn decided(&self) -> usize {
        match &self.scan {
            Some(scan) if !self.done => scan.undecided(),
            // A character that is not complete will not be.
            _ => usize::MAX,
        }
    }

    /// The masks of what has been found in the text up to this byte that has not left.
    fn masks(&self, until: usize) -> Vec<Mask> {
        let known = self.found.range(..(until, 0, 0)).map(|(key, with)| Found {
            range: key.0..key.2,
            pattern: key.1,
            with: with.clone(),
        });
        let ending = self.ending.iter().flatten().cloned();
        let found: Vec<_> = known.chain(ending).collect();
        tidy(masks(&found, 0))
    }

    /// The text has left up to this byte.
    fn forget(&mut self, until: usize) {
        if let Some(scan) = &mut self.scan {
            scan.forget(until);
        }
        let has_left = self.found.range(..(until, 0, 0)).map(|(key, _)| *key);
        let has_left: Vec<_> = has_left.filter(|key| key.2 <= until).collect();
        for key in has_left {
            self.found.remove(&key);
        }
    }
}

/// Why text has to leave.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    /// It does not have to: what is decided may leave.
    Decided,
    /// What came until then has waited long enough.
    Since(Instant),
    /// More than so many bytes are held.
    Above(usize),
    /// The stream is over: cleanly, or not.
    End { complete: bool },
}

/// What the scans of all texts let go.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) blocks: Vec<Block>,
    /// Nothing else may leave.
    pub(super) blocked: bool,
    pub(super) early: Early,
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

pub(super) fn is_alias(key: &str) -> bool {
    key.contains(READING)
}

fn name_of(key: &str) -> &str {
    key.split_once(READING).map_or(key, |(name, _)| name)
}

/// More channels than any answer has.
const CHANNELS: usize = 1024;

/// More readings of channels, and channels that usually have the text of another one, than any answer has.
const READINGS: usize = 16 * CHANNELS;

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

impl Sight {
    /// How much of what has left a judge sees.
    fn context(self) -> usize {
        if self.overlap == 0 {
            CONTEXT
        } else {
            // Twice, so that what is recognised by what stands before it still is.
            self.overlap.saturating_mul(2)
        }
    }
}

/// For a judge that says by itself what has to wait.
const CONTEXT: usize = 128;

impl Held {
    pub(super) fn new(scans: Option<Incremental>) -> Self {
        Self {
            scans,
            ..Self::default()
        }
    }

    /// Whether texts are scanned as they come, so that there is nothing to ask a judge.
    pub(super) fn is_scanning(&self) -> bool {
        self.scans.is_some()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest came.
    pub(super) fn since(&self) -> Option<Instant> {
        self.queue.front().map(|item| item.arrived)
    }

    /// Gives up everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.scans.take());
    }

    pub(super) fn push_block(&mut self, block: Block, now: Instant) {
        self.bytes += block.as_bytes().len();
        self.queue.push_back(Item {
            block: block.into_owned(),
            arrived: now,
            parts: Vec::new(),
        });
    }

    /// Takes in an event and finds the texts in it. Gives it back if it cannot be read in one way only.
    pub(super) fn push(
        &mut self,
        event: Event,
        extract: &dyn TextExtractor,
        now: Instant,
    ) -> Result<(), (Event, Unreadable)> {
        let parts = match self.parts(&event, extract) {
            Ok(parts) => parts,
            Err(error) => return Err((event, error)),
        };
        self.bytes += event.as_bytes().len();
        self.queue.push_back(Item {
            block: event.into_owned().into(),
            arrived: now,
            parts,
        });
        Ok(())
    }

    fn parts(
        &mut self,
        event: &Event,
        extract: &dyn TextExtractor,
    ) -> Result<Vec<Part>, Unreadable> {
        let find::Found {
            mut texts,
            mut done,
        } = find(event, extract)?;
        // Before any of the text counts: an event that fails must not be half taken in.
        self.open(&mut texts)?;
        let mut parts = Vec::new();
        for text in texts {
            if text.channels.is_empty() {
                self.alone(&text, &mut parts);
            }
            for channel in &text.channels {
                self.going_on(&text, channel, &mut parts);
            }
        }
        done.sort_unstable();
        done.dedup();
        done.iter().for_each(|name| self.finish(name));
        Ok(parts)
    }

    /// Nothing more comes in these channels.
    fn finish(&mut self, name: &str) {
        for (channel, state) in self.channels.range_mut(name.to_owned()..) {
            match channel.strip_prefix(name) {
                Some(rest) if rest.is_empty() || rest.starts_with(' ') => {
                    state.done = true;
                    state.read_ending();
                    self.blocked |= state.blocked.is_some();
                }
                Some(_) => {}
                None => break,
            }
        }
    }

    /// Makes sure that there is a channel for each reading of these texts, or adds none.
    fn open(&mut self, texts: &mut [Text]) -> Result<(), Unreadable> {
        let mut added = Vec::new();
        let opened = self.open_all(texts, &mut added);
        if opened.is_err() {
            for key in added {
                self.channels.remove(&key);
            }
        }
        opened
    }

    fn open_all(&mut self, texts: &mut [Text], added: &mut Vec<String>) -> Result<(), Unreadable> {
        for text in texts {
            for channel in &mut text.channels {
                if channel.name.contains('\0') {
                    channel.name = channel.name.replace('\0', "\u{2400}");
                }
                if channel.name.len() > CHANNEL_NAME {
                    return Err(Unreadable::new("a text with a name of more than 256 bytes"));
                }
                for layer in 0..=text.more_layers {
                    let key = key(&channel.name, channel.is_alias, layer);
                    if self.channels.contains_key(&key) {
                        continue;
                    }
                    if self.is_full(is_alias(&key)) {
                        return Err(Unreadable::new("more than 1024 texts side by side"));
                    }
                    self.channels.insert(key.clone(), Channel::default());
                    added.push(key);
                }
            }
        }
        Ok(())
    }

    /// Whether there are as many texts side by side as there may be: those that are aliases of others, or those that are not.
    fn is_full(&self, aliases: bool) -> bool {
        let most = if aliases { READINGS } else { CHANNELS };
        let going_on = || {
            let channels = self.channels.iter();
            channels.filter(|(key, channel)| is_alias(key) == aliases && !channel.is_over())
        };
        self.channels.len() >= most && going_on().count() >= most
    }

    /// Adds the parts of a text that goes on in a channel, one for each way in which it is read.
    fn going_on(&mut self, found: &Text, channel: &Name, parts: &mut Vec<Part>) {
        for layer in 0..=found.more_layers {
            let key = key(&channel.name, channel.is_alias, layer);
            let channel = self.channels.entry(key.clone()).or_default();
            let (text, spelling) = channel.reader.read(&found.source, found.layers + layer);
            let at = channel.come;
            channel.come += text.len();
            channel.done = false;
            if let Some(scans) = &self.scans {
                channel.read(&text, scans);
                self.blocked |= channel.blocked.is_some();
            }
            parts.push(Part {
                place: found.place.clone(),
                text,
                spelling,
                within: Some((key, at)),
                found: Vec::new(),
                masked: Vec::new(),
            });
        }
    }

    /// Adds the parts of a text by itself, one for each way in which it is read, if they differ.
    fn alone(&mut self, text: &Text, parts: &mut Vec<Part>) {
        let mut before: Option<String> = None;
        for layer in 0..=text.more_layers {
            let (read, spelling) = Reader::whole(&text.source, text.layers + layer);
            if before.as_ref() == Some(&read) {
                break;
            }
            before = Some(read.clone());
            let mut found = Vec::new();
            if let Some(scans) = &self.scans {
                let mut scan = (scans.0)();
                scan.push(&read, &mut found);
                scan.finish(&mut found);
                self.blocked |= found.iter().any(|found| found.with.is_none());
            }
            parts.push(Part {
                place: text.place.clone(),
                text: read,
                spelling,
                within: None,
                found,
                masked: Vec::new(),
            });
        }
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

    /// So many items have to leave.
    fn forced(&self, due: Due) -> usize {
        match due {
            Due::Decided | Due::End { complete: false } => 0,
            Due::Since(until) => {
                let due = |item: &&Item| item.arrived <= until;
                self.queue.iter().take_while(due).count()
            }
            Due::Above(_) | Due::End { complete: true } => self.queue.len(),
        }
    }

    /// Takes what may leave: what has to, and what is out of sight of anything that may still come.
    pub(super) fn take(&mut self, sight: Sight, due: Due) -> Option<Batch> {
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
    pub(super) fn settle(&mut self, rest: Rest, sight: Sight) {
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

    /// Takes what the scans of its texts let go.
    pub(super) fn take_scanned(&mut self, sight: Sight, due: Due) -> Scanned {
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

    /// How many items at the front have no text: they have nothing to wait for but their turn.
    fn without_text(&self) -> usize {
        let without = |item: &&Item| item.parts.is_empty();
        self.queue.iter().take_while(without).count()
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
        item.parts.iter().all(|part| self.is_in_sight(part, sight))
    }

    /// Whether as much of its channel has come behind a part as has to be seen.
    fn is_in_sight(&self, part: &Part, sight: Sight) -> bool {
        let Some((key, at)) = &part.within else {
            return true;
        };
        self.channels.get(key).is_none_or(|channel| {
            channel.done || part.ends(*at).saturating_add(sight.overlap) <= channel.come
        })
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

fn bytes_of(items: &[Item]) -> usize {
    items.iter().map(Item::bytes).sum()
}
