//! A session store in the memory of this process.

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

/// The number of shards. The first hexadecimal digit of a session id is the number of its shard.
const SHARDS: usize = 16;

/// Keeps sessions in the memory of this process, for a gateway with one node.
///
/// # Limits
///
/// The number of sessions is bounded, [in total](Self::max_sessions) and [for each owner](Self::max_sessions_per_owner). A session
/// expires when it has been [idle](Self::idle_timeout) for too long or reaches its [maximum age](Self::max_age), by a monotonic clock.
///
/// If a new session would exceed a limit, the store evicts another session, in this order:
///
/// 1. an expired session;
/// 2. if the store is full: a session of an owner that has at least two sessions more than the owner of the new session, starting
///    with the owner that has most;
/// 3. a session of the same owner.
///
/// It evicts the owner's least recently used session, and never a session with an [open stream](super::StreamCount). If it cannot evict a
/// session, `Bind` returns `None`, and the layer answers with 503 and `Retry-After`.
///
/// A later `Bind` does not find a session by the upstream session id that `Rebind` gave it, and creates another session.
///
/// A session id is 48 hexadecimal digits, of which 188 bits are random. A longer id than [`MAX_ID_LEN`](Self::MAX_ID_LEN) is unknown
/// without a lookup. The length of an upstream session id is [limited](Self::MAX_UPSTREAM_LEN), too.
///
/// Clones share their sessions. Calls never wait for anything but a lock, never fail, and need no runtime.
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
    /// `None`: half of `max_sessions`.
    max_sessions_per_owner: Option<usize>,
    lifetime: Lifetime,
    shared: Arc<Shared>,
}

/// The state that all clones share.
#[derive(Default)]
struct Shared {
    shards: [Mutex<Shard>; SHARDS],
    /// Chooses the shard of a new session by a hash of the upstream session id, so that a second `Bind` finds the session.
    hasher: RandomState,
    /// The number of sessions in all shards. This lock is taken last: no other lock is taken while it is held.
    census: Mutex<Census>,
    /// Held while a session is evicted, so that two threads do not evict two for one. This lock is taken before that of a shard.
    evicting: Mutex<()>,
}

impl MemoryStore {
    /// The maximum length of a session id in bytes. A longer id is unknown.
    pub const MAX_ID_LEN: usize = 128;

    /// The maximum length of the upstream session id and the [`UpstreamKey`](super::UpstreamKey) together, in bytes. `Bind` returns
    /// `None` for a longer one. Without the limit, an upstream could fill the memory with few sessions.
    pub const MAX_UPSTREAM_LEN: usize = 4096;

    /// The maximum number of sessions. Default: 10 000, as in the MCP SDKs. Minimum: 1.
    ///
    /// This and the other settings apply to this clone and to later clones of it, not to earlier ones. Set them before you clone.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.max_sessions = sessions.max(1);
        self
    }

    /// The maximum number of sessions of one owner. Default: half of [`max_sessions`](Self::max_sessions), so that no owner can fill
    /// the store. Minimum: 1. All anonymous requests have the same owner.
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

    /// The time after which a session without an open stream expires, from its last lookup or touch on. Default: 30 minutes, as in the
    /// MCP SDKs.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.lifetime.idle = timeout;
        self
    }

    /// The time after which a session expires even if it is in use. It limits how long a leaked id is valid. Default: 24 hours.
    /// `Duration::MAX` is no limit.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.lifetime.age = age;
        self
    }

    fn respond(&self, request: SessionRequest) -> Option<Session> {
        let (now, lifetime) = (Instant::now(), self.lifetime);
        match request {
            SessionRequest::Lookup(id) | SessionRequest::Touch(id) => self
                .shared
                .with_shard(shard_of(&id)?, |shard| shard.find(&id, now, lifetime)),
            SessionRequest::Remove(id) => self
                .shared
                .with_shard(shard_of(&id)?, |shard| shard.remove(&id, now, lifetime)),
            SessionRequest::Bind(new) => self.bind(new, now),
            SessionRequest::Rebind(id, new) => {
                if is_too_long(&new) {
                    return None;
                }
                self.shared.with_shard(shard_of(&id)?, |shard| {
                    shard.rebind(&id, new, now, lifetime)
                })
            }
        }
    }

    fn bind(&self, new: NewSession, now: Instant) -> Option<Session> {
        if is_too_long(&new) {
            return None;
        }
        let n = self.shared.hasher.hash_one(&new) as usize % SHARDS;
        let (lifetime, owner) = (self.lifetime, new.owner);
        let find_bound = |shard: &mut Shard| shard.find_bound(&new, now, lifetime);
        if let Some(session) = self.shared.with_shard(n, find_bound) {
            return Some(session);
        }
        if !self.shared.reserve(owner, self.capacity(), now, lifetime) {
            return None;
        }
        let (session, is_new) = self
            .shared
            .with_shard(n, |shard| shard.bind(new, || create_id(n), now, lifetime));
        if !is_new {
            lock(&self.shared.census).release(owner);
        }
        Some(session)
    }
}

/// Whether the upstream session id and key exceed [`MemoryStore::MAX_UPSTREAM_LEN`].
fn is_too_long(new: &NewSession) -> bool {
    let key_len = new.upstream.as_ref().map_or(0, |key| key.as_str().len());
    new.upstream_id.as_str().len() + key_len > MemoryStore::MAX_UPSTREAM_LEN
}

