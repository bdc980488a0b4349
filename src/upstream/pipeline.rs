//! The fixed order of processing: decoded items in, repair of UTF-8, comments stripped, interceptors, blocks out.

use std::{
    error::Error as _,
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;
use tracing::Span;

use crate::{
    codec::{Block, Decoder, Item, PendingLf, SplitLineFeed},
    error::{Error, ErrorKind},
    intercept::{Chain, Finish, Output, catch},
    observe::{LiveStream, StreamEnded, StreamOutcome, StreamProgress, StreamReport},
    upstream::{budget::WorkBudget, sink::Sink, stream_watch::StreamWatch},
};

/// Turns the items of the decoder into the blocks that the client receives.
#[derive(Debug)]
#[repr(C)] // For the order of the fields; see `downstream::stream::Stream`.
pub(crate) struct Pipeline {
    strip_comments: bool,
    chain: Chain,
    line_feeds: SplitLineFeeds,
    watch: Option<Box<StreamWatch>>,
    /// Complete events of the upstream, if the stream is watched.
    events_in: u64,
    /// The events and bytes that the chain has forwarded.
    sent: Sent,
    /// The bytes of the upstream's body.
    bytes_in: u64,
    /// `None` once the end of the stream was reported, or the report was taken.
    report: Option<StreamReport>,
}

impl Pipeline {
    pub(crate) fn new(chain: Chain, strip_comments: bool, report: StreamReport) -> Self {
        Self {
            chain,
            strip_comments,
            line_feeds: SplitLineFeeds::default(),
            watch: None,
            events_in: 0,
            sent: Sent::default(),
            bytes_in: 0,
            report: Some(report),
        }
    }

    /// Watches the events. If the terminal event of the stream's API is missing, the stream ends as truncated, not as complete.
    pub(crate) fn with_watch(mut self, watch: Option<StreamWatch>) -> Self {
        self.watch = watch.map(Box::new);
        self
    }

    /// Sets the outcome that is reported if this is dropped before the end of the stream.
    pub(crate) fn set_drop_outcome(&mut self, outcome: StreamOutcome) {
        if let Some(report) = &mut self.report {
            report.set_drop_outcome(outcome);
        }
    }

    /// Counts bytes of the upstream's body.
    #[inline]
    pub(crate) fn count_received(&mut self, bytes: usize) {
        self.bytes_in += bytes as u64;
    }

    /// The observed stream. `None` without observers, and after the report was taken.
    pub(crate) fn live(&self) -> Option<&Arc<LiveStream>> {
        self.report.as_ref()?.live()
    }

    /// The span of the stream. Disabled after the report was taken.
    pub(crate) fn span(&self) -> Span {
        let report = self.report.as_ref();
        report.map_or_else(Span::none, |report| report.span().clone())
    }

    /// How far the stream has got.
    pub(crate) fn progress(&self) -> StreamProgress {
        StreamProgress {
            events_in: self.events_in,
            events_out: self.sent.events,
            bytes_in: self.bytes_in,
            bytes_out: self.sent.bytes,
        }
    }

    /// The last event of a stream that ends with this outcome before its upstream has ended it, in the form of the stream's API. `None`
    /// if the API is unknown, or if its terminal event has arrived.
    pub(crate) fn ending(&self, outcome: StreamOutcome) -> Option<Block> {
        self.watch.as_ref()?.ending(outcome)
    }

    /// Whether an event with content has arrived since the last call.
    pub(crate) fn take_content(&mut self) -> bool {
        self.watch
            .as_mut()
            .is_some_and(|watch| watch.take_content())
    }

    /// Whether the interceptors have no work left, so that [`drive`](Self::drive) would do nothing.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.chain.is_idle()
    }

    /// Moves items from the decoder through the chain until the decoder needs input, the sink is full, or there is something to
    /// [`drive`](Self::drive). Breaks when the time of the budget is used up. Must be [idle](Self::is_idle) when called.
    pub(super) fn feed(
        &mut self,
        decoder: &mut Decoder,
        sink: &mut impl Sink,
        budget: &mut WorkBudget,
    ) -> ControlFlow<()> {
        // One `catch` for many blocks: one for each block would cost more than most interceptors do.
        let fed = catch(|| {
            loop {
                if sink.is_full() {
                    return ControlFlow::Continue(());
                }
                if budget.charge_block() {
                    return ControlFlow::Break(());
                }
                if let Some(block) = decoder.next_whole_block() {
                    if let Some(block) = self.push_block(block, sink) {
                        // The whole chain has handled the block, and its memory is free for the next one.
                        decoder.recycle(block);
                        continue;
                    }
                } else if !decoder.has_input() {
                    return ControlFlow::Continue(());
                } else {
                    match decoder.next_item() {
                        Ok(Some(item)) => self.push(item, sink),
                        Ok(None) => return ControlFlow::Continue(()),
                        Err(error) => {
                            let error = Error::with_source(ErrorKind::EventTooLarge, error);
                            self.end(Finish::Failed(error));
                        }
                    }
                }
                if !self.is_idle() {
                    return ControlFlow::Continue(());
                }
            }
        });
        fed.unwrap_or_else(|panic| {
            self.chain.fail_asked(panic);
            ControlFlow::Continue(())
        })
    }

    /// Handles the unfinished rest of the upstream's data, and ends the stream as truncated.
    pub(crate) fn finish(&mut self, rest: Item, sink: &mut impl Sink) {
        match catch(|| self.push(rest, sink)) {
            Ok(()) => self.end(Finish::Truncated),
            Err(panic) => self.chain.fail_asked(panic),
        }
    }

    fn push(&mut self, item: Item, sink: &mut impl Sink) {
        let block = match item {
            Item::Event(event) => event.into(),
            Item::Block(block) => block,
            Item::Bom => return sink.byte_order_mark(),
            Item::SplitLineFeed(SplitLineFeed(of)) => {
                if self.line_feeds.handle_line_feed(of) {
                    sink.split_line_feed();
                }
                return;
            }
        };
        self.push_block(block, sink);
    }

    /// Sends a block through the chain. Returns it if its memory can be recycled.
    #[inline(always)]
    fn push_block(&mut self, mut block: Block, sink: &mut impl Sink) -> Option<Block> {
        if !self.chain.is_empty() {
            // Clients replace ill-formed UTF-8, so the interceptors have to see the replaced text.
            block.repair_utf8();
        }
        if self.strip_comments {
            block = block.without_comments()?;
        }
        if let Some(watch) = &self.watch {
            self.events_in += u64::from(block.is_event() && block.is_terminated());
            if watch.needs_received(&block) {
                block = self.watch_received(block);
            }
        }
        let Self {
            chain,
            line_feeds,
            sent,
            watch,
            ..
        } = self;
        chain.push(
            block,
            &mut ChainOutput {
                line_feeds,
                sent,
                watch,
                sink,
            },
        )
    }

    #[inline(never)] // Rarely called: most streams are not watched, or not for long.
    fn watch_received(&mut self, block: Block) -> Block {
        match &mut self.watch {
            Some(watch) => {
                let block = watch.handle_received(block);
                if watch.is_settled() {
                    self.watch = None;
                }
                block
            }
            None => block,
        }
    }

    /// Drives the work of the interceptors. Pending while a verdict is deferred. Once [ending](Self::is_ending), ready when all
    /// interceptors have handled the end.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>, sink: &mut impl Sink) -> Poll<()> {
        let Self {
            chain,
            line_feeds,
            sent,
            watch,
            ..
        } = self;
        chain.drive(
            cx,
            &mut ChainOutput {
                line_feeds,
                sent,
                watch,
                sink,
            },
        )
    }

    /// The bytes of the blocks that wait for interceptors.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.chain.waiting_bytes()
    }

    /// The time at which [`handle_timeout`](Self::handle_timeout) is due.
    #[inline] // See `Source::poll_frames` of `Pull`.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        self.chain.deadline()
    }

    /// Handles the timeouts of the interceptors that are due at `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.chain.handle_timeout(now);
    }

    /// Ends the stream with this finish, unless an interceptor has ended it already.
    pub(crate) fn end(&mut self, finish: Finish) {
        let watch = self.watch.as_ref();
        let is_missing = watch.is_some_and(|watch| watch.is_terminal_missing());
        self.chain.end(match finish {
            Finish::Complete if is_missing => Finish::Truncated,
            finish => finish,
        });
    }

    /// Whether the stream has ended, and the interceptors handle the end.
    pub(crate) fn is_ending(&self) -> bool {
        self.chain.is_ending()
    }

    /// Whether an interceptor has ended the stream.
    pub(crate) fn is_ended_by_interceptor(&self) -> bool {
        self.chain.has_ended_it()
    }

    /// Takes the result of the stream, and decides the outcome in its report. For a stream whose interceptors have handled the end.
    /// `Err` if the client must see an error.
    pub(crate) fn take_finish(&mut self) -> Result<(), Error> {
        let finish = self.chain.take_finish();
        let end = match &finish {
            Finish::Complete if self.is_ended_by_interceptor() => StreamEnded {
                is_cut: false,
                ..StreamEnded::of(StreamOutcome::Blocked)
            },
            Finish::Complete => StreamEnded::of(StreamOutcome::Completed),
            Finish::Truncated => StreamEnded::of(StreamOutcome::Truncated),
            Finish::Failed(error) => {
                let mut end = StreamEnded::failed(error.kind());
                // Only this kind has a source whose text comes from the crate: texts of interceptors and upstreams may hold secrets.
                if error.kind() == ErrorKind::Session {
                    end.cause = error.source().map(ToString::to_string).or(end.cause);
                }
                end
            }
        };
        if let Some(report) = &mut self.report
            // A clean end counts once the client has received it.
            && end.outcome != StreamOutcome::Completed
        {
            report.decide(end);
        }
        match finish {
            Finish::Complete | Finish::Truncated => Ok(()),
            Finish::Failed(error) => Err(error),
        }
    }

    /// Reports the outcome of the stream, unless another one is decided.
    pub(crate) fn close(&mut self, outcome: StreamOutcome) {
        if let Some(report) = self.take_report() {
            report.close(StreamEnded::of(outcome));
        }
    }

    /// Takes the report of a stream whose outcome has not been reported, with its final counts.
    pub(crate) fn take_report(&mut self) -> Option<StreamReport> {
        let mut report = self.report.take()?;
        report.events = Some(self.sent.events);
        if let Some(watch) = &mut self.watch {
            let (terminal_event, model) = watch.finish();
            report.terminal_event = terminal_event;
            report.model = model.map(Box::new);
        }
        Some(report)
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // Sets the number of events before the report is dropped.
        drop(self.take_report());
    }
}

