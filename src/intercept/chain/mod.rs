//! Runs the blocks of one stream through its interceptors, in order.

mod deferred;
mod stage;

use std::{
    cmp::max,
    hint::black_box,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use sync_wrapper::SyncWrapper;
use tokio::time::Instant;
use tower::BoxError;

use super::{Interceptor, MakeInterceptor, StreamEnd, StreamHead, Verdict, catch, drop_caught};
use crate::{
    codec::{Block, Event},
    error::{Error, ErrorKind},
};
use deferred::Deferred;
use stage::{Stage, call};

/// Receives the blocks that the whole chain has forwarded.
pub(crate) trait Output {
    /// Takes a block.
    fn block(&mut self, block: Block);

    /// Takes the bytes of a block without the block, if they directly follow the last bytes in the same chunk. Returns whether it
    /// did.
    fn extend(&mut self, block: &Block) -> bool;
}

/// The shortest time between two timeouts. Without it, an interceptor whose deadline stays in the past would spin.
const TIMEOUT_PAUSE: Duration = Duration::from_millis(1);

/// Runs blocks through the interceptors of one stream.
///
/// A stack keeps the order: the blocks that a stage forwards pass the later stages before any block that arrived later. A
/// deferred verdict stops its own stage and the stages before it. Later stages may still release held blocks, because these
/// are older.
#[derive(Debug, Default)]
#[repr(C)] // See `Stream`.
pub(crate) struct Chain {
    stages: Vec<Stage>,
    /// Blocks inside the chain, the oldest on top, each with the stage that sees it next.
    in_flight: Vec<(usize, Block)>,
    /// Verdicts that are not ready, each of a later stage than the one below it.
    deferred: Vec<Deferred>,
    /// The stages before this one have ended or failed. Blocks in front of them are dropped.
    closed: usize,
    /// The stage that [`push`](Self::push) called last.
    asked: usize,
    ending: Option<Ending>,
    /// The stage that ended the stream by its verdict. The verdict of its `end` is ignored.
    ended_by: Option<usize>,
    last_timeout: Option<Instant>,
}

#[derive(Debug)]
struct Ending {
    finish: Finish,
    /// The stage whose `end` is called next.
    next: usize,
}

/// How a stream ends: all ends but a disconnect of the client.
#[derive(Debug)]
pub(crate) enum Finish {
    Complete,
    Truncated,
    Failed(Error),
}

impl Finish {
    fn as_end(&self) -> StreamEnd<'_> {
        match self {
            Finish::Complete => StreamEnd::Complete,
            Finish::Truncated => StreamEnd::Truncated,
            Finish::Failed(error) => StreamEnd::Failed(error),
        }
    }
}

impl Chain {
    /// Opens the interceptors of a stream.
    ///
    /// # Errors
    /// A factory panicked. The interceptors that are open have then been ended.
    pub(crate) fn open(
        factories: &[Arc<dyn MakeInterceptor>],
        head: &StreamHead<'_>,
    ) -> Result<Self, Error> {
        let mut chain = Self::default();
        // Growth by pushes would allocate up to twice the memory.
        chain.stages.reserve_exact(factories.len());
        for factory in factories {
            let opened = match catch(|| factory.open(head)) {
                Ok(opened) => opened,
                Err(panic) => {
                    chain.end_all(&panic);
                    return Err(panic);
                }
            };
            if let Some(interceptor) = opened {
                chain.stages.push(Stage {
                    interceptor: SyncWrapper::new(interceptor),
                    fails_open: factory.fails_open(),
                    time_limit: factory.deferral_limit(),
                    panicked: false,
                });
            }
        }
        Ok(chain)
    }

    /// Ends the interceptors that are open, because the stream cannot be opened. Their verdicts are dropped.
    fn end_all(&mut self, error: &Error) {
        for mut stage in self.stages.drain(..) {
            let interceptor = stage.interceptor.get_mut();
            let _ = catch(|| interceptor.end(StreamEnd::Failed(error)));
            drop_caught(stage);
        }
    }

