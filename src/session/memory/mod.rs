//! Sessions in the memory of this process.

mod census;
mod shard;

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower_service::Service;

use self::{
    census::{Capacity, Census, Full},
    shard::{Lifetime, Shard},
};
use super::{NewSession, Owner, Session, SessionId, SessionRequest};

/// The first digit of an id tells its shard, so there are as many as a hexadecimal digit has values.
const SHARDS: usize = 16;

/// Keeps sessions in the memory of this process: for a gateway of one node.
///
/// It is bounded by [number](Self::max_sessions), in all and [for each owner](Self::max_sessions_per_owner). A session lives until
/// it was [idle](Self::idle_timeout) or has [lived](Self::max_age) for so long, by a monotonic clock.
///
/// At a bound, a new session takes the place of one that has expired; or else of one of the same owner, or, if only the store is
/// full, of one of the owner that has the most, as long as that owner keeps at least as many as the new session's owner then has.
/// The session goes that was used the longest time ago. A session with an [open stream](super::StreamCount) never goes. If no
/// session can go, `Bind` answers `None`, which the layer answers with 503 and `Retry-After`.
///
/// Ids are 48 hexadecimal digits, of which 188 bits are random. Ids of more than [128 bytes](Self::MAX_ID_LEN) are answered
/// without looking. What an upstream may ask to be kept is [bounded](Self::MAX_UPSTREAM_LEN) too.
///
/// Clones share their sessions. Nothing of it waits or fails, and it needs no runtime.
///
/// ```
/// use std::time::Duration;
/// use tower::ServiceExt;
/// use tower_sse_proxy::session::{MemoryStore, NewSession, Owner, SessionRequest, UpstreamSessionId};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
/// let store = MemoryStore::default()
///     .max_sessions(50_000)
///     .idle_timeout(Duration::from_secs(5 * 60));
///
/// let new = NewSession::new(UpstreamSessionId::new("7f3a"), Owner::ANONYMOUS);
/// let bound = store.clone().oneshot(SessionRequest::Bind(new)).await?.unwrap();
/// let found = store.oneshot(SessionRequest::Lookup(bound.id)).await?.unwrap();
/// assert_eq!(found.upstream_id.as_str(), "7f3a");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    max_sessions: usize,
    /// Unless set, half of them.
    max_sessions_per_owner: Option<usize>,
    lifetime: Lifetime,
    kept: Arc<Kept>,
}

/// What all clones share.
#[derive(Default)]
struct Kept {
    shards: [Mutex<Shard>; SHARDS],
    /// Which shard a session lives in: the one that its upstream's id falls to, so that binding it again finds it there.
    chooser: RandomState,
    /// The sessions in all shards. Taken last: no other lock is taken while it is held.
    census: Mutex<Census>,
    /// Held while room is made, so that two threads do not make it twice. Taken before the lock of a shard, never after.
    making_room: Mutex<()>,
}

impl MemoryStore {
    /// The longest id that is looked for, in bytes.
    pub const MAX_ID_LEN: usize = 128;

    /// The most that the upstream's id and the upstream's key may have together, in bytes. `Bind` answers `None` to more:
    /// otherwise an upstream could fill the memory with a few sessions.
    pub const MAX_UPSTREAM_LEN: usize = 4096;