/// The maximum number of larger owners that are searched for a session to evict, before the owner of the new session. It bounds the
/// time of a `Bind` if the sessions of many owners have open streams.
const MAX_LARGER_OWNERS: usize = 8;

impl Shared {
    /// Calls `work` with a shard, and subtracts the sessions that it removed from the census.
    fn with_shard<T>(&self, n: usize, work: impl FnOnce(&mut Shard) -> T) -> T {
        let mut shard = lock(&self.shards[n]);
        let result = work(&mut shard);
        let removed = shard.take_removed();
        if !removed.is_empty() {
            let mut census = lock(&self.census);
            removed.into_iter().for_each(|owner| census.release(owner));
        }
        result
    }

    /// Adds one to the count of the owner, and evicts sessions if a limit requires it. Returns false if no session can be evicted.
    fn reserve(&self, owner: Owner, capacity: Capacity, now: Instant, lifetime: Lifetime) -> bool {
        let reserve = || lock(&self.census).reserve(owner, capacity);
        if reserve().is_ok() {
            return true;
        }
        let _guard = lock(&self.evicting);
        while let Err(full) = reserve() {
            if !self.evict(owner, full, now, lifetime) {
                return false;
            }
        }
        true
    }

    /// Evicts one session. Returns false if none can be evicted.
    fn evict(&self, owner: Owner, full: Full, now: Instant, lifetime: Lifetime) -> bool {
        let mut shards = 0..SHARDS;
        if shards.any(|n| self.with_shard(n, |shard| shard.remove_expired(now, lifetime))) {
            return true;
        }
        let larger: Vec<_> = match full {
            Full::Owner => Vec::new(),
            Full::Store => {
                let census = lock(&self.census);
                census.larger_than(owner).take(MAX_LARGER_OWNERS).collect()
            }
        };
        let mut candidates = larger.into_iter().chain([owner]);
        candidates.any(|owner| self.evict_of(owner, now))
    }

    /// Evicts the owner's least recently used session over all shards. Returns false if none can be evicted.
    fn evict_of(&self, owner: Owner, now: Instant) -> bool {
        let oldest = |n: usize| Some((self.with_shard(n, |shard| shard.oldest_of(owner, now))?, n));
        let Some((_, n)) = (0..SHARDS).filter_map(oldest).min() else {
            return false;
        };
        self.with_shard(n, |shard| shard.evict_of(owner, now))
    }
}

/// Ignores poisoning: in all critical sections, code that can panic runs before the first change, so that a panic leaves the state
/// consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of the shard that a session id names, or `None` if this store cannot have created the id.
fn shard_of(id: &SessionId) -> Option<usize> {
    let id = id.as_str();
    if id.len() > MemoryStore::MAX_ID_LEN {
        return None;
    }
    let digit = char::from(*id.as_bytes().first()?).to_digit(SHARDS as u32)?;
    Some(digit as usize)
}

/// A random session id that names this shard.
fn create_id(shard: usize) -> SessionId {
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
            shared: Arc::default(),
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
        ready(Ok(self.respond(request)))
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
        store.respond(SessionRequest::Bind(new)).unwrap()
    }

    fn find(store: &MemoryStore, session: &Session) -> Option<Session> {
        store.respond(SessionRequest::Lookup(session.id.clone()))
    }

    #[test]
    fn memory_store_is_a_session_store() {
        fn is_store<S: SessionStore>() {}
        is_store::<MemoryStore>();
    }

    #[test]
    fn store_works_after_a_lock_was_poisoned() {
        let store = MemoryStore::default()
            .max_sessions(2)
            .max_sessions_per_owner(2);
        let before = bind(&store, "before");
        let poisoned = store.clone();
        let panicked = thread::spawn(move || {
            let _shards: Vec<_> = poisoned.shared.shards.iter().map(lock).collect();
            let _guard = lock(&poisoned.shared.evicting);
            panic!("with all locks held");
        });
        assert!(panicked.join().is_err());
        assert_eq!(find(&store, &before).unwrap().id, before.id);
        let sessions = ["a", "b", "c"].map(|upstream_id| bind(&store, upstream_id));
        assert!(find(&store, &before).is_none());
        assert!(find(&store, &sessions[2]).is_some());
    }

    #[test]
    fn removed_sessions_leave_no_entries() {
        let store = MemoryStore::default().max_sessions(100);
        let sessions: Vec<_> = (0..500).map(|n| bind(&store, &n.to_string())).collect();
        for session in &sessions {
            store.respond(SessionRequest::Remove(session.id.clone()));
        }
        assert_eq!(lock(&store.shared.census).total(), 0);
        for shard in &store.shared.shards {
            assert!(lock(shard).is_empty());
        }
    }

    #[test]
    fn debug_shows_settings_and_no_session() {
        let store = MemoryStore::default();
        bind(&store, "canary");
        let shown = "MemoryStore { max_sessions: 10000, max_sessions_per_owner: 5000, idle_timeout: 1800s, max_age: 86400s, .. }";
        assert_eq!(format!("{store:?}"), shown);
    }
}