    /// Inserts a stage before all others.
    pub(crate) fn put_first(&mut self, interceptor: impl Interceptor) {
        let stage = Stage {
            interceptor: SyncWrapper::new(Box::new(interceptor)),
            fails_open: false,
            time_limit: None,
            panicked: false,
        };
        self.stages.reserve_exact(1);
        self.stages.insert(0, stage);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Whether [`drive`](Self::drive) has nothing to do.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.deferred.is_empty() && self.ending.is_none()
    }

    /// Passes the next block through the chain. The chain must be [idle](Self::is_idle). Returns the block if the output did
    /// not take it, so that the decoder can reuse its memory.
    ///
    /// # Panics
    /// If an interceptor panics. The caller catches the panic and calls [`fail_asked`](Self::fail_asked). A `catch` for each
    /// block would cost more than most interceptors.
    #[inline(always)]
    pub(crate) fn push(&mut self, mut block: Block, out: &mut impl Output) -> Option<Block> {
        debug_assert!(self.is_idle());
        // In the common case, in which every stage forwards, the block touches neither stack.
        for stage in 0.. {
            let Some(at) = self.stages.get_mut(stage) else {
                break;
            };
            // `black_box` keeps the block in memory. Otherwise the compiler splits it into registers and writes it back word by
            // word before the call, and the load of the whole block in the interceptor stalls on these writes.
            let seen = black_box(&block);
            let (is_event, original) = (seen.is_event(), at.original(seen));
            self.asked = stage;
            let interceptor = at.interceptor.get_mut();
            // Not `call`, which would move the block once more.
            let verdict = if is_event {
                interceptor.event(Event::of(block))
            } else {
                interceptor.block(block)
            };
            match verdict {
                Verdict::Forward(next) => block = next,
                other => {
                    self.settle(stage, original, Ok(other));
                    return None;
                }
            }
        }
        hand_out(block, out)
    }

    /// Fails the stage that [`push`](Self::push) called last, because it panicked.
    pub(crate) fn fail_asked(&mut self, panic: Error) {
        self.fail(self.asked, panic);
    }

    /// Begins the end of the stream, unless it has begun. [`drive`](Self::drive) then ends the stages one after the other.
    pub(crate) fn end(&mut self, finish: Finish) {
        self.ending.get_or_insert(Ending { finish, next: 0 });
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Whether a stage ended the stream by its verdict.
    pub(crate) fn has_ended_it(&self) -> bool {
        self.ended_by.is_some()
    }

    /// Returns how the stream ended. Call it once, after [`drive`](Self::drive) is ready and the chain was ending.
    pub(crate) fn take_finish(&mut self) -> Finish {
        match &mut self.ending {
            Some(ending) => std::mem::replace(&mut ending.finish, Finish::Complete),
            None => Finish::Complete,
        }
    }

    /// Passes blocks on as far as possible. Pending while a verdict is deferred.
    #[inline(never)] // For the reason at `Stream::poll_frame`.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>, out: &mut impl Output) -> Poll<()> {
        for deferred in &mut self.deferred {
            deferred.poll(cx);
        }
        loop {
            // Blocks after the last deferred stage are older than the blocks that its verdict will forward.
            if let Some((stage, block)) = self.next_in_flight() {
                if stage >= self.stages.len() {
                    drop(hand_out(block, out));
                } else {
                    let original = self.stages[stage].original(&block);
                    let interceptor = self.stages[stage].interceptor.get_mut();
                    let verdict = catch(|| call(interceptor.as_mut(), block));
                    self.settle(stage, original, verdict);
                }
            } else if let Some(deferred) = self.deferred.pop_if(|d| d.result.is_some()) {
                let result = deferred.result.map(SyncWrapper::into_inner);
                let verdict = result.unwrap_or(Ok(Verdict::Drop));
                drop_caught(deferred.future);
                match verdict {
                    // The time limit covers both futures together.
                    Ok(Verdict::Defer(next)) => {
                        self.defer(deferred.stage, deferred.original, next, deferred.deadline);
                    }
                    verdict => self.settle(deferred.stage, deferred.original, verdict),
                }
            } else if !self.deferred.is_empty() {
                return Poll::Pending;
            } else if !self.end_next() {
                return Poll::Ready(());
            }
            if let Some(deferred) = self.deferred.last_mut() {
                deferred.poll(cx);
            }
        }
    }