/// The events and bytes that the chain has forwarded.
#[derive(Debug, Default)]
struct Sent {
    /// Complete events.
    events: u64,
    /// If the stream is watched.
    bytes: u64,
}

impl Sent {
    #[inline(always)]
    fn count(&mut self, block: &Block, is_watched: bool) {
        self.events += u64::from(block.is_event() && block.is_terminated());
        if is_watched {
            self.bytes += block.as_bytes().len() as u64;
        }
    }
}

/// The output of the chain: counts what leaves, and adds split line feeds.
struct ChainOutput<'a, S> {
    line_feeds: &'a mut SplitLineFeeds,
    sent: &'a mut Sent,
    watch: &'a mut Option<Box<StreamWatch>>,
    sink: &'a mut S,
}

impl<S: Sink> Output for ChainOutput<'_, S> {
    fn block(&mut self, mut block: Block) {
        if let Some(watch) = self.watch
            && watch.needs_sent()
        {
            block = watch.handle_sent(block);
        }
        let is_watched = self.watch.is_some();
        let line_feed_follows = block
            .pending_lf()
            .is_some_and(|pending| self.line_feeds.handle_block(pending));
        self.sent.count(&block, is_watched);
        self.sink.block(block);
        if line_feed_follows {
            self.sink.split_line_feed();
        }
    }

    #[inline(always)]
    fn extend(&mut self, block: &Block) -> bool {
        let watch = self.watch.as_ref();
        if watch.is_some_and(|watch| watch.needs_sent()) {
            return false;
        }
        let extends = block.pending_lf().is_none() && self.sink.extend(block);
        if extends {
            self.sent.count(block, watch.is_some());
        }
        extends
    }
}

