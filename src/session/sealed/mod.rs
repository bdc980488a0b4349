//! A session store without storage: each session id contains its session, encrypted.

mod key;
mod revoked;
mod token;

#[cfg(test)]
mod source;
#[cfg(test)]
mod tests;

use std::{
    error::Error,
    fmt,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tower_service::Service;

pub use self::key::{MalformedKey, SealedKey};
use self::{revoked::Revoked, token::Token};
use super::{NewSession, Session, SessionId, SessionRequest};

/// Stores no sessions: a session id contains its session, encrypted. Several nodes with the same key need no common store. Feature
/// `sealed`.
///
/// A session id is a token in base64 of at most 1024 characters. It contains the upstream session id, the upstream key, the owner and
/// the time of the binding, encrypted and authenticated with XChaCha20-Poly1305. Any node with the [key](SealedKey) can decrypt it, in
/// about two microseconds, also after a restart. The limits of this store:
///
/// * A session expires at its [maximum age](Self::max_age), in use or not. There is no idle timeout.
/// * Binding the same session twice creates two ids, and both are valid.
/// * `Remove` takes effect in the clones of this store only, until the process restarts, and for a [bounded
///   number](Self::max_revoked) of sessions. Other nodes still accept the id. If that matters, the upstream must reject requests of a
///   session that has ended, as MCP servers must.
/// * `Rebind` returns `None`, because the client's id contains the upstream's.
/// * Times are those of the wall clock. The clocks of the nodes must agree within the [clock skew](Self::clock_skew).
///
/// Also set the same [`owner_key`](crate::SseProxyLayer::owner_key) on all nodes. By default it is random in each layer, so that a session
/// has no owner on another node or after a restart.
///
/// # Errors
///
/// `Bind` fails with a [`SealError`] if the upstream session id and the upstream key have more than 682 bytes together. An id
/// that is not a token of one of the keys, or was changed in any bit, is unknown.
///
/// ```
/// use http::HeaderName;
/// use tower::ServiceExt;
/// use tower_sse_proxy::SseProxyLayer;
/// use tower_sse_proxy::session::{NewSession, Owner, SealedKey, SealedStore, SessionRequest, SessionMapping, UpstreamSessionId};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // In production, read the key from a secret that the nodes share.
/// let key: SealedKey = "8f0b3f3ec2c0f0b6a1b2b5f0a8e4d8c1f86c3a4f3e8f1d0c9b7a6958473625d1".parse()?;
/// let (store, other_node) = (SealedStore::new(key.clone()), SealedStore::new(key));
///
/// let new = NewSession::new(UpstreamSessionId::new("7f3a"), Owner::ANONYMOUS);
/// let bound = store.clone().oneshot(SessionRequest::Bind(new)).await?.unwrap();
/// let found = other_node.oneshot(SessionRequest::Lookup(bound.id)).await?.unwrap();
/// assert_eq!(found.upstream_id.as_str(), "7f3a");
///
/// // In a layer, with a second secret that the nodes share:
/// let owner_key = "Ge3yFhSs8m2ZkU5rCw0pTn7vQx4bJd1L";
/// let mapping = SessionMapping::header(HeaderName::from_static("x-session"));
/// let layer = SseProxyLayer::new(store).owner_key(owner_key).sessions(mapping);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SealedStore {
    settings: Arc<Settings>,
    revoked: Arc<Revoked>,
}

#[derive(Clone)]
struct Settings {
    /// The first key encrypts, all keys decrypt.
    keys: Vec<SealedKey>,
    max_age: Duration,
    clock_skew: Duration,
    max_revoked: usize,
    now: fn() -> SystemTime,
}

impl SealedStore {
    /// A store that encrypts and decrypts with this key.
    pub fn new(key: SealedKey) -> Self {
        let settings = Settings {
            keys: vec![key],
            max_age: Duration::from_secs(24 * 60 * 60),
            clock_skew: Duration::from_secs(60 * 60),
            max_revoked: 10_000,
            now: SystemTime::now,
        };
        Self {
            settings: Arc::new(settings),
            revoked: Arc::default(),
        }
    }

    /// Adds a key that only decrypts. Several keys cost no more time than one.
    ///
    /// To change the key: first add the new key on all nodes as a decryption key. Then make it the key of the store on all nodes, with
    /// the old key as a decryption key. Remove the old key after [`max_age`](Self::max_age).
    pub fn decryption_key(mut self, key: SealedKey) -> Self {
        self.settings_mut().keys.push(key);
        self
    }

