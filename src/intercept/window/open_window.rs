//! A window on one stream.

use std::{sync::atomic::Ordering, time::Instant as StdInstant};

use tokio::{sync::oneshot, time::Instant};
use tower::BoxError;

use super::{
    TextWindow,
    batch::Rest,
    early::Early,
    held::{Due, Held},
    outcome::{BLOCKED, Close, all_judgements, decided},
    settings::Setting,
};
use crate::{
    codec::{Block, Event},
    intercept::{Interceptor, MakeInterceptor, StreamEnd, StreamHead, Verdict},
};

impl MakeInterceptor for TextWindow {
    fn open(&self, _head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
        Some(Box::new(OpenWindow {
            held: Held::new(self.setting.judge.incremental()),
            setting: self.setting.clone(),
            asked: None,
            blocked: None,
            has_warned: false,
        }))
    }
}

/// A window on one stream.
struct OpenWindow {
    setting: Setting,
    held: Held,
    /// What a judge that takes its time has been asked about.
    asked: Option<Asked>,
    /// Since when the stream is to be cut: what came before the match leaves first.
    blocked: Option<Instant>,
    has_warned: bool,
}

struct Asked {
    /// When the oldest of it came.
    since: Option<Instant>,
    /// What is left of it, once it is judged.
    rest: oneshot::Receiver<Rest>,
    due: Due,
}

impl OpenWindow {
    /// Judges and lets go what may leave.
    fn release(&mut self, due: Due) -> Verdict {
        if self.blocked.is_some() {
            return Verdict::fail(BLOCKED);
        }
        self.take_back();
        let due = match due {
            Due::Decided | Due::Since(_) if self.held.bytes() > self.setting.max_bytes => {
                Due::Above(self.setting.max_bytes)
            }
            due => due,
        };
        if self.held.is_scanning() {
            return self.release_scanned(due);
        }
        let since = self.held.since();
        let Some(batch) = self.held.take(self.setting.sight, due) else {
            return Verdict::Hold;
        };
        let questions = batch.questions();
        let rulings: Vec<_> = questions
            .passages()
            .map(|passage| self.setting.judge.judge(passage))
            .collect();
        let close = Close {
            fail_open: self.setting.fail_open,
            on_block: self.setting.on_block.clone(),
        };
        match decided(rulings) {
            Ok(answers) => {
                let judgements = questions.judgements(&answers);
                let (verdict, rest) = close.carry_out(batch, Ok(judgements));
                if matches!(verdict, Verdict::End(_) | Verdict::Defer(_)) {
                    // The last word is said, or the window has failed: nothing of what is left may leave.
                    self.held.clear();
                } else {
                    self.settle(rest, due);
                }
                verdict
            }
            Err(rulings) => {
                let limit = self.setting.time_limit;
                let (settled, rest) = oneshot::channel();
                self.asked = Some(Asked { since, rest, due });
                Verdict::Defer(Box::pin(async move {
                    let answers = all_judgements(rulings, limit).await;
                    let judgements = answers.map(|answers| questions.judgements(&answers));
                    let (verdict, rest) = close.carry_out(batch, judgements);
                    // Without the window, there is nothing left to hold.
                    let _ = settled.send(rest);
                    Ok(verdict)
                }))
            }
        }
    }

    /// Holds again what a judge that took its time has held.
    fn take_back(&mut self) {
        if let Some(mut asked) = self.asked.take()
            && let Ok(rest) = asked.rest.try_recv()
        {
            self.settle(rest, asked.due);
        }
    }

    fn settle(&mut self, rest: Rest, due: Due) {
        self.count(rest.early, due);
        self.held.settle(rest, self.setting.sight);
    }

    /// Lets go what scans have decided.
    fn release_scanned(&mut self, due: Due) -> Verdict {
        let mut scanned = self.held.take_scanned(self.setting.sight, due);
        self.count(scanned.early, due);
        if !scanned.blocked {
            return if scanned.blocks.is_empty() {
                Verdict::Hold
            } else {
                Verdict::Release(scanned.blocks)
            };
        }
        self.held.clear();
        let is_over = matches!(due, Due::End { .. });
        match &self.setting.on_block {
            Some(on_block) => {
                scanned.blocks.extend(on_block());
                Verdict::End(scanned.blocks)
            }
            // A verdict cannot both let go and fail. At the end of the stream no other follows.
            None if scanned.blocks.is_empty() || is_over => Verdict::fail(BLOCKED),
            None => {
                self.blocked = Some(Instant::now());
                Verdict::Release(scanned.blocks)
            }
        }
    }

    /// Counts and logs what left before it was decided.
    fn count(&mut self, early: Early, due: Due) {
        if early.bytes == 0 {
            return;
        }
        let released = &self.setting.released;
        let (count, bound) = match due {
            Due::Above(_) => (&released.by_size, "size"),
            _ => (&released.by_time, "time"),
        };
        count.fetch_add(1, Ordering::Relaxed);
        let bytes = early.bytes as u64;
        released.bytes.fetch_add(bytes, Ordering::Relaxed);
        if early.may_match && !self.has_warned {
            self.has_warned = true;
            tracing::warn!(
                bytes,
                bound,
                "text in which a match may begin was released: a bound ran out"
            );
        } else {
            tracing::debug!(
                bytes,
                bound,
                "text was released before it was decided: a bound ran out"
            );
        }
    }

    /// An event that cannot be judged has come.
    fn fail(&mut self, event: Event, error: impl Into<BoxError>) -> Verdict {
        if self.setting.fail_open {
            self.held.push_block(event.into(), Instant::now());
            return self.release(Due::Decided);
        }
        self.held.clear();
        Verdict::fail(error)
    }
}

impl Interceptor for OpenWindow {
    fn event(&mut self, event: Event) -> Verdict {
        self.take_back();
        match self
            .held
            .push(event, &*self.setting.extract, Instant::now())
        {
            Ok(()) => self.release(Due::Decided),
            Err((event, error)) => self.fail(event, error),
        }
    }

    fn block(&mut self, block: Block) -> Verdict {
        self.take_back();
        self.held.push_block(block, Instant::now());
        self.release(Due::Decided)
    }

    fn deadline(&self) -> Option<StdInstant> {
        if let Some(blocked) = self.blocked {
            return Some(blocked.into_std());
        }
        // What is left of what a judge was asked about is not known here: if it has left, the call does nothing.
        let asked = self.asked.as_ref().and_then(|asked| asked.since);
        let since = asked.or_else(|| self.held.since())?;
        // A time that no clock can tell never comes.
        since.into_std().checked_add(self.setting.time)
    }

    fn timeout(&mut self, now: StdInstant) -> Verdict {
        let until = now.checked_sub(self.setting.time).map(Instant::from_std);
        self.release(until.map_or(Due::Decided, Due::Since))
    }

    fn end(&mut self, end: StreamEnd<'_>) -> Verdict {
        let complete = match end {
            StreamEnd::ClientGone => return Verdict::Drop,
            // It may be this window that failed: what it could not judge does not leave.
            StreamEnd::Failed(error) if error.kind().is_of_an_interceptor() => {
                self.asked = None;
                self.held.clear();
                return Verdict::Drop;
            }
            StreamEnd::Failed(_) => false,
            StreamEnd::Complete | StreamEnd::Truncated => true,
        };
        self.release(Due::End { complete })
    }
}