    /// How many sessions are kept in all, at least 1. By default 10 000, as the SDKs of MCP have it.
    ///
    /// This and the other settings are those of this clone and of the clones that are made of it: set them first.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.max_sessions = sessions.max(1);
        self
    }

    /// How many sessions one owner may have, at least 1. By default half of [`max_sessions`](Self::max_sessions), so that no
    /// single owner can fill the store. All anonymous requests have one owner.
    pub fn max_sessions_per_owner(mut self, sessions: usize) -> Self {
        self.max_sessions_per_owner = Some(sessions.max(1));
        self
    }

    fn capacity(&self) -> Capacity {
        let half = (self.max_sessions / 2).max(1);
        Capacity {
            total: self.max_sessions,
            per_owner: self.max_sessions_per_owner.unwrap_or(half),
        }
    }

    /// How long a session lives without being asked for. By default 30 minutes, as the SDKs of MCP have it.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.lifetime.idle = timeout;
        self
    }

    /// How long a session lives, however busy it is. By default a day: longer than anybody works without a break, and short
    /// enough that an id that has leaked is not good for ever. `Duration::MAX` sets no limit.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.lifetime.age = age;
        self
    }

    fn answer(&self, request: SessionRequest) -> Option<Session> {
        let (now, lifetime) = (Instant::now(), self.lifetime);
        match request {
            SessionRequest::Lookup(id) | SessionRequest::Touch(id) => self
                .kept
                .within(shard_of(&id)?, |shard| shard.find(&id, now, lifetime)),
            SessionRequest::Remove(id) => self
                .kept
                .within(shard_of(&id)?, |shard| shard.remove(&id, now, lifetime)),
            SessionRequest::Bind(new) => self.bind(new, now),
        }
    }

    fn bind(&self, new: NewSession, now: Instant) -> Option<Session> {
        let key_len = new.upstream.as_ref().map_or(0, |key| key.as_str().len());
        if new.upstream_id.as_str().len() + key_len > Self::MAX_UPSTREAM_LEN {
            return None;
        }
        let n = self.kept.chooser.hash_one(&new) as usize % SHARDS;
        let (lifetime, owner) = (self.lifetime, new.owner);
        let bound = |shard: &mut Shard| shard.find_bound(&new, now, lifetime);
        if let Some(session) = self.kept.within(n, bound) {
            return Some(session);
        }
        if !self.kept.reserve(owner, self.capacity(), now, lifetime) {
            return None;
        }
        let (session, is_new) = self
            .kept
            .within(n, |shard| shard.bind(new, || mint(n), now, lifetime));
        if !is_new {
            lock(&self.kept.census).release(owner);
        }
        Some(session)
    }
}

/// So many of the larger owners are looked at for a session that can go, before one of the new session's owner has to.
const LARGER_OWNERS: usize = 8;

impl Kept {
    /// Works on a shard and counts what has become of it.
    fn within<T>(&self, n: usize, work: impl FnOnce(&mut Shard) -> T) -> T {
        let mut shard = lock(&self.shards[n]);
        let answer = work(&mut shard);
        let gone = shard.take_gone();
        if !gone.is_empty() {
            let mut census = lock(&self.census);
            gone.into_iter().for_each(|owner| census.release(owner));
        }
        answer
    }

    /// Counts one more session of this owner, and makes room for it. False if no session can go.
    fn reserve(&self, owner: Owner, capacity: Capacity, now: Instant, lifetime: Lifetime) -> bool {
        let reserve = || lock(&self.census).reserve(owner, capacity);
        if reserve().is_ok() {
            return true;
        }
        let _alone = lock(&self.making_room);
        while let Err(full) = reserve() {
            if !self.make_room(owner, full, now, lifetime) {
                return false;
            }
        }
        true
    }

    /// Evicts one session, or none if none can go.
    fn make_room(&self, owner: Owner, full: Full, now: Instant, lifetime: Lifetime) -> bool {
        let mut shards = 0..SHARDS;
        if shards.any(|n| self.within(n, |shard| shard.evict_expired(now, lifetime))) {
            return true;
        }
        let larger: Vec<_> = match full {
            Full::Owner => Vec::new(),
            Full::Store => {
                let census = lock(&self.census);
                census.larger_than(owner).take(LARGER_OWNERS).collect()
            }
        };
        let mut candidates = larger.into_iter().chain([owner]);
        candidates.any(|owner| self.evict_of(owner, now))
    }