/// Matches each LF at the start of a chunk with the block of an earlier chunk whose last CR it completes.
///
/// A block that ends in a CR is dispatched without waiting for an LF (WHATWG HTML 9.2.5). The LF follows its block: it is dropped
/// if the block was dropped or rewritten, and it waits while an interceptor holds the block.
#[derive(Debug, Default)]
struct SplitLineFeeds {
    /// The last block that was sent without the LF that may complete it.
    last_sent: Option<PendingLf>,
    /// LFs whose block has not been sent, the newest last.
    waiting: Vec<PendingLf>,
}

impl SplitLineFeeds {
    /// The maximum number of LFs that wait. Beyond it the oldest is dropped, which is harmless: the CR has ended the line.
    const MAX_WAITING: usize = 256;

    /// Handles an LF of the upstream. Returns whether it can be sent: its block was the last one that was sent.
    fn handle_line_feed(&mut self, of: PendingLf) -> bool {
        if self.last_sent == Some(of) {
            return true;
        }
        if self.waiting.len() == Self::MAX_WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push(of);
        false
    }

    /// Handles a block that is sent without its LF. Returns whether the LF has arrived, and has to follow the block.
    fn handle_block(&mut self, pending: PendingLf) -> bool {
        self.last_sent = Some(pending);
        match self.waiting.iter().position(|of| *of == pending) {
            Some(at) => {
                self.waiting.remove(at);
                true
            }
            None => false,
        }
    }
}
