//! The interceptors of one stream, in order, and the blocks on their way through them.

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
use stage::{Stage, ask};

/// Takes what the whole chain has let through.
pub(crate) trait Output {
    fn block(&mut self, block: Block);

    /// Does the same if the block is not needed for it. Whether it has.
    fn extend(&mut self, block: &Block) -> bool;
}

/// An interceptor whose deadline stays in the past is asked once in this time, not in a loop.
const TIMEOUT_PAUSE: Duration = Duration::from_millis(1);

/// Runs blocks through the interceptors of one stream.
///
/// Order is kept by a stack: what a stage lets through is dealt with before anything that came later. A
/// deferred verdict stops everything at its own stage and before; later stages may still give up what they
/// hold, since that is older.
#[derive(Debug, Default)]
#[repr(C)] // See `Stream`.
pub(crate) struct Chain {
    stages: Vec<Stage>,
    /// Blocks on their way, the oldest on top, each with the stage that sees it next.
    way: Vec<(usize, Block)>,
    /// Verdicts not known yet; each belongs to a later stage than the one below it.
    deferred: Vec<Deferred>,
    /// Stages before this one have ended or failed: what would go through them goes nowhere.
    closed: usize,
    /// The stage that [`push`](Self::push) asked last.
    asked: usize,
    ending: Option<Ending>,
    /// The stage that ended the stream by its verdict: it has said its last word.
    ended_by: Option<usize>,
    last_timeout: Option<Instant>,
}

#[derive(Debug)]
struct Ending {
    finish: Finish,
    /// The stage that is told next.
    next: usize,
}