    /// The bytes of the blocks that wait inside the chain. Blocks that an interceptor has stored itself do not count.
    pub(crate) fn waiting_bytes(&self) -> usize {
        let in_flight = self.in_flight.iter().map(|(_, block)| block);
        let deferred = self.deferred.iter().filter_map(|d| d.original.as_ref());
        let blocks = in_flight.chain(deferred);
        blocks.map(|block| block.as_bytes().len()).sum()
    }

    /// The time at which to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        let free = self.first_free();
        let closed = self.closed;
        let held = (free..self.stages.len()).filter_map(|stage| self.stage_deadline(stage));
        let held = held.min();
        if self.closed > closed {
            // The call of `deadline` panicked. The stream may have no other wake-up in which to handle that.
            return Some(Instant::now());
        }
        let held = match self.last_timeout {
            Some(last) => held.map(|at| max(at, last + TIMEOUT_PAUSE)),
            None => held,
        };
        let pending = self.deferred.iter().filter(|d| d.result.is_none());
        let deferred = pending.filter_map(|d| d.deadline).min();
        held.into_iter().chain(deferred).min()
    }

    /// Fails deferred verdicts that exceeded their limit, and calls `timeout` of the last stage whose deadline has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for deferred in &mut self.deferred {
            if deferred.result.is_none() && deferred.deadline.is_some_and(|at| at <= now) {
                let late = Error::new(ErrorKind::InterceptorTimedOut);
                deferred.result = Some(SyncWrapper::new(Err(late)));
            }
        }
        // The last stage first: its held blocks are older than those of earlier stages.
        for stage in (self.first_free()..self.stages.len()).rev() {
            if self.stage_deadline(stage).is_some_and(|at| at <= now) {
                self.last_timeout = Some(now);
                let interceptor = self.stages[stage].interceptor.get_mut();
                let verdict = catch(|| interceptor.timeout(now.into_std()));
                return self.settle(stage, None, verdict);
            }
        }
    }

    /// The first stage after all deferred verdicts.
    fn first_free(&self) -> usize {
        self.deferred
            .last()
            .map_or(0, |deferred| deferred.stage + 1)
    }

    fn stage_deadline(&mut self, stage: usize) -> Option<Instant> {
        let ended = self.ending.as_ref().map_or(0, |ending| ending.next);
        if stage < max(self.closed, ended) {
            return None;
        }
        let interceptor = self.stages[stage].interceptor.get_mut();
        match catch(|| interceptor.deadline()) {
            Ok(at) => at.map(Instant::from_std),
            Err(error) => {
                self.fail(stage, error);
                None
            }
        }
    }

    fn next_in_flight(&mut self) -> Option<(usize, Block)> {
        let free = self.first_free();
        loop {
            let next = self.in_flight.pop_if(|(stage, _)| *stage >= free)?;
            if next.0 >= self.closed {
                return Some(next);
            }
        }
    }

    /// Ends the next stage. Returns false if there is none.
    fn end_next(&mut self) -> bool {
        let Some(ending) = &mut self.ending else {
            return false;
        };
        let Some(stage) = self.stages.get_mut(ending.next) else {
            return false;
        };
        let at = ending.next;
        ending.next += 1;
        let verdict = catch(|| stage.interceptor.get_mut().end(ending.finish.as_end()));
        if !stage.panicked && self.ended_by != Some(at) {
            self.settle(at, None, verdict);
        }
        true
    }

    /// Applies a verdict of a stage. `original` is a copy of the block that it is about.
    fn settle(&mut self, stage: usize, original: Option<Block>, verdict: Result<Verdict, Error>) {
        match verdict {
            Ok(Verdict::Forward(block)) => self.in_flight.push((stage + 1, block)),
            Ok(Verdict::Replace(mut blocks)) => {
                if let Some(original) = original {
                    move_id(&original, &mut blocks);
                }
                self.forward_all(stage, blocks);
            }
            Ok(Verdict::Release(blocks)) => self.forward_all(stage, blocks),
            Ok(Verdict::Drop | Verdict::Hold) => {}
            Ok(Verdict::End(blocks)) => {
                if !self.is_ending() {
                    self.in_flight.clear();
                    self.deferred.drain(..).for_each(drop_caught);
                    self.closed = max(self.closed, stage + 1);
                    self.ended_by = Some(stage);
                    self.end(Finish::Complete);
                }
                self.forward_all(stage, blocks);
            }
            Ok(Verdict::Defer(verdict)) => {
                let limit = self.stages[stage].time_limit;
                // A time beyond the range of the clock is no limit.
                let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
                self.defer(stage, original, verdict, deadline);
            }
            Err(error)
                if self.stages[stage].fails_open
                    && !matches!(
                        error.kind(),
                        ErrorKind::InterceptorPanicked | ErrorKind::Blocked
                    ) =>
            {
                self.in_flight
                    .extend(original.map(|block| (stage + 1, block)));
            }
            Err(error) => self.fail(stage, error),
        }
    }

    fn defer(
        &mut self,
        stage: usize,
        original: Option<Block>,
        future: BoxFuture<'static, Result<Verdict, BoxError>>,
        deadline: Option<Instant>,
    ) {
        self.deferred.push(Deferred {
            stage,
            future: SyncWrapper::new(future),
            result: None,
            deadline,
            original,
        });
    }

    fn forward_all(&mut self, stage: usize, blocks: Vec<Block>) {
        let blocks = blocks.into_iter().rev();
        self.in_flight
            .extend(blocks.map(|block| (stage + 1, block)));
    }

    /// Fails a stage: drops the blocks in front of it, and lets the stream end with the error.
    fn fail(&mut self, stage: usize, error: Error) {
        if let Some(stage) = self.stages.get_mut(stage) {
            stage.panicked |= error.kind() == ErrorKind::InterceptorPanicked;
        }
        self.in_flight.clear();
        self.deferred.drain(..).for_each(drop_caught);
        self.closed = max(self.closed, stage + 1);
        match &mut self.ending {
            Some(ending) if !matches!(ending.finish, Finish::Failed(_)) => {
                ending.finish = Finish::Failed(error);
            }
            Some(_) => {}
            None => self.end(Finish::Failed(error)),
        }
    }
}