    /// Evicts the session of this owner that was used the longest time ago.
    fn evict_of(&self, owner: Owner, now: Instant) -> bool {
        let oldest = |n: usize| Some((self.within(n, |shard| shard.oldest_of(owner, now))?, n));
        let Some((_, n)) = (0..SHARDS).filter_map(oldest).min() else {
            return false;
        };
        self.within(n, |shard| shard.evict_of(owner, now))
    }
}

/// Nothing is half done in a shard when a lock is poisoned: what can panic does so before anything is changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `None` if no id of this store looks like that.
fn shard_of(id: &SessionId) -> Option<usize> {
    let id = id.as_str();
    if id.len() > MemoryStore::MAX_ID_LEN {
        return None;
    }
    let digit = char::from(*id.as_bytes().first()?).to_digit(SHARDS as u32)?;
    Some(digit as usize)
}

fn mint(shard: usize) -> SessionId {
    let random = SessionId::random();
    let id = format!("{shard:x}{}", &random.as_str()[1..]);
    SessionId::parse(&id).unwrap_or(random)
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self {
            max_sessions: 10_000,
            max_sessions_per_owner: None,
            lifetime: Lifetime {
                idle: Duration::from_secs(30 * 60),
                age: Duration::from_secs(24 * 60 * 60),
            },
            kept: Arc::default(),
        }
    }
}

impl Service<SessionRequest> for MemoryStore {
    type Response = Option<Session>;
    type Error = Infallible;
    type Future = Ready<Result<Option<Session>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: SessionRequest) -> Self::Future {
        ready(Ok(self.answer(request)))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("max_sessions", &self.capacity().total)
            .field("max_sessions_per_owner", &self.capacity().per_owner)
            .field("idle_timeout", &self.lifetime.idle)
            .field("max_age", &self.lifetime.age)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod expired;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::session::{Owner, SessionStore, UpstreamSessionId};

    fn bind(store: &MemoryStore, upstream_id: &str) -> Session {
        let new = NewSession::new(UpstreamSessionId::new(upstream_id), Owner::ANONYMOUS);
        store.answer(SessionRequest::Bind(new)).unwrap()
    }

    fn find(store: &MemoryStore, session: &Session) -> Option<Session> {
        store.answer(SessionRequest::Lookup(session.id.clone()))
    }

    #[test]
    fn it_is_a_store() {
        fn is_store<S: SessionStore>() {}
        is_store::<MemoryStore>();
    }

    #[test]
    fn a_poisoned_lock_is_no_end() {
        let store = MemoryStore::default()
            .max_sessions(2)
            .max_sessions_per_owner(2);
        let before = bind(&store, "before");
        let poisoned = store.clone();
        let panicked = thread::spawn(move || {
            let _all: Vec<_> = poisoned.kept.shards.iter().map(lock).collect();
            let _alone = lock(&poisoned.kept.making_room);
            panic!("with all locks held");
        });
        assert!(panicked.join().is_err());
        assert_eq!(find(&store, &before).unwrap().id, before.id);
        let sessions = ["a", "b", "c"].map(|upstream_id| bind(&store, upstream_id));
        assert!(find(&store, &before).is_none());
        assert!(find(&store, &sessions[2]).is_some());
    }

    #[test]
    fn what_is_gone_leaves_nothing_behind() {
        let store = MemoryStore::default().max_sessions(100);
        let sessions: Vec<_> = (0..500).map(|n| bind(&store, &n.to_string())).collect();
        for session in &sessions {
            store.answer(SessionRequest::Remove(session.id.clone()));
        }
        assert_eq!(lock(&store.kept.census).total(), 0);
        for shard in &store.kept.shards {
            assert!(lock(shard).is_empty());
        }
    }

    #[test]
    fn nothing_of_a_session_is_shown() {
        let store = MemoryStore::default();
        bind(&store, "canary");
        let shown = "MemoryStore { max_sessions: 10000, max_sessions_per_owner: 5000, idle_timeout: 1800s, max_age: 86400s, .. }";
        assert_eq!(format!("{store:?}"), shown);
    }
}
