//! The sessions that can be healed: their `initialize` requests, and how far their healing is.

use std::{
    collections::{BTreeSet, HashMap},
    hash::RandomState,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;
use tokio::sync::watch;

use super::initialize::Initialize;
use crate::session::{
    InStore, NewSession, Owner, Session, SessionId, UpstreamSessionId, healed::Healed,
};

/// The estimated memory of an entry without its `initialize` request and ids, in bytes.
const ENTRY: usize = 512;

/// The maximum number of former upstream ids of one session, for requests that found the session before it was healed.
const MAX_FORMER: usize = 8;

/// The maximum number of sessions of an owner that one `insert` drops because the store has dropped them.
const MAX_DROPPED_PER_INSERT: usize = 4;

/// The sessions that can be healed, up to a number of bytes. Each owner has a share.
pub(super) struct Sessions {
    max_bytes: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    owners: HashMap<Owner, Share>,
    /// The bytes of each owner.
    sizes: BTreeSet<(usize, Owner)>,
    bytes: usize,
}

/// The sessions of one owner, in order of use.
struct Share {
    sessions: LruCache<SessionId, Entry>,
    bytes: usize,
}

struct Entry {
    initialize: Arc<Initialize>,
    in_store: Option<InStore>,
    bytes: usize,
    /// The number of healings.
    generation: u64,
    /// The last healing.
    current: Option<Replacement>,
    /// Upstream ids that have been replaced. A request that still has one of them gets the current id. The first is that of the store, if
    /// the store cannot change it.
    former: Vec<UpstreamSessionId>,
    /// The healing that is running.
    healing: Option<Waiting>,
    /// The upstream has answered a request of the current upstream session with another status than 404.
    is_proven: bool,
    /// A 404 to a `GET` may mean that the session is lost.
    heals_on_get: bool,
    has_subscribed: bool,
}

/// The state of a request's session when the request is sent.
pub(super) struct Ticket {
    generation: u64,
    /// The upstream session to use, if it is not the one that the store returned.
    pub(super) current: Option<NewSession>,
    /// The healing to wait for before the request is sent.
    pub(super) healing: Option<Waiting>,
}

/// What to do about a 404.
pub(super) enum Claim {
    /// The session is not healed.
    No,
    Wait(Waiting),
    /// The session has been healed since the request was sent.
    Healed(Replacement),
    Start(Arc<Initialize>, Healing),
}

/// A new upstream session for the session of a client.
#[derive(Clone)]
pub(super) struct Replacement {
    pub(super) to: NewSession,
    pub(super) healed: Healed,
}

/// The result of a healing that another request has started.
#[derive(Clone)]
pub(super) struct Waiting(watch::Receiver<Option<Option<Replacement>>>);

impl Waiting {
    /// The new upstream session, or `None` if the healing failed.
    pub(super) async fn result(mut self) -> Option<Replacement> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()?
    }
}

/// A running healing. Dropping it is a failure.
pub(super) struct Healing {
    sessions: Arc<Sessions>,
    session: Key,
    result: watch::Sender<Option<Option<Replacement>>>,
    is_finished: bool,
}

/// A session, by its owner and the id of the client.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) owner: Owner,
    pub(super) id: SessionId,
}

impl From<&Session> for Key {
    fn from(session: &Session) -> Self {
        Self {
            owner: session.owner,
            id: session.id.clone(),
        }
    }
}

impl Sessions {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            table: Mutex::default(),
        }
    }

    /// Ignores poisoning: no code of a user runs under the lock.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, key: &Key, work: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut table = self.table();
        let share = table.owners.get_mut(&key.owner)?;
        share.sessions.get_mut(&key.id).map(work)
    }

    /// Stores the request that has opened a session.
    pub(super) fn insert(&self, session: &Session, initialize: Arc<Initialize>) {
        let entry = Entry {
            bytes: 0,
            initialize,
            in_store: session
                .open_streams
                .as_ref()
                .map(|streams| streams.in_store()),
            generation: 0,
            current: None,
            former: Vec::new(),
            healing: None,
            is_proven: true,
            heals_on_get: true,
            has_subscribed: false,
        };
        self.table().insert(&session.into(), entry, self.max_bytes);
    }

    /// Drops a session that has ended.
    pub(super) fn remove(&self, key: &Key) {
        self.table().remove(key);
    }

    /// Counts the memory of a session again.
    fn recount(&self, key: &Key) {
        self.table().recount(key, self.max_bytes);
    }

    /// The state of a session. `None` if it cannot be healed.
    pub(super) fn enter(&self, session: &Session) -> Option<Ticket> {
        self.with(&session.into(), |entry| Ticket {
            generation: entry.generation,
            current: entry
                .current
                .as_ref()
                .filter(|_| entry.former.contains(&session.upstream_id))
                .map(|current| current.to.clone()),
            healing: entry.healing.clone(),
        })
    }

    /// Remembers that the client has subscribed to resources.
    pub(super) fn record_subscription(&self, key: &Key) {
        self.with(key, |entry| entry.has_subscribed = true);
    }

    /// Remembers that the upstream knows the session.
    pub(super) fn record_answer(&self, key: &Key) {
        self.with(key, |entry| entry.is_proven = true);
    }

    /// Remembers that the upstream answers each `GET` with 404, also in a new session.
    pub(super) fn record_no_get(&self, key: &Key) {
        self.with(key, |entry| entry.heals_on_get = false);
    }

    /// Decides about a 404 to a request that was sent with this ticket. Only one request of a session gets [`Claim::Start`].
    pub(super) fn claim(self: &Arc<Self>, key: &Key, ticket: &Ticket, is_get: bool) -> Claim {
        let claim = self.with(key, |entry| {
            if let Some(healing) = &entry.healing {
                return Claim::Wait(healing.clone());
            }
            if let Some(current) = &entry.current
                && entry.generation > ticket.generation
            {
                return Claim::Healed(current.clone());
            }
            if !entry.is_proven || (is_get && !entry.heals_on_get) {
                return Claim::No;
            }
            let (result, waiting) = watch::channel(None);
            entry.healing = Some(Waiting(waiting));
            let healing = Healing {
                sessions: Arc::clone(self),
                session: key.clone(),
                result,
                is_finished: false,
            };
            Claim::Start(Arc::clone(&entry.initialize), healing)
        });
        claim.unwrap_or(Claim::No)
    }
}

