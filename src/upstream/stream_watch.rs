//! Watches what the events of a stream tell about it: its terminal event, its progress, and what a model API reports.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    codec::{Block, Event},
    observe::{EventClass, LiveStream, ModelFamily, ModelReport, StreamOutcome, TapSide},
    upstream::{
        classify::classify,
        model_watch::ModelWatch,
        terminal::{TerminalWatch, gemini_error_event},
    },
};

/// Decides the class of an event.
pub(crate) type Classify = Arc<dyn Fn(&Event) -> EventClass + Send + Sync>;

/// Watches the events of one stream.
pub(crate) struct StreamWatch {
    terminal: TerminalWatch,
    /// For a stream that is observed.
    observed: Option<Observed>,
}

struct Observed {
    live: Arc<LiveStream>,
    /// `None` for the [default](classify).
    classify: Option<Classify>,
    model: ModelWatch,
    /// An event with content has arrived since the last call of [`StreamWatch::take_content`]. Until then events are classified.
    has_content: bool,
    is_terminal_sent: bool,
}

impl StreamWatch {
    /// Watches for the terminal event. `answers_post`: whether the stream is the response to a `POST`.
    pub(crate) fn new(answers_post: bool) -> Self {
        Self {
            terminal: TerminalWatch::new(answers_post),
            observed: None,
        }
    }

    /// Also watches for what observers are told.
    pub(crate) fn observed(mut self, live: Arc<LiveStream>, classify: Option<Classify>) -> Self {
        self.observed = Some(Observed {
            live,
            classify,
            model: ModelWatch::default(),
            has_content: false,
            is_terminal_sent: false,
        });
        self
    }

    /// Whether the rest of the stream need not be watched.
    pub(super) fn is_settled(&self) -> bool {
        self.observed.is_none() && self.terminal.is_settled()
    }

    /// Whether the terminal event of the stream's API is missing.
    pub(super) fn is_terminal_missing(&self) -> bool {
        self.terminal.is_missing()
    }

    /// Handles the next block of the upstream, and returns it unchanged. A truncated event counts like a complete one: the stream
    /// is reported as truncated anyway.
    pub(super) fn handle_received(&mut self, block: Block) -> Block {
        if let Some(observed) = &self.observed
            && observed.live.taps.any()
        {
            let raw = Bytes::copy_from_slice(block.as_bytes());
            observed.live.taps.send(TapSide::Upstream, &raw);
        }
        if !block.is_event() {
            return block;
        }
        let event = Event::of(block);
        if !self.terminal.is_settled() {
            self.terminal.observe(&event);
        }
        if let Some(observed) = &mut self.observed {
            observed.model.observe(&event);
            if !observed.has_content {
                let class = match &observed.classify {
                    Some(classify) => classify(&event),
                    None => classify(&event),
                };
                observed.has_content = class == EventClass::Content;
            }
        }
        event.into_block()
    }

    /// Whether [`handle_sent`](Self::handle_sent) needs the next block.
    pub(super) fn needs_sent(&self) -> bool {
        self.observed.as_ref().is_some_and(|observed| {
            let awaits_terminal = !observed.is_terminal_sent && self.terminal.arrived().is_some();
            awaits_terminal || (!observed.live.is_recorded && observed.live.taps.any())
        })
    }

    /// Handles a block that the interceptors have forwarded, and returns it unchanged.
    pub(super) fn handle_sent(&mut self, block: Block) -> Block {
        let Some(observed) = &mut self.observed else {
            return block;
        };
        if !observed.live.is_recorded && observed.live.taps.any() {
            let raw = Bytes::copy_from_slice(block.as_bytes());
            observed.live.taps.send(TapSide::Client, &raw);
        }
        let Some(family) = self.terminal.arrived() else {
            return block;
        };
        if !block.is_event() || !block.is_terminated() {
            return block;
        }
        let event = Event::of(block);
        observed.is_terminal_sent |= family.is_terminal(&event);
        event.into_block()
    }

    /// The last event of a stream that ends with this outcome before its upstream has ended it. `None` if the API is unknown, or if its
    /// terminal event has arrived.
    pub(super) fn ending(&self, outcome: StreamOutcome) -> Option<Block> {
        let model = self.observed.as_ref().map(|observed| &observed.model);
        let event = match self.terminal.expected() {
            Some(family) => family.error_event(outcome)?,
            // Has no terminal event.
            None if model.is_some_and(|model| model.family() == Some(ModelFamily::Gemini)) => {
                gemini_error_event(outcome)
            }
            None => return None,
        };
        Some(event.into())
    }

    /// Whether an event with content has arrived since the last call.
    pub(crate) fn take_content(&mut self) -> bool {
        self.observed
            .as_mut()
            .is_some_and(|observed| std::mem::take(&mut observed.has_content))
    }

    /// What is known at the end of the stream: whether the terminal event was sent, and what a model API reported.
    pub(super) fn finish(&self) -> (bool, Option<ModelReport>) {
        match &self.observed {
            Some(observed) => (observed.is_terminal_sent, observed.model.report()),
            None => (false, None),
        }
    }
}

impl std::fmt::Debug for StreamWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamWatch")
            .field("terminal", &self.terminal)
            .field("is_observed", &self.observed.is_some())
            .finish_non_exhaustive()
    }
}
