//! What is held back, in order, and the texts in it. No clock, no I/O.

mod channel_state;
mod judged;
mod scanned;

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

use super::{
    channel_key::{is_alias, key},
    find::{self, Name, Text, find},
    item::{Item, Part},
    leaves::Unreadable,
    reading::Reader,
    scan::Incremental,
    texts::TextExtractor,
};
use crate::codec::{Block, Event};
use channel_state::Channel;

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
}

fn bytes_of(items: &[Item]) -> usize {
    items.iter().map(Item::bytes).sum()
}