impl Healing {
    /// A receiver of the result.
    pub(super) fn waiting(&self) -> Waiting {
        Waiting(self.result.subscribe())
    }

    /// The upstream session `former` has been replaced.
    pub(super) fn succeed(mut self, former: UpstreamSessionId, to: NewSession) -> Healed {
        let mut healed = Healed {
            session: self.session.id.clone(),
            owner: self.session.owner,
            had_subscriptions: false,
        };
        self.sessions.with(&self.session, |entry| {
            healed.had_subscriptions = std::mem::take(&mut entry.has_subscribed);
            entry.add_former(former, &to.upstream_id);
            entry.current = Some(Replacement {
                to: to.clone(),
                healed: healed.clone(),
            });
            entry.generation += 1;
            entry.is_proven = false;
        });
        self.sessions.recount(&self.session);
        let result = Replacement {
            to,
            healed: healed.clone(),
        };
        self.finish(Some(result));
        healed
    }

    fn finish(&mut self, result: Option<Replacement>) {
        if !std::mem::replace(&mut self.is_finished, true) {
            self.sessions
                .with(&self.session, |entry| entry.healing = None);
            self.result.send_replace(Some(result));
        }
    }
}

impl Drop for Healing {
    fn drop(&mut self) {
        self.finish(None);
    }
}

impl Entry {
    /// Adds an upstream id that `current` has replaced.
    fn add_former(&mut self, former: UpstreamSessionId, current: &UpstreamSessionId) {
        if !self.former.contains(&former) {
            if self.former.len() == MAX_FORMER {
                self.former.remove(1);
            }
            self.former.push(former);
        }
        // An upstream may use an id again.
        self.former.retain(|former| former != current);
    }

    /// The estimated memory, in bytes.
    fn memory(&self, id: &SessionId) -> usize {
        let former = self.former.iter().map(|id| id.as_str().len());
        let current = self.current.as_ref();
        let current = current.map_or(0, |current| current.to.upstream_id.as_str().len());
        let ids = id.as_str().len() + former.sum::<usize>() + current;
        ENTRY + ids + self.initialize.bytes()
    }
}

impl Table {
    fn insert(&mut self, key: &Key, entry: Entry, max_bytes: usize) {
        self.remove(key);
        if entry.memory(&key.id) > max_bytes {
            return;
        }
        for _ in 0..MAX_DROPPED_PER_INSERT {
            if !self.remove_dropped_by_store(key.owner) {
                break;
            }
        }
        let share = self.owners.entry(key.owner).or_insert_with(Share::new);
        share.sessions.put(key.id.clone(), entry);
        self.recount(key, max_bytes);
    }

    /// Counts the memory of a session again, and evicts sessions above the limit.
    fn recount(&mut self, key: &Key, max_bytes: usize) {
        let share = self.owners.get_mut(&key.owner);
        let Some(entry) = share.and_then(|share| share.sessions.peek_mut(&key.id)) else {
            return;
        };
        let memory = entry.memory(&key.id);
        let before = std::mem::replace(&mut entry.bytes, memory);
        self.resize(key.owner, before, memory);
        while self.bytes > max_bytes && self.evict() {}
    }

    fn remove(&mut self, key: &Key) {
        let share = self.owners.get_mut(&key.owner);
        if let Some(entry) = share.and_then(|share| share.sessions.pop(&key.id)) {
            self.resize(key.owner, entry.bytes, 0);
        }
    }

    /// Removes the owner's least recently used session if the store no longer has it.
    fn remove_dropped_by_store(&mut self, owner: Owner) -> bool {
        let share = self.owners.get(&owner);
        let Some((id, entry)) = share.and_then(|share| share.sessions.peek_lru()) else {
            return false;
        };
        let is_dropped = entry.in_store.as_ref().is_some_and(|store| !store.get());
        if is_dropped {
            let id = id.clone();
            self.remove(&Key { owner, id });
        }
        is_dropped
    }