    /// The time after which a session expires, with a resolution of one second. Default: 24 hours.
    ///
    /// This and the other settings apply to this clone and to later clones of it, not to earlier ones.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.settings_mut().max_age = age;
        self
    }

    /// The maximum time by which the binding of a session may be in the future of this node's clock. Default: 1 hour.
    ///
    /// It allows for clocks of nodes that differ, and for a clock that is set back. A session may live longer than its maximum age by
    /// this time. If a clock is set back by more, sessions that were bound in between are unknown until the clock has caught up.
    pub fn clock_skew(mut self, skew: Duration) -> Self {
        self.settings_mut().clock_skew = skew;
        self
    }

    /// The maximum number of removed sessions that the store remembers. Default: 10 000, which need about 0.5 MB. Minimum: 1. If there are
    /// more, the store drops the id that expires first. That id is then valid again until it expires.
    pub fn max_revoked(mut self, sessions: usize) -> Self {
        self.settings_mut().max_revoked = sessions.max(1);
        self
    }

    fn settings_mut(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
    }

    fn respond(&self, request: SessionRequest) -> Result<Option<Session>, SealError> {
        match request {
            SessionRequest::Bind(new) => self.bind(new).map(Some),
            SessionRequest::Lookup(id) | SessionRequest::Touch(id) => {
                Ok(self.open(id).map(|(session, _)| session))
            }
            SessionRequest::Remove(id) => Ok(self.remove(id)),
            // The client's id contains the upstream's.
            SessionRequest::Rebind(..) => Ok(None),
        }
    }

    fn bind(&self, new: NewSession) -> Result<Session, SealError> {
        let mut nonce = [0; 24];
        getrandom::fill(&mut nonce).map_err(|error| SealError(Reason::NoRandomNumbers(error)))?;
        let token = Token {
            created: since_1970((self.settings.now)()),
            nonce,
            session: new,
        };
        let too_long = || SealError(Reason::TooLong);
        let id = token.seal(&self.settings.keys[0]).ok_or_else(too_long)?;
        let created = at(token.created).ok_or_else(too_long)?;
        Ok(Session::new(id, token.session, created))
    }

    fn open(&self, id: SessionId) -> Option<(Session, revoked::Entry)> {
        let token = Token::open(id.as_str(), &self.settings.keys)?;
        let (now, created) = ((self.settings.now)(), at(token.created)?);
        let is_alive = match now.duration_since(created) {
            Ok(age) => age < self.settings.max_age,
            Err(ahead) => ahead.duration() <= self.settings.clock_skew,
        };
        let entry = (token.created, token.nonce);
        if !is_alive || self.revoked.contains(&entry) {
            return None;
        }
        let mut session = Session::new(id, token.session, created);
        session.last_seen = now;
        Some((session, entry))
    }

    fn remove(&self, id: SessionId) -> Option<Session> {
        let (session, entry) = self.open(id)?;
        // If several threads remove the session at the same time, only one of them returns it.
        self.revoked
            .insert(entry, self.settings.max_revoked)
            .then_some(session)
    }
}

fn since_1970(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn at(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

impl Service<SessionRequest> for SealedStore {
    type Response = Option<Session>;
    type Error = SealError;
    type Future = Ready<Result<Option<Session>, SealError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SealError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: SessionRequest) -> Self::Future {
        ready(self.respond(request))
    }
}

impl fmt::Debug for SealedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedStore")
            .field("keys", &self.settings.keys.len())
            .field("max_age", &self.settings.max_age)
            .field("clock_skew", &self.settings.clock_skew)
            .field("max_revoked", &self.settings.max_revoked)
            .finish_non_exhaustive()
    }
}

/// The error of a [`SealedStore`]: the upstream session id and key do not fit into a token, or the operating system cannot
/// provide random numbers. It contains no part of the session.
#[derive(Debug)]
pub struct SealError(Reason);

#[derive(Debug)]
enum Reason {
    TooLong,
    NoRandomNumbers(getrandom::Error),
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::TooLong => {
                let max = token::MAX_UPSTREAM;
                write!(
                    f,
                    "upstream session id and key too long for a sealed id: they may have {max} bytes together"
                )
            }
            Reason::NoRandomNumbers(_) => {
                f.write_str("the operating system cannot provide random numbers")
            }
        }
    }
}

impl Error for SealError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Reason::TooLong => None,
            Reason::NoRandomNumbers(error) => Some(error),
        }
    }
}
