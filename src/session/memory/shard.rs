//! A part of the sessions, behind one lock.

use std::{
    collections::HashMap,
    hash::RandomState,
    time::{Duration, SystemTime},
};

use lru::LruCache;
use tokio::time::Instant;

use super::super::{NewSession, Session, SessionId};

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

/// Sessions, by all that they are looked for by. Each is in all three, or in none.
pub(super) struct Shard {
    /// The last one is the one that nobody has asked for longest.
    by_use: LruCache<SessionId, Entry>,
    /// When they were bound; the last one has lived longest.
    by_age: LruCache<SessionId, Instant>,
    by_upstream: HashMap<NewSession, SessionId>,
}

struct Entry {
    session: Session,
    bound: Instant,
    used: Instant,
}

/// What goes first: what has expired by age, then what nobody has asked for longest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    Aged(Instant),
    Idle(Instant),
}

impl Shard {
    pub(super) fn len(&self) -> usize {
        self.by_use.len()
    }

    /// Whether nothing is left, wherever one looks.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_use.is_empty() && self.by_age.is_empty() && self.by_upstream.is_empty()
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
        Some(entry.touch(now))
    }

    /// The session in force, or else a new one.
    pub(super) fn bind(
        &mut self,
        new: NewSession,
        mint: impl FnOnce() -> SessionId,
        now: Instant,
        lifetime: Lifetime,
    ) -> Session {
        if let Some(id) = self.by_upstream.get(&new).cloned()
            && let Some(session) = self.find(&id, now, lifetime)
        {
            return session;
        }
        let id = mint();
        let mut session = Session::new(id.clone(), new.clone(), SystemTime::now());
        session.idle_timeout = Some(lifetime.idle);
        self.sweep(now, lifetime);
        let entry = Entry {
            session: session.clone(),
            bound: now,
            used: now,
        };
        self.by_use.put(id.clone(), entry);
        self.by_age.put(id.clone(), now);
        self.by_upstream.insert(new, id);
        session
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

    /// When it is whose turn to go.
    pub(super) fn first_to_go(&self, now: Instant, lifetime: Lifetime) -> Option<Turn> {
        let (_, &bound) = self.by_age.peek_lru()?;
        if now.duration_since(bound) >= lifetime.age {
            return Some(Turn::Aged(bound));
        }
        let (_, entry) = self.by_use.peek_lru()?;
        Some(Turn::Idle(entry.used))
    }

    /// Forgets the one whose turn it is.
    pub(super) fn let_go(&mut self, now: Instant, lifetime: Lifetime) {
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
            match self.first_to_go(now, lifetime) {
                Some(Turn::Idle(used)) if now.duration_since(used) < lifetime.idle => return,
                None => return,
                _ => self.let_go(now, lifetime),
            }
        }
    }

    fn forget(&mut self, id: &SessionId) -> Option<Entry> {
        let entry = self.by_use.pop(id)?;
        self.by_age.pop(id);
        self.by_upstream.remove(&entry.upstream());
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
        }
    }
}
