//! A part of the sessions of a store, behind one lock.

use std::{
    collections::{BTreeMap, HashMap},
    hash::RandomState,
    time::{Duration, SystemTime},
};

use lru::LruCache;
use tokio::time::Instant;

use super::super::{NewSession, Owner, Session, SessionId, StreamCount};

/// The maximum number of expired sessions that one `Bind` removes. It bounds the time of a `Bind`, and is more than one so that
/// expired sessions do not accumulate.
const MAX_REMOVED_PER_BIND: usize = 4;

/// How long sessions live.
#[derive(Clone, Copy)]
pub(super) struct Lifetime {
    /// The maximum time without a lookup or touch.
    pub(super) idle: Duration,
    /// The maximum time since the session was bound.
    pub(super) age: Duration,
}

/// Sessions, with an index for each way to find one. Each session is in all four maps; a session that was bound again to another
/// upstream id is not in `by_upstream`, because the shard of that id may be another one.
pub(super) struct Shard {
    /// In order of use. The last entry is the least recently used.
    by_use: LruCache<SessionId, Entry>,
    /// The time when each session was bound. The last entry is the oldest.
    by_age: LruCache<SessionId, Instant>,
    by_upstream: HashMap<NewSession, SessionId>,
    /// The sessions of each owner in order of use. The first entry of an owner is its least recently used.
    by_owner: BTreeMap<(Owner, u64), SessionId>,
    /// The sequence number of the last use of any session.
    last_use: u64,
    /// The owner of each session that was removed since the last `take_removed`. The census does not know of the removal yet.
    removed: Vec<Owner>,
}

struct Entry {
    session: Session,
    bound: Instant,
    used: Instant,
    /// The sequence number of the last use: the key in `by_owner`.
    use_number: u64,
    streams: StreamCount,
}

