//! Runs a chain of interceptors for one event.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::Instant;

use crate::{
    codec::{Block, Event},
    error::Error,
    intercept::{Chain, Finish, Output, catch},
    timer::Timer,
};

/// A chain of interceptors with its timeouts, and the events that it has forwarded.
pub(super) struct JsonChain {
    chain: Chain,
    timer: Timer,
    forwarded: Forwarded,
}

/// The events that a chain has forwarded. Only a single event can become the body.
#[derive(Default)]
pub(super) enum Forwarded {
    #[default]
    Nothing,
    One(Event),
    Several,
}

impl Output for Forwarded {
    fn block(&mut self, block: Block) {
        // Other blocks carry no data.
        if let Ok(event) = Event::from_block(block) {
            *self = match self {
                Forwarded::Nothing => Forwarded::One(event),
                _ => Forwarded::Several,
            };
        }
    }

    fn extend(&mut self, _block: &Block) -> bool {
        false
    }
}

impl JsonChain {
    pub(super) fn new(chain: Chain) -> Self {
        Self {
            chain,
            timer: Timer::default(),
            forwarded: Forwarded::default(),
        }
    }

    /// Waits for a future while the timeouts of the interceptors run. `None` as soon as an interceptor ends the stream or fails.
    pub(super) async fn drive_until<T>(
        &mut self,
        mut future: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        poll_fn(|cx| {
            let _ = self.poll(cx);
            if self.chain.is_ending() {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Passes a block through the chain, unless the stream has ended.
    pub(super) async fn push(&mut self, block: Block) {
        self.settled().await;
        if self.chain.is_ending() {
            return;
        }
        let Self {
            chain, forwarded, ..
        } = self;
        if let Err(panic) = catch(|| chain.push(block, forwarded)) {
            chain.fail_asked(panic);
        }
        self.settled().await;
    }

    /// Ends the interceptors, unless one of them has ended the stream. Returns the events that they have forwarded: none if one of them has
    /// ended the stream.
    ///
    /// # Errors
    /// `finish` is an error, or an interceptor failed.
    pub(super) async fn end(&mut self, finish: Finish) -> Result<Forwarded, Error> {
        self.chain.end(finish);
        self.settled().await;
        match self.chain.take_finish() {
            Finish::Failed(error) => Err(error),
            Finish::Complete | Finish::Truncated if self.chain.has_ended_it() => {
                Ok(Forwarded::Nothing)
            }
            Finish::Complete | Finish::Truncated => Ok(std::mem::take(&mut self.forwarded)),
        }
    }

    /// Waits until no verdict is deferred, and, once the stream ends, until all interceptors have handled the end.
    async fn settled(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let driven = if self.chain.is_idle() {
                Poll::Ready(())
            } else {
                self.chain.drive(cx, &mut self.forwarded)
            };
            let Some(deadline) = self.chain.deadline() else {
                return driven;
            };
            if self.timer.poll(cx, deadline).is_pending() {
                return driven;
            }
            self.chain.handle_timeout(Instant::now());
        }
    }
}
