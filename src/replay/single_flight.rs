//! Single flight: concurrent equal requests share one call of the service, and later ones join the running stream.

use std::{
    collections::HashMap,
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

/// The shared streams of a layer, and the calls that may open one.
#[derive(Default)]
pub(crate) struct Coalescer {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_key: HashMap<Key, InFlight>,
    /// The number of calls so far.
    calls: u64,
}

enum InFlight {
    /// The service was called. The call is cancelled when no request has an [`Interest`] in it any more.
    Calling {
        call: u64,
        followers: Vec<oneshot::Sender<Subscription>>,
        interest: mpsc::WeakSender<()>,
    },
    Open(Arc<RecordedStream>),
}

/// The role of a request in a shared call.
pub(crate) enum Role {
    /// It joins a running stream.
    Join(Subscription),
    /// It waits for the stream of another request. If the channel closes, the call has opened no stream to share.
    Follow(oneshot::Receiver<Subscription>, Interest),
    /// There is a stream or a call to share, and the client is not known to be authorized.
    Unauthorized(Option<Interest>),
    /// It calls the service.
    Lead(LeaderGuard, Interest, Abandoned),
}

/// The interest of one request in the response of a call. A call is cancelled when all interests are dropped.
#[derive(Clone)]
pub(crate) struct Interest {
    _sender: mpsc::Sender<()>,
}

/// Resolves when no request waits for the response of a call any more.
pub(crate) struct Abandoned(mpsc::Receiver<()>);

/// Belongs to the request that calls the service for all. Dropping it releases the followers without a stream.
pub(crate) struct LeaderGuard {
    coalescer: Arc<Coalescer>,
    call: u64,
    key: Option<Key>,
    start: StartAt,
}

impl Coalescer {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Assigns a role to a request. A client that is not authorized joins nothing, so that it has no effect on a stream.
    pub(crate) fn assign_role(
        self: &Arc<Self>,
        key: Key,
        start: StartAt,
        is_authorized: bool,
    ) -> Role {
        loop {
            let open = match self.find_or_call(&key, start, is_authorized) {
                Ok(role) => return role,
                Err(open) => open,
            };
            if !is_authorized {
                if open.log.is_joinable() {
                    return Role::Unauthorized(None);
                }
            } else if let Some(subscription) = join(&open, start) {
                return Role::Join(subscription);
            }
            self.remove(&open);
        }
    }

    /// Follows the call of another request, or begins one. If there is a stream, returns it as the error.
    fn find_or_call(
        self: &Arc<Self>,
        key: &Key,
        start: StartAt,
        is_authorized: bool,
    ) -> Result<Role, Arc<RecordedStream>> {
        let mut table = self.lock();
        match table.by_key.get_mut(key) {
            Some(InFlight::Open(stream)) => return Err(Arc::clone(stream)),
            Some(InFlight::Calling {
                followers,
                interest,
                ..
            }) => {
                if let Some(sender) = interest.upgrade() {
                    let interest = Interest { _sender: sender };
                    if !is_authorized {
                        // The caller drops the interest: that may wake the task of the call, and the lock is held here.
                        return Ok(Role::Unauthorized(Some(interest)));
                    }
                    let (follower, stream) = oneshot::channel();
                    followers.retain(|follower| !follower.is_closed());
                    followers.push(follower);
                    return Ok(Role::Follow(stream, interest));
                }
            }
            None => {}
        }
        let (sender, abandoned) = mpsc::channel(1);
        table.calls += 1;
        let call = table.calls;
        let in_flight = InFlight::Calling {
            call,
            followers: Vec::new(),
            interest: sender.downgrade(),
        };
        table.by_key.insert(key.clone(), in_flight);
        let leader = LeaderGuard {
            coalescer: Arc::clone(self),
            call,
            key: Some(key.clone()),
            start,
        };
        let interest = Interest { _sender: sender };
        Ok(Role::Lead(leader, interest, Abandoned(abandoned)))
    }

    /// Removes a stream that has ended.
    pub(crate) fn remove(&self, stream: &Arc<RecordedStream>) {
        let key = (stream.owner.clone(), stream.key.clone());
        let mut table = self.lock();
        let open = table.by_key.get(&key);
        if matches!(open, Some(InFlight::Open(open)) if Arc::ptr_eq(open, stream)) {
            table.by_key.remove(&key);
        }
    }
}

fn join(stream: &RecordedStream, start: StartAt) -> Option<Subscription> {
    let reader = stream.join(start)?;
    Some(Subscription::new(stream.id, stream.head(), reader))
}

impl Table {
    /// Removes a call, and returns its followers. Returns `None` if the call was abandoned and another one has begun.
    fn take(&mut self, key: &Key, call: u64) -> Option<Vec<oneshot::Sender<Subscription>>> {
        match self.by_key.get_mut(key) {
            Some(InFlight::Calling {
                call: current,
                followers,
                ..
            }) if *current == call => {
                let followers = std::mem::take(followers);
                self.by_key.remove(key);
                Some(followers)
            }
            _ => None,
        }
    }
}

impl LeaderGuard {
    /// Subscribes the followers to the stream of the response, and opens it for later requests.
    pub(crate) fn complete(mut self, stream: &Arc<RecordedStream>) {
        let Some(key) = self.key.take() else { return };
        // A stream that opened a session belongs to that session alone.
        let is_shared = (&stream.owner, &stream.key) == (&key.0, &key.1);
        let mut table = self.coalescer.lock();
        let followers = table.take(&key, self.call);
        if followers.is_some() && is_shared {
            let open = InFlight::Open(Arc::clone(stream));
            table.by_key.insert(key, open);
        }
        drop(table);
        // A follower without a subscription sees its channel close.
        for follower in followers.into_iter().flatten().filter(|_| is_shared) {
            if let Some(subscription) = join(stream, self.start) {
                let _ = follower.send(subscription);
            }
        }
    }
}

impl Drop for LeaderGuard {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            // The followers wake after the lock is released.
            let followers = self.coalescer.lock().take(&key, self.call);
            drop(followers);
        }
    }
}