/// How a stream ends, as far as the server's side is concerned.
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
    /// Opens the interceptors that care for a stream with this head.
    pub(crate) fn open(
        intercepts: &[Arc<dyn MakeInterceptor>],
        head: &StreamHead<'_>,
    ) -> Result<Self, Error> {
        let mut chain = Self::default();
        // Grown by and by it would take twice as much.
        chain.stages.reserve_exact(intercepts.len());
        for intercept in intercepts {
            let opened = match catch(|| intercept.open(head)) {
                Ok(opened) => opened,
                Err(panic) => {
                    chain.tell_of_failure(&panic);
                    return Err(panic);
                }
            };
            if let Some(interceptor) = opened {
                chain.stages.push(Stage {
                    interceptor: SyncWrapper::new(interceptor),
                    fails_open: intercept.fails_open(),
                    time_limit: intercept.deferral_limit(),
                    panicked: false,
                });
            }
        }
        Ok(chain)
    }

    /// Nothing comes of the stream: those that are open already need to know, and have nobody to send to.
    fn tell_of_failure(&mut self, error: &Error) {
        for mut stage in self.stages.drain(..) {
            let interceptor = stage.interceptor.get_mut();
            let _ = catch(|| interceptor.end(StreamEnd::Failed(error)));
            drop_caught(stage);
        }
    }

    /// Puts a stage before all others.
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

    /// Whether there is nothing to [`drive`](Self::drive).
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.way.is_empty() && self.deferred.is_empty() && self.ending.is_none()
    }

    /// Takes in the next block. Only while [idle](Self::is_idle). Returns it if it is needed no more.
    ///
    /// A panic of an interceptor comes through; whoever catches it tells [`fail_asked`](Self::fail_asked). To
    /// catch it here would cost more than most interceptors do.
    #[inline(always)]
    pub(crate) fn push(&mut self, mut block: Block, out: &mut impl Output) -> Option<Block> {
        debug_assert!(self.is_idle());
        // The common case touches neither stack: every stage forwards.
        for stage in 0.. {
            let Some(at) = self.stages.get_mut(stage) else {
                break;
            };
            // Looked at where it lies. Taken apart it would be put together word by word for the interceptor, which moves it on as
            // a whole, and a processor has to wait before it can do that with what was just written.
            let seen = black_box(&block);
            let (is_event, original) = (seen.is_event(), at.original(seen));
            self.asked = stage;
            let interceptor = at.interceptor.get_mut();
            // Not by `ask`: it would move the block once more.
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

    /// The interceptor that was asked last has panicked.
    pub(crate) fn fail_asked(&mut self, panic: Error) {
        self.fail(self.asked, panic);
    }

    /// Tells the stages one after the other that the stream is over, unless it is already.
    pub(crate) fn end(&mut self, finish: Finish) {
        self.ending.get_or_insert(Ending { finish, next: 0 });
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Whether a stage has ended the stream by its verdict.
    pub(crate) fn has_ended_it(&self) -> bool {
        self.ended_by.is_some()
    }

    /// How the stream ended; after [`drive`](Self::drive) is ready and the chain was ending.
    pub(crate) fn take_finish(&mut self) -> Finish {
        match &mut self.ending {
            Some(ending) => std::mem::replace(&mut ending.finish, Finish::Complete),
            None => Finish::Complete,
        }
    }

    /// Moves on what can be moved. Pending while a verdict is deferred.
    #[inline(never)] // As `Stream::poll_frame`.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>, out: &mut impl Output) -> Poll<()> {
        for deferred in &mut self.deferred {
            deferred.poll(cx);
        }
        loop {
            // What is on its way beyond the last deferral is older than what the deferral will let through.
            if let Some((stage, block)) = self.next_on_way() {
                if stage >= self.stages.len() {
                    drop(hand_out(block, out));
                } else {
                    let original = self.stages[stage].original(&block);
                    let interceptor = self.stages[stage].interceptor.get_mut();
                    let verdict = catch(|| ask(interceptor.as_mut(), block));
                    self.settle(stage, original, verdict);
                }
            } else if let Some(deferred) = self.deferred.pop_if(|d| d.known.is_some()) {
                let known = deferred.known.map(SyncWrapper::into_inner);
                let verdict = known.unwrap_or(Ok(Verdict::Drop));
                drop_caught(deferred.verdict);
                match verdict {
                    // The time limit is for all of it.
                    Ok(Verdict::Defer(next)) => {
                        self.defer(deferred.stage, deferred.original, next, deferred.until);
                    }
                    verdict => self.settle(deferred.stage, deferred.original, verdict),
                }
            } else if !self.deferred.is_empty() {
                return Poll::Pending;
            } else if !self.tell_next() {
                return Poll::Ready(());
            }
            if let Some(deferred) = self.deferred.last_mut() {
                deferred.poll(cx);
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        let free = self.first_free();
        let closed = self.closed;
        let held = (free..self.stages.len()).filter_map(|stage| self.stage_deadline(stage));
        let held = held.min();
        if self.closed > closed {
            // One panicked when it was asked. Nobody else may wake the stream to deal with that.
            return Some(Instant::now());
        }
        let held = match self.last_timeout {
            Some(last) => held.map(|at| max(at, last + TIMEOUT_PAUSE)),
            None => held,
        };
        let unknown = self.deferred.iter().filter(|d| d.known.is_none());
        let deferred = unknown.filter_map(|d| d.until).min();
        held.into_iter().chain(deferred).min()
    }

    /// Fails verdicts that took too long, and asks the last stage that is due for what it holds.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for deferred in &mut self.deferred {
            if deferred.known.is_none() && deferred.until.is_some_and(|until| until <= now) {
                let late = Error::new(ErrorKind::InterceptorTimedOut);
                deferred.known = Some(SyncWrapper::new(Err(late)));
            }
        }
        // The last stage first: what it holds is older than what an earlier one holds.
        for stage in (self.first_free()..self.stages.len()).rev() {
            if self.stage_deadline(stage).is_some_and(|at| at <= now) {
                self.last_timeout = Some(now);
                let interceptor = self.stages[stage].interceptor.get_mut();
                let verdict = catch(|| interceptor.timeout(now.into_std()));
                return self.settle(stage, None, verdict);
            }
        }
    }

    /// Stages from here on have no deferred verdict at or after them.
    fn first_free(&self) -> usize {
        self.deferred
            .last()
            .map_or(0, |deferred| deferred.stage + 1)
    }

    fn stage_deadline(&mut self, stage: usize) -> Option<Instant> {
        let told = self.ending.as_ref().map_or(0, |ending| ending.next);
        if stage < max(self.closed, told) {
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

    fn next_on_way(&mut self) -> Option<(usize, Block)> {
        let free = self.first_free();
        loop {
            let next = self.way.pop_if(|(stage, _)| *stage >= free)?;
            if next.0 >= self.closed {
                return Some(next);
            }
        }
    }

    /// Tells one more stage that the stream is over. False if there is none to tell.
    fn tell_next(&mut self) -> bool {
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

    fn settle(&mut self, stage: usize, original: Option<Block>, verdict: Result<Verdict, Error>) {
        match verdict {
            Ok(Verdict::Forward(block)) => self.way.push((stage + 1, block)),
            Ok(Verdict::Replace(mut blocks)) => {
                if let Some(original) = original {
                    move_id(&original, &mut blocks);
                }
                self.send_on(stage, blocks);
            }
            Ok(Verdict::Release(blocks)) => self.send_on(stage, blocks),
            Ok(Verdict::Drop | Verdict::Hold) => {}
            Ok(Verdict::End(blocks)) => {
                if !self.is_ending() {
                    self.way.clear();
                    self.deferred.drain(..).for_each(drop_caught);
                    self.closed = max(self.closed, stage + 1);
                    self.ended_by = Some(stage);
                    self.end(Finish::Complete);
                }
                self.send_on(stage, blocks);
            }
            Ok(Verdict::Defer(verdict)) => {
                let limit = self.stages[stage].time_limit;
                // A time that no clock can tell is no limit.
                let until = limit.and_then(|limit| Instant::now().checked_add(limit));
                self.defer(stage, original, verdict, until);
            }
            Err(error)
                if self.stages[stage].fails_open
                    && error.kind() != ErrorKind::InterceptorPanicked =>
            {
                self.way.extend(original.map(|block| (stage + 1, block)));
            }
            Err(error) => self.fail(stage, error),
        }
    }

    fn defer(
        &mut self,
        stage: usize,
        original: Option<Block>,
        verdict: BoxFuture<'static, Result<Verdict, BoxError>>,
        until: Option<Instant>,
    ) {
        self.deferred.push(Deferred {
            stage,
            verdict: SyncWrapper::new(verdict),
            known: None,
            until,
            original,
        });
    }

    fn send_on(&mut self, stage: usize, blocks: Vec<Block>) {
        let blocks = blocks.into_iter().rev();
        self.way.extend(blocks.map(|block| (stage + 1, block)));
    }

    /// A stage has failed: nothing more goes through it, and the stream is broken, not ended.
    fn fail(&mut self, stage: usize, error: Error) {
        if let Some(stage) = self.stages.get_mut(stage) {
            stage.panicked |= error.kind() == ErrorKind::InterceptorPanicked;
        }
        self.way.clear();
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

/// Returns the block if it is needed no more.
#[inline(always)]
fn hand_out(block: Block, out: &mut impl Output) -> Option<Block> {
    if out.extend(&block) {
        return Some(block);
    }
    out.block(block);
    None
}

/// Whoever was not told yet how the stream ended has lost its client.
impl Drop for Chain {
    fn drop(&mut self) {
        let told = self.ending.as_ref().map_or(0, |ending| ending.next);
        for stage in self.stages.iter_mut().skip(told) {
            let interceptor = stage.interceptor.get_mut();
            let _ = catch(|| interceptor.end(StreamEnd::ClientGone));
        }
        self.stages.drain(..).for_each(drop_caught);
        self.deferred.drain(..).for_each(drop_caught);
    }
}

/// Gives the last event the id of the block that these stand for, unless one of them has an id.
fn move_id(original: &Block, blocks: &mut [Block]) {
    let Some(id) = original.id() else { return };
    if blocks.iter().any(Block::has_id) {
        return;
    }
    let Some(last) = blocks.iter_mut().rfind(|block| block.is_event()) else {
        return;
    };
    // What was an id on the wire can be one again: it holds no line end and no NUL.
    if let Ok(mut event) = Event::from_block(last.clone())
        && event.set_id(id).is_ok()
    {
        *last = event.into();
    }
}
