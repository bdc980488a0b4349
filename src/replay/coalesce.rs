//! Requests that ride on one stream: who asks the service, and who waits for what comes of it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    log::StartAt,
    replay::{
        key::{StreamKey, StreamOwner},
        recorded_stream::RecordedStream,
        subscription::Subscription,
    },
};

type Key = (StreamOwner, StreamKey);

/// All streams of a layer that others may join, and all calls that may become one.
#[derive(Default)]
pub(crate) struct Coalescer {
    flights: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_key: HashMap<Key, InFlight>,
    /// How many calls there were.
    calls: u64,
}

enum InFlight {
    /// The service has been asked, and these wait for its answer. It is to be asked for as long as anybody has an interest in it.
    Asking {
        call: u64,
        waiting: Vec<oneshot::Sender<Subscription>>,
        interest: mpsc::WeakSender<()>,
    },
    Open(Arc<RecordedStream>),
}

/// What a request does.
pub(crate) enum Role {
    /// It joins a stream that is there.
    Join(Subscription),
    /// It waits for one. If it gets none, there is nothing that it could share.
    Follow(oneshot::Receiver<Subscription>, Interest),
    /// There is something to join, but it is not known whether the client may.
    Unauthorized(Option<Interest>),
    /// It asks the service.
    Lead(LeaderGuard, Interest, Abandoned),
}

/// Somebody wants to have what the service was asked for.
#[derive(Clone)]
pub(crate) struct Interest {
    _sender: mpsc::Sender<()>,
}

/// Resolves when nobody wants it any more.
pub(crate) struct Abandoned(mpsc::Receiver<()>);

/// To tell those who wait what came of it, if only by dropping this.
pub(crate) struct LeaderGuard {
    shared: Arc<Coalescer>,
    call: u64,
    key: Option<Key>,
    join: StartAt,
}

impl Coalescer {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client that is not authorized joins nothing and takes no seat, so that it has no effect on a stream.
    pub(crate) fn assign_role(self: &Arc<Self>, key: Key, join: StartAt, authorized: bool) -> Role {
        loop {
            let open = match self.open_or_ask(&key, join, authorized) {
                Ok(boarding) => return boarding,
                Err(open) => open,
            };
            if !authorized {
                if open.log.is_joinable() {
                    return Role::Unauthorized(None);
                }
            } else if let Some(rejoin) = joined(&open, join) {
                return Role::Join(rejoin);
            }
            self.remove(&open);
        }
    }

    /// Waits with others for a call, or makes it; or gives the stream that is there already.
    fn open_or_ask(
        self: &Arc<Self>,
        key: &Key,
        join: StartAt,
        authorized: bool,
    ) -> Result<Role, Arc<RecordedStream>> {
        let mut flights = self.lock();
        match flights.by_key.get_mut(key) {
            Some(InFlight::Open(recording)) => return Err(Arc::clone(recording)),
            Some(InFlight::Asking {
                waiting, interest, ..
            }) => {
                if let Some(sender) = interest.upgrade() {
                    if !authorized {
                        // Dropped by the caller: that may wake the call's task, and a lock is held here.
                        let interest = Interest { _sender: sender };
                        return Ok(Role::Unauthorized(Some(interest)));
                    }
                    let (told, wait) = oneshot::channel();
                    waiting.retain(|waiting| !waiting.is_closed());
                    waiting.push(told);
                    return Ok(Role::Follow(wait, Interest { _sender: sender }));
                }
            }
            None => {}
        }
        let (sender, nobody) = mpsc::channel(1);
        flights.calls += 1;
        let call = flights.calls;
        let flight = InFlight::Asking {
            call,
            waiting: Vec::new(),
            interest: sender.downgrade(),
        };
        flights.by_key.insert(key.clone(), flight);
        let ticket = LeaderGuard {
            shared: Arc::clone(self),
            call,
            key: Some(key.clone()),
            join,
        };
        let interest = Interest { _sender: sender };
        Ok(Role::Lead(ticket, interest, Abandoned(nobody)))
    }

    /// The stream is over: nobody can join it.
    pub(crate) fn remove(&self, recording: &Arc<RecordedStream>) {
        let key = (recording.owner.clone(), recording.key.clone());
        let mut flights = self.lock();
        let open = flights.by_key.get(&key);
        if matches!(open, Some(InFlight::Open(open)) if Arc::ptr_eq(open, recording)) {
            flights.by_key.remove(&key);
        }
    }
}

