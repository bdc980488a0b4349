//! The window of one stream.

use std::time::Instant as StdInstant;

use futures_util::FutureExt;
use tokio::{sync::oneshot, time::Instant};
use tower::BoxError;

use super::{
    TextWindow,
    batch::BatchResult,
    batch_verdict::{BLOCKED, VerdictRules, ask, within},
    early::{EarlyRelease, Limit},
    held::{Cause, HeldBlocks},
    settings::Settings,
};
use crate::{
    codec::{Block, Event},
    intercept::{Interceptor, MakeInterceptor, StreamEnd, StreamHead, Verdict},
};

impl MakeInterceptor for TextWindow {
    fn open(&self, head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
        Some(Box::new(OpenWindow {
            held: HeldBlocks::new(head.shape(), self.settings.judge.incremental()),
            settings: self.settings.clone(),
            pending: None,
            blocked: None,
            has_warned: false,
        }))
    }
}

/// The window of one stream.
struct OpenWindow {
    settings: Settings,
    held: HeldBlocks,
    /// The batch that waits for an asynchronous judge.
    pending: Option<PendingBatch>,
    /// Set once a match blocks the stream while blocks before it are still to be sent. The stream is cut at this time.
    blocked: Option<Instant>,
    has_warned: bool,
}

struct PendingBatch {
    /// When the oldest block of the batch arrived.
    since: Option<Instant>,
    /// The result of the batch, once the judge has decided.
    result: oneshot::Receiver<BatchResult>,
    cause: Cause,
}

impl OpenWindow {
    /// Asks the judge, and sends the blocks that may be sent.
    fn release(&mut self, cause: Cause) -> Verdict {
        if self.blocked.is_some() {
            return Verdict::block(BLOCKED);
        }
        self.settle_pending();
        let max_held_bytes = self.settings.max_held_bytes;
        let cause = match cause {
            Cause::Decided | Cause::Since(_) if self.held.bytes() > max_held_bytes => {
                Cause::Above(max_held_bytes)
            }
            cause => cause,
        };
        if self.held.is_scanning() {
            return self.release_scanned(cause);
        }
        let since = self.held.since();
        let Some(batch) = self.held.take(self.settings.rules, cause) else {
            return Verdict::Hold;
        };
        let questions = batch.questions();
        let rules = VerdictRules {
            fail_open: self.settings.fail_open,
            on_block: self.settings.on_block.clone(),
        };
        let mut answers = ask(&*self.settings.judge, &questions);
        // A judge that decides at once needs no deferred verdict.
        if let Some(answers) = (&mut answers).now_or_never() {
            let decisions = answers.map(|answers| questions.decisions(&answers));
            let (verdict, result) = rules.carry_out(batch, decisions);
            if matches!(verdict, Verdict::End(_) | Verdict::Defer(_)) {
                // The stream ends or is cut: no held block may be sent.
                self.held.clear();
            } else {
                self.settle(result, cause);
            }
            return verdict;
        }
        let limit = self.settings.judge_timeout;
        let (sender, result) = oneshot::channel();
        self.pending = Some(PendingBatch {
            since,
            result,
            cause,
        });
        Verdict::Defer(Box::pin(async move {
            let answers = within(limit, answers).await;
            let decisions = answers.map(|answers| questions.decisions(&answers));
            let (verdict, result) = rules.carry_out(batch, decisions);
            // Fails if the window was dropped. Nothing has to be held then.
            let _ = sender.send(result);
            Ok(verdict)
        }))
    }

    /// Records the result of a pending batch, if the judge has decided.
    fn settle_pending(&mut self) {
        if let Some(mut pending) = self.pending.take()
            && let Ok(result) = pending.result.try_recv()
        {
            self.settle(result, pending.cause);
        }
    }

    fn settle(&mut self, result: BatchResult, cause: Cause) {
        self.count(result.early, cause);
        self.held.settle(result, self.settings.rules);
    }

    /// Sends the blocks that scans have decided.
    fn release_scanned(&mut self, cause: Cause) -> Verdict {
        let mut release = self.held.take_scanned(self.settings.rules, cause);
        self.count(release.early, cause);
        if !release.blocked {
            return if release.blocks.is_empty() {
                Verdict::Hold
            } else {
                Verdict::Release(release.blocks)
            };
        }
        self.held.clear();
        let is_over = matches!(cause, Cause::End { .. });
        match &self.settings.on_block {
            Some(on_block) => {
                release.blocks.extend(on_block());
                Verdict::End(release.blocks)
            }
            // One verdict cannot both send blocks and fail. At the end of the stream no other verdict follows.
            None if release.blocks.is_empty() || is_over => Verdict::block(BLOCKED),
            None => {
                self.blocked = Some(Instant::now());
                Verdict::Release(release.blocks)
            }
        }
    }

    /// Counts and logs text that is sent before it is decided.
    fn count(&mut self, early: EarlyRelease, cause: Cause) {
        if early.bytes == 0 {
            return;
        }
        let limit = match cause {
            Cause::Above(_) => Limit::Size,
            _ => Limit::Time,
        };
        let warn = early.may_match && !self.has_warned;
        self.has_warned |= warn;
        self.settings.counters.count(early.bytes, limit, warn);
    }

    /// Handles an event that cannot be judged.
    fn fail(&mut self, event: Event, error: impl Into<BoxError>) -> Verdict {
        if self.settings.fail_open {
            self.held.push_block(event.into(), Instant::now());
            return self.release(Cause::Decided);
        }
        self.held.clear();
        Verdict::fail(error)
    }
}

impl Interceptor for OpenWindow {
    fn event(&mut self, event: Event) -> Verdict {
        self.settle_pending();
        let extractor = &*self.settings.extractor;
        match self.held.push(event, extractor, Instant::now()) {
            Ok(()) if self.held.is_whole() => self.release(Cause::End { complete: true }),
            Ok(()) => self.release(Cause::Decided),
            Err((event, error)) => self.fail(event, error),
        }
    }

    fn block(&mut self, block: Block) -> Verdict {
        self.settle_pending();
        self.held.push_block(block, Instant::now());
        self.release(Cause::Decided)
    }

    fn deadline(&self) -> Option<StdInstant> {
        if let Some(blocked) = self.blocked {
            return Some(blocked.into_std());
        }
        // The result of a pending batch is not known here. If the whole batch is sent, the timeout does nothing.
        let pending = self.pending.as_ref().and_then(|pending| pending.since);
        let since = pending.or_else(|| self.held.since())?;
        // A time beyond the range of the clock never comes.
        since.into_std().checked_add(self.settings.max_delay)
    }

    fn timeout(&mut self, now: StdInstant) -> Verdict {
        let until = now.checked_sub(self.settings.max_delay);
        let until = until.map(Instant::from_std);
        self.release(until.map_or(Cause::Decided, Cause::Since))
    }

    fn end(&mut self, end: StreamEnd<'_>) -> Verdict {
        let complete = match end {
            StreamEnd::ClientGone => return Verdict::Drop,
            // This window may be the interceptor that failed: text that it could not judge must not be sent.
            StreamEnd::Failed(error) if error.kind().is_of_an_interceptor() => {
                self.pending = None;
                self.held.clear();
                return Verdict::Drop;
            }
            StreamEnd::Failed(_) => false,
            StreamEnd::Complete | StreamEnd::Truncated => true,
        };
        self.release(Cause::End { complete })
    }
}