    /// Removes the least recently used session of the owner with most bytes.
    fn evict(&mut self) -> bool {
        let Some(&(_, owner)) = self.sizes.last() else {
            return false;
        };
        let share = self.owners.get(&owner);
        let oldest = share.and_then(|share| share.sessions.peek_lru());
        let Some(id) = oldest.map(|(id, _)| id.clone()) else {
            return false;
        };
        self.remove(&Key { owner, id });
        true
    }

    /// Changes the bytes of an owner.
    fn resize(&mut self, owner: Owner, less: usize, more: usize) {
        let share = self.owners.entry(owner).or_insert_with(Share::new);
        self.sizes.remove(&(share.bytes, owner));
        share.bytes = share.bytes + more - less;
        self.bytes = self.bytes + more - less;
        if share.bytes > 0 {
            self.sizes.insert((share.bytes, owner));
        } else {
            self.owners.remove(&owner);
        }
    }
}

impl Share {
    fn new() -> Self {
        // An external store chooses the keys. With a random hasher, collisions cannot be created on purpose (HashDoS).
        Self {
            sessions: LruCache::unbounded_with_hasher(RandomState::new()),
            bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;

    use super::*;
    use crate::session::StreamCount;

    fn session(owner: u8, id: &str) -> Session {
        let new = NewSession::new(UpstreamSessionId::new("UP"), Owner::from_bytes([owner; 32]));
        Session::new(SessionId::parse(id).unwrap(), new, SystemTime::now())
    }

    fn initialize(bytes: usize) -> Arc<Initialize> {
        let (head, ()) = http::Request::post("/").body(()).unwrap().into_parts();
        Arc::new(Initialize::new(&head, Bytes::from(vec![b'x'; bytes])))
    }

    fn has(sessions: &Sessions, owner: u8, id: &str) -> bool {
        sessions.enter(&session(owner, id)).is_some()
    }

    fn assert_empty(sessions: &Sessions) {
        let table = sessions.table();
        assert_eq!(
            (table.bytes, table.owners.len(), table.sizes.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn owner_with_most_bytes_loses_its_oldest_session() {
        let sessions = Sessions::new(10_000);
        sessions.insert(&session(1, "small"), initialize(100));
        for id in ["a", "b", "c", "d", "e", "f"] {
            sessions.insert(&session(2, id), initialize(2000));
            // Used, so that it is not the oldest.
            has(&sessions, 2, "a");
        }
        assert!(has(&sessions, 1, "small"));
        let kept = ["a", "b", "c", "d", "e", "f"].map(|id| has(&sessions, 2, id));
        assert_eq!(kept, [true, false, false, false, true, true]);
        sessions.insert(&session(1, "too-large"), initialize(20_000));
        assert!(!has(&sessions, 1, "too-large"));
        for (owner, id) in [(1, "small"), (2, "a"), (2, "e"), (2, "f"), (2, "f")] {
            sessions.remove(&Key::from(&session(owner, id)));
        }
        assert_empty(&sessions);
    }

    #[test]
    fn session_that_the_store_has_dropped_is_dropped_with_the_next_insert() {
        let sessions = Sessions::new(10_000);
        let mut stored = session(1, "stored");
        stored.open_streams = Some(StreamCount::default());
        sessions.insert(&stored, initialize(1));
        sessions.insert(&session(1, "second"), initialize(1));
        assert!(has(&sessions, 1, "stored"));
        let key = Key::from(&session(1, "second"));
        sessions.remove(&key);
        drop(stored);
        sessions.insert(&session(1, "third"), initialize(1));
        assert!(!has(&sessions, 1, "stored"));
        sessions.remove(&Key::from(&session(1, "third")));
        assert_empty(&sessions);
    }

    #[test]
    fn one_request_starts_a_healing_and_a_dropped_one_can_start_again() {
        let sessions = Arc::new(Sessions::new(10_000));
        let stored = session(1, "stored");
        let key = Key::from(&stored);
        sessions.insert(&stored, initialize(1));
        let ticket = sessions.enter(&stored).unwrap();
        let claim = |ticket| sessions.claim(&key, ticket, false);
        let Claim::Start(_, healing) = claim(&ticket) else {
            panic!("no start");
        };
        assert!(matches!(claim(&ticket), Claim::Wait(_)));
        drop(healing);
        let Claim::Start(_, healing) = claim(&ticket) else {
            panic!("no second start");
        };
        healing.succeed(
            stored.upstream_id.clone(),
            NewSession::new(UpstreamSessionId::new("UP-2"), stored.owner),
        );
        assert!(matches!(claim(&ticket), Claim::Healed(_)));
        let now = sessions.enter(&stored).unwrap();
        assert_eq!(now.current.as_ref().unwrap().upstream_id.as_str(), "UP-2");
        assert!(
            matches!(claim(&now), Claim::No),
            "the upstream has not answered yet"
        );
        sessions.record_answer(&key);
        assert!(matches!(claim(&now), Claim::Start(..)));
    }
}
