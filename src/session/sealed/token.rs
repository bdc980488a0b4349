//! The encrypted form of a session, which is its id.
//!
//! ```text
//! mark (4) | nonce (24) | encrypted: created (8) | owner (32) | length of the upstream key (2) | upstream key | upstream id | tag (16)
//! ```
//!
//! in URL-safe base64 without padding. The numbers are bytes. The mark of the key and a constant are authenticated with the token.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chacha20poly1305::{AeadInOut, Tag, XNonce};

use super::key::{Mark, SealedKey};
use crate::session::{NewSession, Owner, SessionId, UpstreamKey, UpstreamSessionId};

/// Authenticated with each token, so that other data that was encrypted with the same key is not a valid token.
const PURPOSE: [u8; 12] = *b"sse-session1";

const MARK: usize = size_of::<Mark>();
const NONCE: usize = 24;
const TAG: usize = 16;
const HEAD: usize = MARK + NONCE;
const FIXED: usize = 8 + 32 + 2;

/// The longest token, in bytes before base64.
const MAX: usize = SessionId::MAX_LEN / 4 * 3;

/// The maximum length of the upstream session id and the upstream key together, in bytes.
pub(super) const MAX_UPSTREAM: usize = MAX - HEAD - FIXED - TAG;

/// A random number, different for each token.
pub(super) type Nonce = [u8; NONCE];

/// The contents of a token.
pub(super) struct Token {
    /// In seconds since 1970.
    pub(super) created: u64,
    pub(super) nonce: Nonce,
    pub(super) session: NewSession,
}

impl Token {
    /// Encrypts the session. Returns `None` if it does not fit into a session id.
    pub(super) fn seal(&self, key: &SealedKey) -> Option<SessionId> {
        let NewSession {
            upstream_id,
            upstream,
            owner,
        } = &self.session;
        let (id, name) = (
            upstream_id.as_str(),
            upstream.as_ref().map(UpstreamKey::as_str),
        );
        if id.len() + name.map_or(0, str::len) > MAX_UPSTREAM {
            return None;
        }
        // 0 is no upstream key, 1 is an empty one.
        let name_len = name.map_or(0, |name| name.len() as u16 + 1);
        let mut token = Vec::with_capacity(MAX);
        token.extend(key.mark());
        token.extend(self.nonce);
        token.extend(self.created.to_be_bytes());
        token.extend(owner.as_bytes());
        token.extend(name_len.to_be_bytes());
        token.extend(name.unwrap_or_default().bytes());
        token.extend(id.bytes());

        let context = context(key.mark());
        let (_, plain) = token.split_at_mut(HEAD);
        let tag = key
            .cipher()
            .encrypt_inout_detached(&self.nonce.into(), &context, plain.into());
        token.extend(tag.ok()?);
        SessionId::parse(&URL_SAFE_NO_PAD.encode(token)).ok()
    }

    /// Decrypts a session. Returns `None` if the id is not a token of one of the keys.
    pub(super) fn open(id: &str, keys: &[SealedKey]) -> Option<Self> {
        let mut bytes = [0; MAX];
        let len = URL_SAFE_NO_PAD.decode_slice(id, &mut bytes).ok()?;
        let (head, rest) = bytes[..len].split_first_chunk::<HEAD>()?;
        let (mark, nonce) = (*head.first_chunk::<MARK>()?, *head.last_chunk::<NONCE>()?);
        let tag = Tag::from(*rest.last_chunk::<TAG>()?);

        // A token with an unknown mark is decrypted too, so that the time does not reveal which marks are known.
        let key = keys
            .iter()
            .find(|key| key.mark() == mark)
            .or(keys.first())?;
        let sealed = &mut bytes[HEAD..len - TAG];
        let cipher_nonce = XNonce::from(nonce);
        key.cipher()
            .decrypt_inout_detached(&cipher_nonce, &context(mark), sealed.into(), &tag)
            .ok()?;

        let plain = &bytes[HEAD..len - TAG];
        let (created, rest) = plain.split_first_chunk::<8>()?;
        let (owner, rest) = rest.split_first_chunk::<32>()?;
        let (name_len, rest) = rest.split_first_chunk::<2>()?;
        let (upstream, rest) = match u16::from_be_bytes(*name_len).checked_sub(1) {
            None => (None, rest),
            Some(len) => {
                let (name, rest) = rest.split_at_checked(len.into())?;
                (Some(UpstreamKey::new(str::from_utf8(name).ok()?)), rest)
            }
        };
        let upstream_id = UpstreamSessionId::new(str::from_utf8(rest).ok()?);
        Some(Self {
            created: u64::from_be_bytes(*created),
            nonce,
            session: NewSession {
                upstream_id,
                upstream,
                owner: Owner::from_bytes(*owner),
            },
        })
    }
}

/// The associated data of a token.
fn context(mark: Mark) -> [u8; 16] {
    let mut context = [0; 16];
    context[..12].copy_from_slice(&PURPOSE);
    context[12..].copy_from_slice(&mark);
    context
}
