//! The held blocks of a stream, in order, and the texts in them. No clock, no I/O.

mod by_decision;
mod by_scan;
mod channel_state;
mod rules;

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

use super::{
    channel_key::{is_alias, key},
    find::{ChannelRef, EventText, find},
    item::{Item, Reading},
    leaves::Unreadable,
    reading::TextReader,
    scan::StartScan,
    texts::TextExtractor,
};
use crate::{
    codec::{Block, Event},
    intercept::BodyShape,
};
use channel_state::ChannelState;
pub(super) use rules::{Cause, HoldRules};

/// The maximum number of channels with unfinished or held text.
const MAX_CHANNELS: usize = 1024;

/// The maximum number of readings and aliases of channels with unfinished or held text.
const MAX_READINGS: usize = 16 * MAX_CHANNELS;

/// The window remembers at least this number of finished channels, and at most twice as many.
const FINISHED_CHANNELS: usize = 1024;

/// The maximum length of a channel name, in bytes.
const MAX_CHANNEL_NAME: usize = 256;

/// The held blocks of a stream, and the state of each channel.
#[derive(Debug, Default)]
pub(super) struct HeldBlocks {
    queue: VecDeque<Item>,
    /// The size of the queue.
    bytes: usize,
    channels: BTreeMap<String, ChannelState>,
    /// The number of texts that were sent.
    sent_texts: u64,
    shape: BodyShape,
    /// Starts the scan of a text, if the judge has one.
    start_scan: Option<StartScan>,
    /// Whether a scan has found a match that blocks.
    has_block: bool,
}

impl HeldBlocks {
    pub(super) fn new(shape: BodyShape, start_scan: Option<StartScan>) -> Self {
        Self {
            shape,
            start_scan,
            ..Self::default()
        }
    }

    /// Whether texts are scanned as they arrive. The judge is then not asked.
    pub(super) fn is_scanning(&self) -> bool {
        self.start_scan.is_some()
    }

    /// Whether the only event is a whole JSON body, so that no text follows.
    pub(super) fn is_whole(&self) -> bool {
        self.shape == BodyShape::Json
    }

    /// The size of the held blocks, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest held block arrived.
    pub(super) fn since(&self) -> Option<Instant> {
        self.queue.front().map(|item| item.arrived)
    }

