//! The one order in which a stream is dealt with: pieces in, through the interceptors, blocks out.

use std::{
    error::Error as _,
    ops::ControlFlow,
    task::{Context, Poll},
};

use tokio::time::Instant;

use crate::{
    codec::{Block, Decoder, Item, PendingLf, SplitLineFeed},
    error::{Error, ErrorKind},
    intercept::{Chain, Finish, Output, catch},
    observe::report::{StreamOutcome, StreamReport},
    upstream::{budget::WorkBudget, sink::Sink, terminal::TerminalWatch},
};

/// Turns pieces of the wire into what the client gets.
#[derive(Debug)]
#[repr(C)] // See `Stream`.
pub(crate) struct Pipeline {
    strip_comments: bool,
    chain: Chain,
    late: SplitLineFeeds,
    watch: Option<Box<TerminalWatch>>,
    /// Events that went through the whole chain.
    events: u64,
    // Gone once the end has been dealt with.
    report: Option<StreamReport>,
}

impl Pipeline {
    pub(crate) fn new(chain: Chain, strip_comments: bool, report: StreamReport) -> Self {
        Self {
            chain,
            strip_comments,
            late: SplitLineFeeds::default(),
            watch: None,
            events: 0,
            report: Some(report),
        }
    }

    /// Tells the interceptors that the stream is truncated if it ends without the terminal event that this watches for.
    pub(crate) fn watched(mut self, watch: Option<TerminalWatch>) -> Self {
        self.watch = watch.map(Box::new);
        self
    }

    /// Sets the outcome that is reported if this is dropped before the end of the stream.
    pub(crate) fn set_drop_outcome(&mut self, outcome: StreamOutcome) {
        if let Some(report) = &mut self.report {
            report.drop_outcome = outcome;
        }
    }

