//! The names by which a session goes: to the client, to the upstream, and whose it is.

use std::{error::Error, fmt, sync::Arc};

/// The id by which a client knows its session. The upstream never sees it.
///
/// Ids are visible ASCII (0x21 to 0x7E), as MCP asks of them and as they fit into headers, cookies and queries. `Debug`
/// does not show them: who knows an id and passes for its owner has the session.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// The longest id that any store is asked for, in bytes. A store may draw the line earlier.
    pub const MAX_LEN: usize = 1024;

    /// Takes an id as a client sent it, or as a store minted it.
    ///
    /// # Errors
    /// It is empty, longer than [`MAX_LEN`](Self::MAX_LEN), or holds anything but visible ASCII.
    pub fn parse(id: &str) -> Result<Self, MalformedId> {
        if id.is_empty() || id.len() > Self::MAX_LEN || !is_visible(id) {
            return Err(MalformedId(()));
        }
        Ok(Self(id.into()))
    }

    /// A new id of 192 random bits from the operating system: for a store to mint.
    ///
    /// # Panics
    /// If the operating system has no random numbers to give.
    pub fn random() -> Self {
        let mut bytes = [0; 24];
        getrandom::fill(&mut bytes).expect("the operating system has random numbers");
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        Self(digits.collect::<String>().into())
    }

    /// The id as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id by which the upstream knows a session, or whatever else it told to find one by. The client never sees it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UpstreamSessionId(Arc<str>);

impl UpstreamSessionId {
    /// An id as the upstream sent it.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The id as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which upstream a session lives on, for a service that balances several.
///
/// That service puts it into the extensions of the response that opens a session, and finds it in the extensions of each
/// request of that session. The layer gives it no meaning of its own.
///
/// ```
/// # use http::{Request, Response};
/// # use tower_sse_proxy::session::UpstreamKey;
/// async fn balance(request: Request<()>) -> Response<()> {
///     let key = match request.extensions().get::<UpstreamKey>() {
///         Some(key) => key.clone(),
///         None => UpstreamKey::new("10.0.0.7:8080"), // the least busy one
///     };
///     let mut response = ask(&key, request).await;
///     response.extensions_mut().insert(key);
///     response
/// }
/// # async fn ask(_: &UpstreamKey, _: Request<()>) -> Response<()> { Response::new(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamKey(Arc<str>);

impl UpstreamKey {
    /// A name of an upstream.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whose a session is: a keyed hash of what the request proved itself by, or nobody in particular.
///
/// Owners are compared as they are: nobody without the key can steer the bytes of one, so that the time this takes tells
/// nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner([u8; 32]);

impl Owner {
    /// The owner of what was opened without any proof.
    pub const ANONYMOUS: Self = Self([0; 32]);

    /// An owner as a store kept it.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For a store to keep.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// An id that no session can have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MalformedId(());

fn is_visible(id: &str) -> bool {
    id.bytes().all(|byte| byte.is_ascii_graphic())
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

impl fmt::Debug for UpstreamSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UpstreamId(..)")
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::ANONYMOUS {
            "Owner(anonymous)"
        } else {
            "Owner(..)"
        })
    }
}

impl fmt::Debug for MalformedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MalformedId")
    }
}

impl fmt::Display for MalformedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = SessionId::MAX_LEN;
        write!(f, "a session id is 1 to {longest} bytes of visible ASCII")
    }
}

impl Error for MalformedId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_visible_ascii_of_some_length() {
        let longest = "x".repeat(1024);
        for fine in ["a", "!~", "0b1c-2d", &longest] {
            assert_eq!(SessionId::parse(fine).unwrap().as_str(), fine);
        }
        let too_long = "x".repeat(1025);
        for wrong in ["", "a b", "a\t", "\u{7f}", "\u{e9}", &too_long] {
            assert!(SessionId::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn nothing_of_an_id_is_shown() {
        let id = SessionId::parse("canary").unwrap();
        let owner = Owner::from_bytes([7; 32]);
        let shown = format!("{id:?} {:?} {owner:?}", UpstreamSessionId::new("canary"));
        assert_eq!(shown, "SessionId(..) UpstreamId(..) Owner(..)");
        assert_eq!(format!("{:?}", Owner::ANONYMOUS), "Owner(anonymous)");
    }
}