impl Shard {
    /// Whether all maps are empty.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_use.is_empty()
            && self.by_age.is_empty()
            && self.by_upstream.is_empty()
            && self.by_owner.is_empty()
    }

    /// The owner of each session that was removed since the last call.
    pub(super) fn take_removed(&mut self) -> Vec<Owner> {
        std::mem::take(&mut self.removed)
    }

    /// Finds a session by its id and restarts its idle timeout. Removes the session if it has expired.
    pub(super) fn find(
        &mut self,
        id: &SessionId,
        now: Instant,
        lifetime: Lifetime,
    ) -> Option<Session> {
        if self.by_use.peek(id)?.has_expired(now, lifetime) {
            self.remove_entry(id);
            return None;
        }
        self.count_use(id, now).map(|entry| entry.touch(now))
    }

    /// Counts a session as used now.
    fn count_use(&mut self, id: &SessionId, now: Instant) -> Option<&mut Entry> {
        let entry = self.by_use.get_mut(id)?;
        self.last_use += 1;
        let before = (entry.session.owner, entry.use_number);
        (entry.use_number, entry.used) = (self.last_use, now);
        if let Some(id) = self.by_owner.remove(&before) {
            self.by_owner.insert((before.0, self.last_use), id);
        }
        Some(entry)
    }

    /// Finds the session that `new` was bound to before, and restarts its idle timeout.
    pub(super) fn find_bound(
        &mut self,
        new: &NewSession,
        now: Instant,
        lifetime: Lifetime,
    ) -> Option<Session> {
        let id = self.by_upstream.get(new).cloned()?;
        self.find(&id, now, lifetime)
    }

    /// The time of the last use of the owner's least recently used session, of those without an open stream. A session with an open stream
    /// counts as used now.
    pub(super) fn oldest_of(&mut self, owner: Owner, now: Instant) -> Option<Instant> {
        let last_use = self.last_use;
        loop {
            let mut sessions = self.by_owner.range((owner, 0)..=(owner, last_use));
            let (_, id) = sessions.next()?;
            let entry = self.by_use.peek(id)?;
            if entry.streams.get() == 0 {
                return Some(entry.used);
            }
            let id = id.clone();
            self.count_use(&id, now);
        }
    }

    /// Evicts the owner's least recently used session without an open stream. Returns false if there is none.
    pub(super) fn evict_of(&mut self, owner: Owner, now: Instant) -> bool {
        if self.oldest_of(owner, now).is_none() {
            return false;
        }
        let mut sessions = self.by_owner.range((owner, 0)..=(owner, u64::MAX));
        let id = sessions.next().map(|(_, id)| id.clone());
        id.is_some_and(|id| self.remove_entry(&id).is_some())
    }

    /// Removes one expired session. Returns false if there is none.
    pub(super) fn remove_expired(&mut self, now: Instant, lifetime: Lifetime) -> bool {
        let id = self.expired(now, lifetime);
        id.is_some_and(|id| self.remove_entry(&id).is_some())
    }

    /// Returns the session that `new` was bound to before and false, or binds it to a new session and returns that and true.
    pub(super) fn bind(
        &mut self,
        new: NewSession,
        create_id: impl FnOnce() -> SessionId,
        now: Instant,
        lifetime: Lifetime,
    ) -> (Session, bool) {
        if let Some(session) = self.find_bound(&new, now, lifetime) {
            return (session, false);
        }
        let id = create_id();
        let mut session = Session::new(id.clone(), new.clone(), SystemTime::now());
        session.idle_timeout = Some(lifetime.idle);
        let streams = StreamCount::default();
        session.open_streams = Some(streams.clone());
        for _ in 0..MAX_REMOVED_PER_BIND {
            if !self.remove_expired(now, lifetime) {
                break;
            }
        }
        self.last_use += 1;
        self.by_owner.insert((new.owner, self.last_use), id.clone());
        let entry = Entry {
            session: session.clone(),
            bound: now,
            used: now,
            use_number: self.last_use,
            streams,
        };
        self.by_use.put(id.clone(), entry);
        self.by_age.put(id.clone(), now);
        self.by_upstream.insert(new, id);
        (session, true)
    }

    /// Binds a session of the same owner to another upstream session id, and restarts its idle timeout.
    pub(super) fn rebind(
        &mut self,
        id: &SessionId,
        new: NewSession,
        now: Instant,
        lifetime: Lifetime,
    ) -> Option<Session> {
        if self.find(id, now, lifetime)?.owner != new.owner {
            return None;
        }
        let entry = self.by_use.peek_mut(id)?;
        let before = entry.as_new();
        entry.session.upstream_id = new.upstream_id;
        entry.session.upstream = new.upstream;
        let session = entry.session.clone();
        self.remove_from_upstream_index(&before, id);
        Some(session)
    }

    /// Removes a session and returns it, unless it has expired.
    pub(super) fn remove(
        &mut self,
        id: &SessionId,
        now: Instant,
        lifetime: Lifetime,
    ) -> Option<Session> {
        let entry = self.remove_entry(id)?;
        (!entry.has_expired(now, lifetime)).then_some(entry.session)
    }

    /// The oldest session if it has reached the maximum age, or else the least recently used one if it has been idle for too long.
    fn expired(&mut self, now: Instant, lifetime: Lifetime) -> Option<SessionId> {
        let (oldest, &bound) = self.by_age.peek_lru()?;
        if now.duration_since(bound) >= lifetime.age {
            return Some(oldest.clone());
        }
        loop {
            let (least_recent, entry) = self.by_use.peek_lru()?;
            let id = least_recent.clone();
            if now.duration_since(entry.used) < lifetime.idle {
                return None;
            }
            if entry.streams.get() == 0 {
                return Some(id);
            }
            self.count_use(&id, now);
        }
    }

    /// Removes a session from all maps.
    fn remove_entry(&mut self, id: &SessionId) -> Option<Entry> {
        let entry = self.by_use.pop(id)?;
        self.by_age.pop(id);
        self.remove_from_upstream_index(&entry.as_new(), id);
        let owner = entry.session.owner;
        self.by_owner.remove(&(owner, entry.use_number));
        self.removed.push(owner);
        Some(entry)
    }

    /// Another session may have the same upstream id, if one of them was bound again.
    fn remove_from_upstream_index(&mut self, new: &NewSession, id: &SessionId) {
        if self.by_upstream.get(new) == Some(id) {
            self.by_upstream.remove(new);
        }
    }
}

impl Entry {
    /// A session with an open stream is not idle, even if its last touch is old: a pause of the process delays touches.
    fn has_expired(&self, now: Instant, lifetime: Lifetime) -> bool {
        let is_idle = now.duration_since(self.used) >= lifetime.idle;
        is_idle && self.streams.get() == 0 || now.duration_since(self.bound) >= lifetime.age
    }

    fn touch(&mut self, now: Instant) -> Session {
        // `last_seen` is derived from the monotonic clock, so that it stays consistent with `created` if the wall clock is set.
        let age = now.duration_since(self.bound);
        self.session.last_seen = self
            .session
            .created
            .checked_add(age)
            .unwrap_or(self.session.created);
        self.session.clone()
    }

    /// The key in `by_upstream`.
    fn as_new(&self) -> NewSession {
        NewSession {
            upstream_id: self.session.upstream_id.clone(),
            upstream: self.session.upstream.clone(),
            owner: self.session.owner,
        }
    }
}

impl Default for Shard {
    fn default() -> Self {
        // An upstream chooses part of the keys. With a random hasher it cannot create collisions on purpose (HashDoS).
        Self {
            by_use: LruCache::unbounded_with_hasher(RandomState::new()),
            by_age: LruCache::unbounded_with_hasher(RandomState::new()),
            by_upstream: HashMap::new(),
            by_owner: BTreeMap::new(),
            last_use: 0,
            removed: Vec::new(),
        }
    }
}
