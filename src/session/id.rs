//! The ids of a session, its owner, and the key of its upstream.

use std::{error::Error, fmt, str::FromStr, sync::Arc};

/// The session id that a client uses. The upstream never receives it.
///
/// An id is 1 to [`MAX_LEN`](Self::MAX_LEN) bytes of visible ASCII (0x21 to 0x7E), as MCP requires (revision 2025-11-25, "Session
/// Management" of the Streamable HTTP transport). Such an id fits into headers, cookies and queries. `Debug` does not show the id,
/// because it is a secret: a client that has it and passes for its owner can use the session.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// The maximum length in bytes. A store may have a lower limit.
    pub const MAX_LEN: usize = 1024;

    /// Parses an id that a client sent or a store created.
    ///
    /// # Errors
    /// The id is empty, longer than [`MAX_LEN`](Self::MAX_LEN), or contains a byte that is not visible ASCII.
    pub fn parse(id: &str) -> Result<Self, MalformedId> {
        if id.is_empty() || id.len() > Self::MAX_LEN || !is_visible(id) {
            return Err(MalformedId(()));
        }
        Ok(Self(id.into()))
    }

    /// Creates an id of 192 random bits from the operating system, as 48 hexadecimal digits.
    ///
    /// # Panics
    /// If the operating system cannot provide random numbers.
    pub fn random() -> Self {
        let mut bytes = [0; 24];
        getrandom::fill(&mut bytes).expect("the operating system has random numbers");
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        Self(digits.collect::<String>().into())
    }

    /// The id as the client sends it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The session id that the upstream uses. The client never receives it.
///
/// For a session in the URL of an [`endpoint` event](super::SessionMapping::in_endpoint), it is a text that contains the URL of the
/// upstream. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UpstreamSessionId(Arc<str>);

impl UpstreamSessionId {
    /// Wraps an id that the upstream sent. Any text is valid.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The id as the upstream sent it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of the upstream that a session is on, for an inner service that balances over several upstreams.
///
/// The inner service puts the key into the extensions of the response that opens a session. The layer stores the key with the
/// session, and puts it into the extensions of each later request of that session, so that the inner service can send the request to
/// the same upstream. A request without a session has no key. The layer compares keys, but does not interpret them: the same
/// upstream session id on two upstreams is two sessions.
///
/// ```
/// # use http::{Request, Response};
/// # use tower_sse_proxy::session::UpstreamKey;
/// async fn balance(request: Request<()>) -> Response<()> {
///     let key = match request.extensions().get::<UpstreamKey>() {
///         Some(key) => key.clone(),
///         None => UpstreamKey::new("10.0.0.7:8080"), // the upstream with the lowest load
///     };
///     let mut response = send(&key, request).await;
///     response.extensions_mut().insert(key);
///     response
/// }
/// # async fn send(_: &UpstreamKey, _: Request<()>) -> Response<()> { Response::new(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamKey(Arc<str>);

impl UpstreamKey {
    /// Wraps the name of an upstream. Any text is valid.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The principal that a session or a recorded stream belongs to: a keyed hash of the request's [credentials](super::Credentials), or
/// [`ANONYMOUS`](Self::ANONYMOUS).
///
/// Comparison does not take constant time. That is safe: without the key, a client cannot choose the bytes of its owner, so the
/// time of a comparison tells it nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner([u8; 32]);

impl Owner {
    /// The owner of all requests without credentials.
    pub const ANONYMOUS: Self = Self([0; 32]);

    /// Restores an owner from the bytes that a store has kept.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the owner, for a store.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Writes 64 lowercase hexadecimal digits.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Owner {
    type Err = MalformedOwner;

    /// # Errors
    /// If the text is not 64 lowercase hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, MalformedOwner> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(MalformedOwner(())),
        };
        let text: &[u8; 64] = text.as_bytes().try_into().map_err(|_| MalformedOwner(()))?;
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.chunks(2)) {
            *byte = digit(digits[0])? << 4 | digit(digits[1])?;
        }
        Ok(Self(bytes))
    }
}

/// The error of a text that is not an [`Owner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedOwner(());

impl fmt::Display for MalformedOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an owner is 64 lowercase hexadecimal digits")
    }
}

impl std::error::Error for MalformedOwner {}

/// The error of [`SessionId::parse`].
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
        f.write_str("UpstreamSessionId(..)")
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
        let max = SessionId::MAX_LEN;
        write!(f, "a session id is 1 to {max} bytes of visible ASCII")
    }
}

impl Error for MalformedId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_visible_ascii_within_the_length_limit() {
        let longest = "x".repeat(1024);
        for valid in ["a", "!~", "0b1c-2d", &longest] {
            assert_eq!(SessionId::parse(valid).unwrap().as_str(), valid);
        }
        let too_long = "x".repeat(1025);
        for invalid in ["", "a b", "a\t", "\u{7f}", "\u{e9}", &too_long] {
            assert!(SessionId::parse(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn owner_is_parsed_as_it_is_written() {
        for start in [0, 100, 200] {
            let bytes = std::array::from_fn(|n| start + n as u8);
            let owner = Owner::from_bytes(bytes);
            let text = owner.to_string();
            assert_eq!(text.len(), 64);
            assert_eq!(text[..4], format!("{:02x}{:02x}", start, start + 1));
            assert_eq!(text.parse(), Ok(owner));
        }
    }

    #[test]
    fn text_that_is_no_owner_is_rejected() {
        let valid = "0123456789abcdef".repeat(4);
        assert!(valid.parse::<Owner>().is_ok());
        for malformed in [
            String::new(),
            valid[1..].to_owned(),
            format!("{valid}0"),
            valid.to_uppercase(),
            valid.replace('f', "g"),
            valid.replace('0', "/"),
        ] {
            let error = malformed.parse::<Owner>().expect_err(&malformed);
            assert!(error.to_string().contains("64 lowercase hexadecimal"));
        }
    }

    #[test]
    fn debug_shows_no_part_of_an_id() {
        let id = SessionId::parse("canary").unwrap();
        let owner = Owner::from_bytes([7; 32]);
        let shown = format!("{id:?} {:?} {owner:?}", UpstreamSessionId::new("canary"));
        assert_eq!(shown, "SessionId(..) UpstreamSessionId(..) Owner(..)");
        assert_eq!(format!("{:?}", Owner::ANONYMOUS), "Owner(anonymous)");
    }
}