    /// Drops all held blocks and channels.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.shape, self.start_scan.take());
    }

    /// Adds a block without text.
    pub(super) fn push_block(&mut self, block: Block, now: Instant) {
        self.bytes += block.as_bytes().len();
        self.queue.push_back(Item {
            block: block.into_owned(),
            arrived: now,
            readings: Vec::new(),
        });
    }

    /// Adds an event and its texts.
    ///
    /// # Errors
    /// Readers may interpret the event differently. The error contains the event, and the state is unchanged.
    pub(super) fn push(
        &mut self,
        event: Event,
        extractor: &dyn TextExtractor,
        now: Instant,
    ) -> Result<(), (Event, Unreadable)> {
        let readings = match self.readings(&event, extractor) {
            Ok(readings) => readings,
            Err(error) => return Err((event, error)),
        };
        self.bytes += event.as_bytes().len();
        self.queue.push_back(Item {
            block: event.into_owned().into(),
            arrived: now,
            readings,
        });
        Ok(())
    }

    fn readings(
        &mut self,
        event: &Event,
        extractor: &dyn TextExtractor,
    ) -> Result<Vec<Reading>, Unreadable> {
        let found = find(event, self.shape, extractor)?;
        let (mut texts, mut finished) = (found.texts, found.finished);
        // Before any text is appended: an event that fails must not change a channel.
        self.open(&mut texts)?;
        let mut readings = Vec::new();
        for text in texts {
            if text.channels.is_empty() {
                self.read_separately(&text, &mut readings);
            }
            for channel in &text.channels {
                self.append(&text, channel, &mut readings);
            }
        }
        finished.sort_unstable();
        finished.dedup();
        finished.iter().for_each(|name| self.finish(name));
        Ok(readings)
    }

    /// Finishes a channel, and the channels with names that begin with this name and a space.
    fn finish(&mut self, name: &str) {
        for (channel, state) in self.channels.range_mut(name.to_owned()..) {
            match channel.strip_prefix(name) {
                Some(rest) if rest.is_empty() || rest.starts_with(' ') => {
                    state.finished = true;
                    state.scan_end();
                    self.has_block |= state.block_at.is_some();
                }
                Some(_) => {}
                None => break,
            }
        }
    }

    /// Adds the channels of these texts that do not exist yet. Adds none if one of them exceeds a limit.
    fn open(&mut self, texts: &mut [EventText]) -> Result<(), Unreadable> {
        let mut added = Vec::new();
        let opened = self.open_each(texts, &mut added);
        if opened.is_err() {
            for key in added {
                self.channels.remove(&key);
            }
        }
        opened
    }

    fn open_each(
        &mut self,
        texts: &mut [EventText],
        added: &mut Vec<String>,
    ) -> Result<(), Unreadable> {
        for text in texts {
            for channel in &mut text.channels {
                if channel.name.contains('\0') {
                    channel.name = channel.name.replace('\0', "\u{2400}");
                }
                if channel.name.len() > MAX_CHANNEL_NAME {
                    return Err(Unreadable::new(
                        "a text channel with a name of more than 256 bytes",
                    ));
                }
                for layer in 0..=text.more_layers {
                    let key = key(&channel.name, channel.is_alias, layer);
                    if self.channels.contains_key(&key) {
                        continue;
                    }
                    if self.is_full(is_alias(&key)) {
                        return Err(Unreadable::new("more than 1024 unfinished text channels"));
                    }
                    self.channels.insert(key.clone(), ChannelState::default());
                    added.push(key);
                }
            }
        }
        Ok(())
    }

    /// Whether the number of channels has reached its limit. Aliases and other channels have separate limits. The size of a JSON body
    /// limits its channels.
    fn is_full(&self, aliases: bool) -> bool {
        if self.is_whole() {
            return false;
        }
        let limit = if aliases { MAX_READINGS } else { MAX_CHANNELS };
        let in_use = || {
            let channels = self.channels.iter();
            channels.filter(|(key, channel)| is_alias(key) == aliases && !channel.is_idle())
        };
        self.channels.len() >= limit && in_use().count() >= limit
    }

    /// Appends a text to a channel, and adds its readings.
    fn append(&mut self, text: &EventText, channel: &ChannelRef, readings: &mut Vec<Reading>) {
        for layer in 0..=text.more_layers {
            let key = key(&channel.name, channel.is_alias, layer);
            let channel = self.channels.entry(key.clone()).or_default();
            let (read, spelling) = channel.reader.read(&text.source, text.layers + layer);
            let start = channel.received;
            channel.received += read.len();
            channel.finished = false;
            if let Some(start_scan) = &self.start_scan {
                channel.scan(&read, start_scan);
                self.has_block |= channel.block_at.is_some();
            }
            readings.push(Reading {
                location: text.location.clone(),
                text: read,
                spelling,
                position: Some((key, start)),
                matches: Vec::new(),
                masked: Vec::new(),
            });
        }
    }

    /// Adds the readings of a text of one event only. Skips a reading that equals the previous one.
    fn read_separately(&mut self, text: &EventText, readings: &mut Vec<Reading>) {
        let mut before: Option<String> = None;
        for layer in 0..=text.more_layers {
            let (read, spelling) = TextReader::whole(&text.source, text.layers + layer);
            if before.as_ref() == Some(&read) {
                break;
            }
            before = Some(read.clone());
            let mut matches = Vec::new();
            if let Some(start_scan) = &self.start_scan {
                let mut scan = (start_scan.0)();
                scan.push(&read, &mut matches);
                scan.finish(&mut matches);
                self.has_block |= matches.iter().any(|found| found.mask.is_none());
                if matches.is_empty() && self.is_whole() {
                    // It would have no effect, and a body may have very many texts.
                    continue;
                }
            }
            readings.push(Reading {
                location: text.location.clone(),
                text: read,
                spelling,
                position: None,
                matches,
                masked: Vec::new(),
            });
        }
    }

    /// Removes the finished channels of which text was sent least recently. Text of a finished channel that is still in the
    /// map continues it, so the judge sees it with the text before.
    fn forget_finished(&mut self) {
        if self.channels.len() <= 2 * FINISHED_CHANNELS {
            return;
        }
        let idle = self.channels.values().filter(|channel| channel.is_idle());
        let mut last_sent: Vec<_> = idle.map(|channel| channel.last_sent).collect();
        let excess = last_sent.len().saturating_sub(FINISHED_CHANNELS);
        if excess > FINISHED_CHANNELS {
            let (_, oldest, _) = last_sent.select_nth_unstable(excess);
            let oldest = *oldest;
            self.channels
                .retain(|_, channel| !channel.is_idle() || channel.last_sent >= oldest);
        }
    }

    /// The number of items that must be sent.
    fn forced(&self, cause: Cause) -> usize {
        match cause {
            Cause::Decided | Cause::End { complete: false } => 0,
            Cause::Since(until) => {
                let is_due = |item: &&Item| item.arrived <= until;
                self.queue.iter().take_while(is_due).count()
            }
            Cause::Above(_) | Cause::End { complete: true } => self.queue.len(),
        }
    }

    /// The number of items at the front that have no text, so they wait for nothing.
    fn leading_without_text(&self) -> usize {
        let without = |item: &&Item| item.readings.is_empty();
        self.queue.iter().take_while(without).count()
    }

    /// Whether the first `count` items have enough text for a batch, or a complete text.
    fn is_worth_judging(&self, count: usize, rules: HoldRules) -> bool {
        if rules.min_batch == 0 {
            return true;
        }
        let (mut bytes, mut complete) = (0, false);
        for item in self.queue.iter().take(count) {
            let mut has_channel = false;
            for reading in &item.readings {
                let Some((key, _)) = &reading.position else {
                    continue;
                };
                has_channel = true;
                complete |= self
                    .channels
                    .get(key)
                    .is_some_and(|channel| channel.finished);
                if !is_alias(key) {
                    bytes += reading.text.len();
                }
            }
            // If the event has a channel as well, its other texts, such as an id, wait for the batch of the channel.
            complete |= !has_channel && !item.readings.is_empty();
        }
        complete || bytes >= rules.min_batch
    }

    /// Whether enough text follows each text of an item.
    fn is_free(&self, item: &Item, rules: HoldRules) -> bool {
        let mut readings = item.readings.iter();
        readings.all(|reading| self.has_overlap(reading, rules))
    }

    /// Whether the channel of a text is finished or has received the overlap after this text.
    fn has_overlap(&self, reading: &Reading, rules: HoldRules) -> bool {
        let Some((key, start)) = &reading.position else {
            return true;
        };
        self.channels.get(key).is_none_or(|channel| {
            channel.finished
                || reading.end(*start).saturating_add(rules.overlap) <= channel.received
        })
    }
}

fn bytes_of(items: &[Item]) -> usize {
    items.iter().map(Item::bytes).sum()
}