fn joined(stream: &RecordedStream, start: StartAt) -> Option<Subscription> {
    let reader = stream.join(start)?;
    Some(Subscription::new(stream.head(), reader))
}

impl Table {
    /// Those who wait for this call; there are none if it was given up and somebody else has called since.
    fn take(&mut self, key: &Key, call: u64) -> Option<Vec<oneshot::Sender<Subscription>>> {
        match self.by_key.get_mut(key) {
            Some(InFlight::Asking {
                call: asking,
                waiting,
                ..
            }) if *asking == call => {
                let waiting = std::mem::take(waiting);
                self.by_key.remove(key);
                Some(waiting)
            }
            _ => None,
        }
    }
}

impl LeaderGuard {
    /// The service has answered with a stream, for those who wait and those who come later.
    pub(crate) fn complete(mut self, recording: &Arc<RecordedStream>) {
        let Some(key) = self.key.take() else { return };
        // What opened a session of its own is nobody else's.
        let is_it = (&recording.owner, &recording.key) == (&key.0, &key.1);
        let mut flights = self.shared.lock();
        let waiting = flights.take(&key, self.call);
        if waiting.is_some() && is_it {
            let open = InFlight::Open(Arc::clone(recording));
            flights.by_key.insert(key, open);
        }
        drop(flights);
        // Those who are told nothing learn of it by the end of their channel.
        for waiting in waiting.into_iter().flatten().filter(|_| is_it) {
            if let Some(rejoin) = joined(recording, self.join) {
                let _ = waiting.send(rejoin);
            }
        }
    }
}

impl Drop for LeaderGuard {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            // Those who wait are woken once the lock is given back.
            let waiting = self.shared.lock().take(&key, self.call);
            drop(waiting);
        }
    }
}

impl Abandoned {
    pub(crate) async fn wait(mut self) {
        // Nothing is ever sent.
        self.0.recv().await;
    }
}

impl fmt::Debug for Coalescer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Wake, Waker},
    };

    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;
    use crate::session::Owner;

    fn key() -> Key {
        let whose = StreamOwner {
            owner: Owner::ANONYMOUS,
            session: None,
        };
        (whose, StreamKey::Shared("".into(), "all".into()))
    }

    /// Asks in the middle of being woken, as an executor may.
    struct Asks(Arc<Coalescer>);

    impl Wake for Asks {
        fn wake(self: Arc<Self>) {
            let boarding = self.0.assign_role(key(), StartAt::Live, true);
            assert!(matches!(boarding, Role::Lead(..)));
        }
    }

    #[test]
    fn who_is_told_that_there_is_nothing_may_ask_at_once() {
        let shared = Arc::<Coalescer>::default();
        let Role::Lead(ticket, _interest, _nobody) = shared.assign_role(key(), StartAt::Live, true)
        else {
            panic!("nobody has asked before");
        };
        let Role::Follow(wait, _interest) = shared.assign_role(key(), StartAt::Live, true) else {
            panic!("somebody has");
        };
        let mut wait = pin!(wait);
        let waker = Waker::from(Arc::new(Asks(Arc::clone(&shared))));
        let cx = &mut Context::from_waker(&waker);
        assert!(wait.as_mut().poll(cx).is_pending());
        drop(ticket);
        assert!(matches!(wait.as_mut().poll(cx), Poll::Ready(Err(_))));
    }

    #[test]
    fn abandoned_call_leaves_the_waiters_of_the_next_call_alone() {
        let shared = Arc::<Coalescer>::default();
        let Role::Lead(first, interest, _nobody) = shared.assign_role(key(), StartAt::Live, true)
        else {
            panic!("there is no call yet");
        };
        drop(interest);
        let Role::Lead(second, _interest, _nobody) = shared.assign_role(key(), StartAt::Live, true)
        else {
            panic!("no request waits for the first call");
        };
        let Role::Follow(mut wait, _interest) = shared.assign_role(key(), StartAt::Live, true)
        else {
            panic!("the second call is on its way");
        };
        drop(first);
        assert_eq!(wait.try_recv().err(), Some(TryRecvError::Empty));
        drop(second);
        assert_eq!(wait.try_recv().err(), Some(TryRecvError::Closed));
    }
}
