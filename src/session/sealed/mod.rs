//! Sessions that are kept by their clients.

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

/// Keeps nothing: the session's id is the session, sealed. For any number of nodes that have the same key. Feature `sealed`.
///
/// An id is a token in base64, of at most 1024 characters, that holds the upstream's id and key, the owner and when it was
/// bound, encrypted and authenticated (XChaCha20-Poly1305). Any node that has the [key](SealedKey) opens it, in about two
/// microseconds, after any restart. The price of that:
///
/// * A session lives for its [`max_age`](Self::max_age), used or not: there is no idle timeout.
/// * What is bound twice has two ids, both of which are good.
/// * `Remove` is known to the clones of this store only, until a restart, and for a [bounded number](Self::max_revoked) of
///   sessions. Another node goes on to open the token. Where that matters, the upstream has to refuse the id of a session that
///   it has ended, as servers of MCP must.
/// * Time is that of the wall clock, which the nodes have to agree on within the [`clock_skew`](Self::clock_skew).
///
/// The nodes also share an [`owner_key`](crate::SseProxyLayer::owner_key): unless it is set each layer has a random one, and on
/// another node or after a restart nobody is the owner of a session.
///
/// An upstream's id and key that do not fit, with more than 682 bytes together, are an [error](SealError). Whatever is no
/// token of this store's keys, in any bit, is unknown.
///
/// ```
/// use tower::ServiceExt;
/// use tower_sse_proxy::SseProxyLayer;
/// use tower_sse_proxy::session::{NewSession, Owner, SealedKey, SealedStore, SessionRequest, SessionMapping, UpstreamSessionId};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // In real life: read from a file that the nodes share.
/// let key: SealedKey = "8f0b3f3ec2c0f0b6a1b2b5f0a8e4d8c1f86c3a4f3e8f1d0c9b7a6958473625d1".parse()?;
/// let (store, there) = (SealedStore::new(key.clone()), SealedStore::new(key));
///
/// let new = NewSession::new(UpstreamSessionId::new("7f3a"), Owner::ANONYMOUS);
/// let bound = store.clone().oneshot(SessionRequest::Bind(new)).await?.unwrap();
/// let found = there.oneshot(SessionRequest::Lookup(bound.id)).await?.unwrap();
/// assert_eq!(found.upstream_id.as_str(), "7f3a");
///
/// // In a layer, with a second secret that the nodes share.
/// let owner_key = "Ge3yFhSs8m2ZkU5rCw0pTn7vQx4bJd1L";
/// let layer = SseProxyLayer::new(store).owner_key(owner_key).sessions(SessionMapping::header("x-session"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SealedStore {
    settings: Arc<Settings>,
    revoked: Arc<Revoked>,
}

#[derive(Clone)]
struct Settings {
    /// The first one seals.
    keys: Vec<SealedKey>,
    max_age: Duration,
    clock_skew: Duration,
    max_revoked: usize,
    now: fn() -> SystemTime,
}

impl SealedStore {
    /// A store that seals with this key, and opens what was sealed with it.
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

    /// Also opens what was sealed with this key. It costs nothing to have several.
    ///
    /// To change the key: first let all nodes open the new one, then let them seal with it and open the old one, and forget
    /// the old one a [`max_age`](Self::max_age) later.
    pub fn decryption_key(mut self, key: SealedKey) -> Self {
        self.set().keys.push(key);
        self
    }

    /// How long a session lives after it was bound, to the second. By default a day.
    ///
    /// This and the other settings are those of this clone and of the clones that are made of it.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.set().max_age = age;
        self
    }

    /// How far ahead of this node's clock a session may have been bound. By default an hour.
    ///
    /// It is how far the clocks of the nodes may be apart, and a clock may be set back: what that costs is that a session may live
    /// so much longer. If a clock is set back by more, sessions that were bound in between
    /// are unknown until it is that time again.
    pub fn clock_skew(mut self, skew: Duration) -> Self {
        self.set().clock_skew = skew;
        self
    }

    /// How many removed sessions are remembered until they expire, at least 1. By default 10 000, which take about half a
    /// megabyte. When there are more, the one that expires first is forgotten, and its id is good again until it does.
    pub fn max_revoked(mut self, sessions: usize) -> Self {
        self.set().max_revoked = sessions.max(1);
        self
    }

    fn set(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
    }

    fn answer(&self, request: SessionRequest) -> Result<Option<Session>, SealError> {
        match request {
            SessionRequest::Bind(new) => self.bind(new).map(Some),
            SessionRequest::Lookup(id) | SessionRequest::Touch(id) => {
                Ok(self.open(id).map(|(session, _)| session))
            }
            SessionRequest::Remove(id) => Ok(self.remove(id)),
        }
    }

    fn bind(&self, new: NewSession) -> Result<Session, SealError> {
        let mut nonce = [0; 24];
        getrandom::fill(&mut nonce).map_err(|error| SealError(Why::NoRandomNumbers(error)))?;
        let token = Token {
            created: since_1970((self.settings.now)()),
            nonce,
            session: new,
        };
        let too_long = || SealError(Why::TooLong);
        let id = token.seal(&self.settings.keys[0]).ok_or_else(too_long)?;
        let created = at(token.created).ok_or_else(too_long)?;
        Ok(Session::new(id, token.session, created))
    }

    fn open(&self, id: SessionId) -> Option<(Session, revoked::Entry)> {
        let token = Token::open(id.as_str(), &self.settings.keys)?;
        let (now, created) = ((self.settings.now)(), at(token.created)?);
        let alive = match now.duration_since(created) {
            Ok(age) => age < self.settings.max_age,
            Err(ahead) => ahead.duration() <= self.settings.clock_skew,
        };
        let entry = (token.created, token.nonce);
        if !alive || self.revoked.contains(&entry) {
            return None;
        }
        let mut session = Session::new(id, token.session, created);
        session.last_seen = now;
        Some((session, entry))
    }

    fn remove(&self, id: SessionId) -> Option<Session> {
        let (session, entry) = self.open(id)?;
        // Only one of those who remove it at once has removed it.
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
        ready(self.answer(request))
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

/// Why a [`SealedStore`] did not bind a session: what the upstream calls it does not fit into a token, or the operating
/// system has no random numbers. It shows nothing of the session.
#[derive(Debug)]
pub struct SealError(Why);

#[derive(Debug)]
enum Why {
    TooLong,
    NoRandomNumbers(getrandom::Error),
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Why::TooLong => {
                let most = token::MAX_UPSTREAM;
                write!(
                    f,
                    "the upstream's session id and key have more than {most} bytes and do not fit into a sealed id"
                )
            }
            Why::NoRandomNumbers(_) => f.write_str("the operating system has no random numbers"),
        }
    }
}

impl Error for SealError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Why::TooLong => None,
            Why::NoRandomNumbers(error) => Some(error),
        }
    }
}
