//! A part of the sessions, behind one lock.

use std::{
    collections::{BTreeMap, HashMap},
    hash::RandomState,
    time::{Duration, SystemTime},
};

use lru::LruCache;
use tokio::time::Instant;

use super::super::{NewSession, Owner, Session, SessionId, StreamCount};

/// A session that is bound makes this many expired ones go, so that they do not pile up, and none waits for all of them.
const SWEPT: usize = 4;

/// How long sessions live.
#[derive(Clone, Copy)]
pub(super) struct Lifetime {
    /// Without being asked for.
    pub(super) idle: Duration,
    /// At all.
    pub(super) age: Duration,
}

/// Sessions, by all that they are looked for by. Each is in all four, or in none.
pub(super) struct Shard {
    /// The last one is the one that nobody has asked for longest.
    by_use: LruCache<SessionId, Entry>,
    /// When they were bound; the last one has lived longest.
    by_age: LruCache<SessionId, Instant>,
    by_upstream: HashMap<NewSession, SessionId>,
    /// Those of each owner, the one that was used the longest time ago first.
    by_owner: BTreeMap<(Owner, u64), SessionId>,
    /// How often a session was used.
    uses: u64,
    /// Whose sessions are gone, and were not yet taken out of the census.
    gone: Vec<Owner>,
}

struct Entry {
    session: Session,
    bound: Instant,
    used: Instant,
    /// The place of the last use in `by_owner`.
    place: u64,
    streams: StreamCount,
}

/// What goes first: what has expired by age, then what nobody has asked for longest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Aged(Instant),
    Idle(Instant),
}