    /// Whether there is nothing to [`drive`](Self::drive).
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.chain.is_idle()
    }

    /// Takes in pieces until the decoder has no more, the sink is full, or there is something to
    /// [`drive`](Self::drive). Breaks when the time of the budget is used up. Only while [idle](Self::is_idle).
    pub(super) fn feed(
        &mut self,
        decoder: &mut Decoder,
        sink: &mut impl Sink,
        budget: &mut WorkBudget,
    ) -> ControlFlow<()> {
        // Caught once for many blocks.
        let fed = catch(|| {
            loop {
                if sink.is_full() {
                    return ControlFlow::Continue(());
                }
                if budget.charge_block() {
                    return ControlFlow::Break(());
                }
                if let Some(block) = decoder.next_event_block() {
                    if let Some(block) = self.push_block(block, sink) {
                        // It went straight through, and left nothing to do.
                        decoder.recycle(block);
                        continue;
                    }
                } else {
                    match decoder.next_item() {
                        Ok(Some(piece)) => self.push(piece, sink),
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

    /// The input is over, and this is left of it.
    pub(crate) fn finish(&mut self, rest: Item, sink: &mut impl Sink) {
        match catch(|| self.push(rest, sink)) {
            Ok(()) => self.end(Finish::Truncated),
            Err(panic) => self.chain.fail_asked(panic),
        }
    }

    fn push(&mut self, piece: Item, sink: &mut impl Sink) {
        let block = match piece {
            Item::Event(event) => event.into(),
            Item::Block(block) => block,
            Item::Bom => return sink.byte_order_mark(),
            Item::SplitLineFeed(SplitLineFeed(of)) => {
                if self.late.came(of) {
                    sink.split_line_feed();
                }
                return;
            }
        };
        self.push_block(block, sink);
    }

    /// Takes in a block. Returns it if it is needed no more.
    #[inline(always)]
    fn push_block(&mut self, mut block: Block, sink: &mut impl Sink) -> Option<Block> {
        if !self.chain.is_empty() {
            // The chain gets to see what any client can read in the block, and nothing else can be read in it.
            block.repair_utf8();
        }
        if self.strip_comments {
            block = block.without_comments()?;
        }
        if self.watch.is_some() {
            block = self.observe(block);
        }
        let Self {
            chain,
            late,
            events,
            ..
        } = self;
        chain.push(block, &mut Settled { late, events, sink })
    }

    #[inline(never)] // Most streams have no terminal event.
    fn observe(&mut self, block: Block) -> Block {
        match &mut self.watch {
            Some(watch) => {
                let block = watch.observe(block);
                if watch.is_settled() {
                    self.watch = None;
                }
                block
            }
            None => block,
        }
    }

    pub(crate) fn drive(&mut self, cx: &mut Context<'_>, sink: &mut impl Sink) -> Poll<()> {
        let Self {
            chain,
            late,
            events,
            ..
        } = self;
        chain.drive(cx, &mut Settled { late, events, sink })
    }

    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        self.chain.deadline()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.chain.handle_timeout(now);
    }

    /// The stream is over, for this reason unless an interceptor has ended it already.
    pub(crate) fn end(&mut self, finish: Finish) {
        let is_missing = self.watch.as_ref().is_some_and(|watch| watch.is_missing());
        self.chain.end(match finish {
            Finish::Complete if is_missing => Finish::Truncated,
            finish => finish,
        });
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.chain.is_ending()
    }

    /// Whether an interceptor has ended the stream.
    pub(crate) fn is_ended_by_interceptor(&self) -> bool {
        self.chain.has_ended_it()
    }

    /// Whether the client is to see a cut; once the end has been dealt with.
    pub(crate) fn take_finish(&mut self) -> Result<(), Error> {
        let finish = self.chain.take_finish();
        let failed = match &finish {
            Finish::Complete => None,
            Finish::Truncated => Some(StreamOutcome::Truncated),
            Finish::Failed(error) => Some(StreamOutcome::Failed(error.kind())),
        };
        // Other sources are texts of interceptors and upstreams.
        let cause = match &finish {
            Finish::Failed(error) if error.kind() == ErrorKind::Session => {
                error.source().map(ToString::to_string)
            }
            _ => None,
        };
        if let Some(outcome) = failed
            && let Some(mut report) = self.take_report()
        {
            report.close_because(outcome, cause.as_deref());
        }
        match finish {
            Finish::Complete | Finish::Truncated => Ok(()),
            Finish::Failed(error) => Err(error),
        }
    }

    /// Reports how the stream ended, unless that has been reported.
    pub(crate) fn close(&mut self, outcome: StreamOutcome) {
        if let Some(mut report) = self.take_report() {
            report.close(outcome);
        }
    }

    /// The report of a stream that is not closed yet, for the last part of its way.
    pub(crate) fn take_report(&mut self) -> Option<StreamReport> {
        let mut report = self.report.take()?;
        report.events = Some(self.events);
        Some(report)
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // With the number of events.
        drop(self.take_report());
    }
}

/// The end of the chain.
struct Settled<'a, S> {
    late: &'a mut SplitLineFeeds,
    events: &'a mut u64,
    sink: &'a mut S,
}

impl<S: Sink> Output for Settled<'_, S> {
    fn block(&mut self, block: Block) {
        let complete = block
            .pending_lf()
            .is_some_and(|open_end| self.late.left(open_end));
        *self.events += u64::from(block.is_event() && block.is_terminated());
        self.sink.block(block);
        if complete {
            self.sink.split_line_feed();
        }
    }

    #[inline(always)]
    fn extend(&mut self, block: &Block) -> bool {
        let extends = block.pending_lf().is_none() && self.sink.extend(block);
        *self.events += u64::from(extends && block.is_event());
        extends
    }
}

/// Which CRs have left whose LF has not come yet, and the other way round.
///
/// A block that ends in a CR is sent at once, and the LF that may follow shares its fate: if the block was
/// dropped or rewritten the LF goes nowhere, and if the block is still held the LF waits for it.
#[derive(Debug, Default)]
struct SplitLineFeeds {
    /// The last block that left with an open end.
    left: Option<PendingLf>,
    /// LFs whose block has not left, the newest last.
    waiting: Vec<PendingLf>,
}

impl SplitLineFeeds {
    /// More blocks than this are not held by anyone who means to send them on as they were. Losing the LF of
    /// one costs nothing: the CR has ended the line.
    const MOST: usize = 256;

    /// An LF came. Whether its CR has left.
    fn came(&mut self, of: PendingLf) -> bool {
        if self.left == Some(of) {
            return true;
        }
        if self.waiting.len() == Self::MOST {
            self.waiting.remove(0);
        }
        self.waiting.push(of);
        false
    }

    /// A block with an open end leaves. Whether its LF has come.
    fn left(&mut self, open_end: PendingLf) -> bool {
        self.left = Some(open_end);
        match self.waiting.iter().position(|of| *of == open_end) {
            Some(at) => {
                self.waiting.remove(at);
                true
            }
            None => false,
        }
    }
}
