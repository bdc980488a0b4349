//! Watches the events of a stream: its terminal event, its progress, and the facts that a model API reports.

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
    needs_received: Need,
    /// See [`needs_sent`](Self::needs_sent).
    needs_sent: bool,
}

/// Which blocks of the upstream the watch has to handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    None,
    /// The few events that may end the stream of a known API, or report facts about it. See [`StreamWatch::may_tell`].
    Some,
    Each,
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
            needs_received: Need::Each,
            needs_sent: false,
        }
    }

    /// Also watches for the facts that observers need.
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

    /// Whether [`handle_received`](Self::handle_received) needs this block. Between two calls of [`take_content`](Self::take_content), a
    /// stream needs each block up to the first content, and few after that.
    #[inline]
    pub(super) fn needs_received(&self, block: &Block) -> bool {
        match self.needs_received {
            Need::None => false,
            Need::Some => self.may_tell(block),
            Need::Each => true,
        }
    }

    fn may_tell(&self, block: &Block) -> bool {
        let observed = self.observed.as_ref();
        block.is_event()
            && (self.terminal.may_settle(block)
                || observed.is_some_and(|observed| observed.model.may_report(block)))
    }

    /// Whether [`handle_sent`](Self::handle_sent) needs the next block.
    #[inline]
    pub(super) fn needs_sent(&self) -> bool {
        self.needs_sent
    }

    /// Decides which blocks are needed. Each event would otherwise cost these checks.
    fn update_needs(&mut self) {
        let terminal = &self.terminal;
        let observed = self.observed.as_ref();
        let needs_each = !terminal.knows_api()
            || observed.is_some_and(|observed| {
                !observed.has_content || !observed.model.knows_api() || observed.live.taps.any()
            });
        let is_settled =
            terminal.is_settled() && observed.is_none_or(|observed| observed.model.is_settled());
        self.needs_received = match (needs_each, is_settled) {
            (true, _) => Need::Each,
            (false, true) => Need::None,
            (false, false) => Need::Some,
        };
        self.needs_sent = observed.is_some_and(|observed| {
            let awaits_terminal = !observed.is_terminal_sent && terminal.arrived().is_some();
            awaits_terminal || (!observed.live.is_recorded && observed.live.taps.any())
        });
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
        self.update_needs();
        event.into_block()
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
        self.update_needs();
        event.into_block()
    }

    /// The last event of a stream that ends with this outcome before its upstream has ended it. `None` if the API is unknown, or if its
    /// terminal event has arrived.
    pub(super) fn ending(&self, outcome: StreamOutcome) -> Option<Block> {
        let model = self.observed.as_ref().map(|observed| &observed.model);
        let event = match self.terminal.expected() {
            Some(family) => family.error_event(outcome)?,
            // Gemini has no terminal event, and is therefore no `Family`.
            None if model.is_some_and(|model| model.family() == Some(ModelFamily::Gemini)) => {
                gemini_error_event(outcome)
            }
            None => return None,
        };
        Some(event.into())
    }

    /// Whether an event with content has arrived since the last call.
    pub(crate) fn take_content(&mut self) -> bool {
        let observed = self.observed.as_mut();
        let has_content =
            observed.is_some_and(|observed| std::mem::take(&mut observed.has_content));
        self.update_needs();
        has_content
    }

    /// The facts at the end of the stream: whether the terminal event was sent, and the report of a model API.
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
