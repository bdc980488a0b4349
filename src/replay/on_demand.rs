//! What follows on the last answer of an upstream, where that depends on a client that comes back.

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

/// Waits for a client to come back, by whose request the upstream is asked to go on.
pub(crate) struct ResumeOnDemand<B> {
    channel: Arc<SharedLog>,
    progress: Arc<UpstreamProgress>,
    rules: ContinuationRules,
    next: Arc<BodyMailbox<B>>,
    over: Option<UpstreamEnd>,
    /// What readers are to be told of it.
    untold: Option<Ending>,
}

impl<B> ResumeOnDemand<B> {
    /// And the place for what it waits for.
    pub(crate) fn new(
        channel: Arc<SharedLog>,
        progress: Arc<UpstreamProgress>,
        rules: ContinuationRules,
    ) -> (Arc<BodyMailbox<B>>, Self) {
        let next = Arc::<BodyMailbox<B>>::default();
        let waiting = Self {
            channel,
            progress,
            rules,
            next: Arc::clone(&next),
            over: None,
            untold: None,
        };
        (next, waiting)
    }

    fn tell(&mut self) {
        if let Some(ending) = self.untold.take() {
            self.channel.suspend(ending);
        }
    }
}

impl<B: Send> Continuation<B> for ResumeOnDemand<B> {
    fn handle_end(&mut self, over: UpstreamEnd) -> Result<(), UpstreamEnd> {
        let may_continue = match over {
            UpstreamEnd::Clean(_) => self.rules.after_end,
            UpstreamEnd::Broken(_) => self.rules.after_break,
        };
        if !(may_continue && self.progress.suspend()) {
            self.progress.stop_waiting();
            return Err(match over {
                // All was sent before, and an end is an end.
                UpstreamEnd::Broken(_) if self.progress.is_complete() => UpstreamEnd::Clean(None),
                over => over,
            });
        }
        let (over, ending) = match over {
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
        self.over = Some(over);
        self.untold = Some(ending);
        Ok(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<DecodedBody<B>, UpstreamEnd>> {
        self.tell();
        let Some(answer) = ready!(self.next.poll_take(cx)) else {
            self.progress.stop_waiting();
            // However its last answer ended: that was all.
            return Poll::Ready(Err(match self.over.take() {
                Some(UpstreamEnd::Clean(trailers)) => UpstreamEnd::Clean(trailers),
                _ => UpstreamEnd::Clean(None),
            }));
        };
        self.progress.begin_continuation();
        self.over = None;
        Poll::Ready(Ok(answer))
    }

    fn stop_waiting(&mut self) -> Option<UpstreamEnd> {
        self.tell();
        if !self.channel.stop_waiting() {
            // An answer is on its way.
            return None;
        }
        self.progress.stop_waiting();
        self.over.take()
    }
}

/// A place for what follows, and who waits for it. (A channel would take more room than the rest of a stream.)
pub(crate) struct BodyMailbox<B>(Mutex<(Option<Follows<B>>, Option<Waker>)>);

/// Another answer, or the news that there is none.
type Follows<B> = Option<DecodedBody<B>>;

impl<B> BodyMailbox<B> {
    pub(crate) fn put(&self, answer: Follows<B>) {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        place.0 = Some(answer);
        let waker = place.1.take();
        drop(place);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Follows<B>> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, waker) = &mut *place;
        if let Some(answer) = answer.take() {
            return Poll::Ready(answer);
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