impl Shard {
    /// Whether nothing is left, wherever one looks.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_use.is_empty()
            && self.by_age.is_empty()
            && self.by_upstream.is_empty()
            && self.by_owner.is_empty()
    }

    /// The owners of the sessions that are gone since this was asked last.
    pub(super) fn take_gone(&mut self) -> Vec<Owner> {
        std::mem::take(&mut self.gone)
    }

    /// The session, which is now in use.
    pub(super) fn find(
        &mut self,
        id: &SessionId,
        now: Instant,
        lifetime: Lifetime,
    ) -> Option<Session> {
        let entry = self.by_use.get_mut(id)?;
        if entry.has_expired(now, lifetime) {
            self.forget(id);
            return None;
        }
        self.uses += 1;
        let before = (entry.session.owner, entry.place);
        entry.place = self.uses;
        if let Some(id) = self.by_owner.remove(&before) {
            self.by_owner.insert((before.0, self.uses), id);
        }
        Some(entry.touch(now))
    }

    /// The session in force of this upstream and owner.
    pub(super) fn find_bound(
        &mut self,
        new: &NewSession,
        now: Instant,
        lifetime: Lifetime,
    ) -> Option<Session> {
        let id = self.by_upstream.get(new).cloned()?;
        self.find(&id, now, lifetime)
    }

    /// When the session of this owner was used that goes first: the one that was used the longest time ago. None that has an
    /// open stream is one; those count as used now.
    pub(super) fn oldest_of(&mut self, owner: Owner, now: Instant) -> Option<Instant> {
        let seen = self.uses;
        loop {
            let mut all = self.by_owner.range((owner, 0)..=(owner, seen));
            let (&place, id) = all.next()?;
            let entry = self.by_use.peek_mut(id)?;
            if entry.streams.get() == 0 {
                return Some(entry.used);
            }
            self.uses += 1;
            (entry.place, entry.used) = (self.uses, now);
            self.by_use.promote(id);
            if let Some(id) = self.by_owner.remove(&place) {
                self.by_owner.insert((owner, self.uses), id);
            }
        }
    }

    /// Evicts the session of this owner that goes first. Whether there was one.
    pub(super) fn evict_of(&mut self, owner: Owner, now: Instant) -> bool {
        if self.oldest_of(owner, now).is_none() {
            return false;
        }
        let mut all = self.by_owner.range((owner, 0)..=(owner, u64::MAX));
        let id = all.next().map(|(_, id)| id.clone());
        id.is_some_and(|id| self.forget(&id).is_some())
    }

    /// Evicts a session that has expired. Whether there was one.
    pub(super) fn evict_expired(&mut self, now: Instant, lifetime: Lifetime) -> bool {
        let expired = match self.first_to_go(now, lifetime) {
            Some(Turn::Aged(_)) => true,
            Some(Turn::Idle(used)) => now.duration_since(used) >= lifetime.idle,
            None => false,
        };
        if expired {
            self.let_go(now, lifetime);
        }
        expired
    }

    /// The session in force and false, or else a new one and true.
    pub(super) fn bind(
        &mut self,
        new: NewSession,
        mint: impl FnOnce() -> SessionId,
        now: Instant,
        lifetime: Lifetime,
    ) -> (Session, bool) {
        if let Some(session) = self.find_bound(&new, now, lifetime) {
            return (session, false);
        }
        let id = mint();
        let mut session = Session::new(id.clone(), new.clone(), SystemTime::now());
        session.idle_timeout = Some(lifetime.idle);
        let streams = StreamCount::default();
        session.open_streams = Some(streams.clone());
        self.sweep(now, lifetime);
        self.uses += 1;
        self.by_owner.insert((new.owner, self.uses), id.clone());
        let entry = Entry {
            session: session.clone(),
            bound: now,
            used: now,
            place: self.uses,
            streams,
        };
        self.by_use.put(id.clone(), entry);
        self.by_age.put(id.clone(), now);
        self.by_upstream.insert(new, id);
        (session, true)
    }

    /// The session that was forgotten.
    pub(super) fn remove(
        &mut self,
        id: &SessionId,
        now: Instant,
        lifetime: Lifetime,
    ) -> Option<Session> {
        let entry = self.forget(id)?;
        (!entry.has_expired(now, lifetime)).then_some(entry.session)
    }

    /// Which session goes first if one has to.
    fn first_to_go(&self, now: Instant, lifetime: Lifetime) -> Option<Turn> {
        let (_, &bound) = self.by_age.peek_lru()?;
        if now.duration_since(bound) >= lifetime.age {
            return Some(Turn::Aged(bound));
        }
        let (_, entry) = self.by_use.peek_lru()?;
        Some(Turn::Idle(entry.used))
    }

    /// Forgets the one whose turn it is.
    fn let_go(&mut self, now: Instant, lifetime: Lifetime) {
        let id = match self.first_to_go(now, lifetime) {
            Some(Turn::Aged(_)) => self.by_age.peek_lru().map(|(id, _)| id.clone()),
            Some(Turn::Idle(_)) => self.by_use.peek_lru().map(|(id, _)| id.clone()),
            None => None,
        };
        if let Some(id) = id {
            self.forget(&id);
        }
    }

    fn sweep(&mut self, now: Instant, lifetime: Lifetime) {
        for _ in 0..SWEPT {
            if !self.evict_expired(now, lifetime) {
                return;
            }
        }
    }

    fn forget(&mut self, id: &SessionId) -> Option<Entry> {
        let entry = self.by_use.pop(id)?;
        self.by_age.pop(id);
        self.by_upstream.remove(&entry.upstream());
        let owner = entry.session.owner;
        self.by_owner.remove(&(owner, entry.place));
        self.gone.push(owner);
        Some(entry)
    }
}

impl Entry {
    fn has_expired(&self, now: Instant, lifetime: Lifetime) -> bool {
        now.duration_since(self.used) >= lifetime.idle
            || now.duration_since(self.bound) >= lifetime.age
    }

    fn touch(&mut self, now: Instant) -> Session {
        self.used = now;
        // Two clocks would tell two stories when one of them is set.
        let lived = now.duration_since(self.bound);
        self.session.last_seen = self
            .session
            .created
            .checked_add(lived)
            .unwrap_or(self.session.created);
        self.session.clone()
    }

    fn upstream(&self) -> NewSession {
        NewSession {
            upstream_id: self.session.upstream_id.clone(),
            upstream: self.session.upstream.clone(),
            owner: self.session.owner,
        }
    }
}

impl Default for Shard {
    fn default() -> Self {
        // Upstreams choose what is looked for by: a hash that nobody can foresee.
        Self {
            by_use: LruCache::unbounded_with_hasher(RandomState::new()),
            by_age: LruCache::unbounded_with_hasher(RandomState::new()),
            by_upstream: HashMap::new(),
            by_owner: BTreeMap::new(),
            uses: 0,
            gone: Vec::new(),
        }
    }
}