impl Abandoned {
    pub(crate) async fn wait(mut self) {
        // No value is ever sent: this waits for the last sender to drop.
        self.0.recv().await;
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
        let owner = StreamOwner {
            owner: Owner::ANONYMOUS,
            session: None,
        };
        (owner, StreamKey::Shared("".into(), "all".into()))
    }

    /// Requests the stream inside of its waker, as an executor may.
    struct RequestOnWake(Arc<Coalescer>);

    impl Wake for RequestOnWake {
        fn wake(self: Arc<Self>) {
            let role = self.0.assign_role(key(), StartAt::Live, true);
            assert!(matches!(role, Role::Lead(..)));
        }
    }

    #[test]
    fn follower_may_request_the_stream_inside_of_its_waker() {
        let coalescer = Arc::<Coalescer>::default();
        let Role::Lead(leader, _interest, _abandoned) =
            coalescer.assign_role(key(), StartAt::Live, true)
        else {
            panic!("there is no call yet");
        };
        let Role::Follow(stream, _interest) = coalescer.assign_role(key(), StartAt::Live, true)
        else {
            panic!("the call is in flight");
        };
        let mut stream = pin!(stream);
        let waker = Waker::from(Arc::new(RequestOnWake(Arc::clone(&coalescer))));
        let cx = &mut Context::from_waker(&waker);
        assert!(stream.as_mut().poll(cx).is_pending());
        drop(leader);
        assert!(matches!(stream.as_mut().poll(cx), Poll::Ready(Err(_))));
    }

    #[test]
    fn abandoned_call_does_not_release_the_followers_of_the_next_call() {
        let coalescer = Arc::<Coalescer>::default();
        let Role::Lead(first, interest, _abandoned) =
            coalescer.assign_role(key(), StartAt::Live, true)
        else {
            panic!("there is no call yet");
        };
        drop(interest);
        let Role::Lead(second, _interest, _abandoned) =
            coalescer.assign_role(key(), StartAt::Live, true)
        else {
            panic!("the first call is abandoned");
        };
        let Role::Follow(mut stream, _interest) = coalescer.assign_role(key(), StartAt::Live, true)
        else {
            panic!("the second call is in flight");
        };
        drop(first);
        assert_eq!(stream.try_recv().err(), Some(TryRecvError::Empty));
        drop(second);
        assert_eq!(stream.try_recv().err(), Some(TryRecvError::Closed));
    }
}