/// Gives a block to the output. Returns it if the output did not take it.
#[inline(always)]
fn hand_out(block: Block, out: &mut impl Output) -> Option<Block> {
    if out.extend(&block) {
        return Some(block);
    }
    out.block(block);
    None
}

/// Ends the interceptors that are still open: the client is gone.
impl Drop for Chain {
    fn drop(&mut self) {
        let ended = self.ending.as_ref().map_or(0, |ending| ending.next);
        for stage in self.stages.iter_mut().skip(ended) {
            let interceptor = stage.interceptor.get_mut();
            let _ = catch(|| interceptor.end(StreamEnd::ClientGone));
        }
        self.stages.drain(..).for_each(drop_caught);
        self.deferred.drain(..).for_each(drop_caught);
    }
}

/// Copies the id of the original block to the last event, unless one of the blocks has an id.
fn move_id(original: &Block, blocks: &mut [Block]) {
    let Some(id) = original.id() else { return };
    if blocks.iter().any(Block::has_id) {
        return;
    }
    let Some(last) = blocks.iter_mut().rfind(|block| block.is_event()) else {
        return;
    };
    // An id from the wire is valid: it contains no line end and no NUL.
    if let Ok(mut event) = Event::from_block(last.clone())
        && event.set_id(id).is_ok()
    {
        *last = event.into();
    }
}
