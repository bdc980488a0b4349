//! Continues a recorded stream when a client resumes: the layer forwards the request of the client to the upstream.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use crate::{
    error::Error,
    log::{Ending, SharedLog},
    replay::continuation_rules::ContinuationRules,
    upstream::{Continuation, UpstreamEnd, UpstreamProgress, body::DecodedBody},
};

/// Waits for a client that resumes at the end of the stream. Its request asks the upstream to continue, and the response continues the
/// stream.
pub(crate) struct ResumeOnDemand<B> {
    log: Arc<SharedLog>,
    progress: Arc<UpstreamProgress>,
    rules: ContinuationRules,
    mailbox: Arc<BodyMailbox<B>>,
    /// How the last response ended, while the stream waits for the next one.
    last_end: Option<UpstreamEnd>,
    /// The same end for the log, until [`suspend_log`](Self::suspend_log) passes it on.
    unreported: Option<Ending>,
}

impl<B> ResumeOnDemand<B> {
    /// Also returns the mailbox for the next response.
    pub(crate) fn new(
        log: Arc<SharedLog>,
        progress: Arc<UpstreamProgress>,
        rules: ContinuationRules,
    ) -> (Arc<BodyMailbox<B>>, Self) {
        let mailbox = Arc::<BodyMailbox<B>>::default();
        let on_demand = Self {
            log,
            progress,
            rules,
            mailbox: Arc::clone(&mailbox),
            last_end: None,
            unreported: None,
        };
        (mailbox, on_demand)
    }

    /// Suspends the log with the end of the last response, unless that has happened already.
    fn suspend_log(&mut self) {
        if let Some(ending) = self.unreported.take() {
            self.log.suspend(ending);
        }
    }
}

impl<B: Send> Continuation<B> for ResumeOnDemand<B> {
    fn handle_end(&mut self, end: UpstreamEnd) -> Result<(), UpstreamEnd> {
        let may_continue = match end {
            UpstreamEnd::Clean(_) => self.rules.after_end,
            UpstreamEnd::Broken(_) => self.rules.after_break,
        };
        if !(may_continue && self.progress.suspend()) {
            self.progress.stop_waiting();
            return Err(match end {
                // The event that completes the stream came before the connection broke.
                UpstreamEnd::Broken(_) if self.progress.is_complete() => UpstreamEnd::Clean(None),
                end => end,
            });
        }
        let (end, ending) = match end {
            UpstreamEnd::Clean(trailers) => (
                UpstreamEnd::Clean(trailers.clone()),
                Ending::Clean(trailers),
            ),
            UpstreamEnd::Broken(error) => {
                let error = Arc::new(error);
                (
                    UpstreamEnd::Broken(Error::shared(&error)),
                    Ending::Broken(error),
                )
            }
        };
        self.last_end = Some(end);
        self.unreported = Some(ending);
        Ok(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<DecodedBody<B>, UpstreamEnd>> {
        self.suspend_log();
        let Some(body) = ready!(self.mailbox.poll_take(cx)) else {
            self.progress.stop_waiting();
            // The upstream has no more events, so that the end is clean, also if the last response broke.
            return Poll::Ready(Err(match self.last_end.take() {
                Some(UpstreamEnd::Clean(trailers)) => UpstreamEnd::Clean(trailers),
                _ => UpstreamEnd::Clean(None),
            }));
        };
        self.progress.begin_continuation();
        self.last_end = None;
        Poll::Ready(Ok(body))
    }

    /// Always false: the client that resumes sends the request, and waits for its response itself.
    fn awaits_answer(&self) -> bool {
        false
    }

    fn stop_waiting(&mut self) -> Option<UpstreamEnd> {
        self.suspend_log();
        if !self.log.stop_waiting() {
            // The next response has already arrived.
            return None;
        }
        self.progress.stop_waiting();
        self.last_end.take()
    }
}

/// A slot for the body of the next response. A channel would take more memory than the rest of an idle stream.
pub(crate) struct BodyMailbox<B>(Mutex<(Option<NextBody<B>>, Option<Waker>)>);

/// The body of the next response. `None` if the upstream has no more events.
type NextBody<B> = Option<DecodedBody<B>>;

impl<B> BodyMailbox<B> {
    /// Delivers the next body, and wakes the writer.
    pub(crate) fn put(&self, next: NextBody<B>) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.0 = Some(next);
        let waker = slot.1.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<NextBody<B>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, waker) = &mut *slot;
        if let Some(next) = next.take() {
            return Poll::Ready(next);
        }
        *waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<B> Default for BodyMailbox<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
