//! A slot that one side polls and that others can empty.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering, fence},
    },
    task::Waker,
};

use crate::observe::{LiveStream, StreamControl, StreamEnded, StreamOutcome, StreamReport};

/// The state that the poll of a client's body needs, behind a lock, so that others can end the stream while the server does not poll.
///
/// No one waits for the lock while a poll holds it: whoever ends the stream sets a flag first, and whoever releases the lock then
/// carries out the end.
pub(crate) struct Slot<T> {
    live: Arc<LiveStream>,
    content: Mutex<T>,
    /// The end of the stream is decided, and has to be carried out.
    must_end: AtomicBool,
}

/// The content of a [`Slot`].
pub(crate) trait Endable: Send + 'static {
    /// Ends the stream: cancels the upstream. Returns the report of the stream, unless it was taken, and the waker of the body, which
    /// has to fail when it is polled.
    fn end(&mut self) -> (Option<StreamReport>, Option<Waker>);
}

impl<T> Slot<T> {
    pub(super) fn new(live: Arc<LiveStream>, content: T) -> Arc<Self> {
        Arc::new(Self {
            live,
            content: Mutex::new(content),
            must_end: AtomicBool::new(false),
        })
    }

    /// The stream.
    pub(super) fn live(&self) -> &Arc<LiveStream> {
        &self.live
    }

    /// Locks the content, and carries out no end. For the side that polls, when it is dropped.
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.content.try_lock() {
            Ok(content) => Some(content),
            Err(TryLockError::Poisoned(content)) => Some(content.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<T: Endable> Slot<T> {
    /// Uses the content. For the side that polls.
    pub(super) fn with<R>(&self, use_content: impl FnOnce(&mut T) -> R) -> R {
        let result = use_content(&mut self.lock());
        self.end_if_decided();
        result
    }

    /// Uses the content, unless it is in use now. For everyone else.
    pub(super) fn try_with<R>(&self, use_content: impl FnOnce(&mut T) -> R) -> Option<R> {
        let result = use_content(&mut *self.try_lock()?);
        self.end_if_decided();
        Some(result)
    }

    /// Carries out a decided end, unless the content is in use: then the user does it. An interceptor that closes its own stream is such
    /// a user.
    fn end_if_decided(&self) {
        loop {
            // Orders the release of the lock before this load, and the store of the flag before the attempt to lock. So of two threads, one
            // that sets the flag and one that releases the lock, at least one sees the other's change.
            fence(Ordering::SeqCst);
            if !self.must_end.load(Ordering::Relaxed) {
                return;
            }
            let Some(mut content) = self.try_lock() else {
                return;
            };
            self.must_end.store(false, Ordering::Relaxed);
            let (report, waker) = content.end();
            drop(content);
            // Outside of the lock: observers are user code.
            if let (Some(report), Some(outcome)) = (report, self.live.decided_end()) {
                report.close(StreamEnded::of(outcome));
            }
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<T: Endable> StreamControl for Slot<T> {
    fn end(&self, _outcome: StreamOutcome) {
        self.must_end.store(true, Ordering::Relaxed);
        self.end_if_decided();
    }

    fn clients(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use std::{
        hint,
        sync::{Barrier, Weak},
        thread,
    };

    use http::{Method, StatusCode};
    use tokio::time::Instant;

    use super::*;
    use crate::{
        observe::{LiveStreams, Observers, StreamOrigin},
        session::Owner,
        stream_id::StreamId,
    };

    #[derive(Default)]
    struct Content {
        ends: u32,
    }

    impl Endable for Content {
        fn end(&mut self) -> (Option<StreamReport>, Option<Waker>) {
            self.ends += 1;
            (None, None)
        }
    }

    fn slot() -> Arc<Slot<Content>> {
        let origin = StreamOrigin {
            route: None,
            method: Method::GET,
            owner: Owner::ANONYMOUS,
            arrived: Instant::now(),
            mcp_protocol_version: None,
            mcp_method_name: None,
        };
        let live = Arc::<LiveStreams>::default().open(
            StreamId::random(),
            Arc::new(origin),
            None,
            StatusCode::OK,
            false,
            &Observers::default(),
        );
        let slot = Slot::new(live, Content::default());
        let control: Weak<Slot<Content>> = Arc::downgrade(&slot);
        slot.live().set_control(control);
        slot
    }

    /// Nothing polls or checks the stream again after this.
    #[test]
    fn end_is_carried_out_whoever_holds_the_lock() {
        for round in 0..1000_u32 {
            let (slot, start) = (slot(), Barrier::new(2));
            let polls = round % 2 == 0;
            thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    if polls {
                        slot.with(|_| hint::spin_loop());
                    } else {
                        slot.try_with(|_| hint::spin_loop());
                    }
                });
                start.wait();
                (0..round % 40).for_each(|_| hint::spin_loop());
                assert!(slot.live().end_with(StreamOutcome::Cancelled));
            });
            assert_eq!(slot.lock().ends, 1, "{round}");
        }
    }

    /// As if another thread ended the stream in that moment.
    #[test]
    fn end_that_finds_the_content_in_use_is_carried_out_by_its_user() {
        for polls in [true, false] {
            let slot = slot();
            let end = |content: &mut Content| {
                assert!(slot.live().end_with(StreamOutcome::Cancelled));
                assert!(!slot.live().end_with(StreamOutcome::Revoked));
                assert_eq!(content.ends, 0);
            };
            if polls {
                slot.with(end);
            } else {
                slot.try_with(end);
            }
            assert_eq!(slot.lock().ends, 1);
            assert_eq!(slot.live().settle(), Some(StreamOutcome::Cancelled));
        }
    }

    #[test]
    fn stream_that_has_ended_by_itself_cannot_be_ended() {
        let slot = slot();
        assert_eq!(slot.live().settle(), None);
        assert!(!slot.live().end_with(StreamOutcome::Cancelled));
        assert_eq!(slot.lock().ends, 0);
    }
}
