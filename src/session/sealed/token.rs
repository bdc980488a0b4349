//! A session as an id: what a token says, sealed.
//!
//! ```text
//! mark of the key (4) | nonce (24) | sealed: created (8) | owner (32) | length of the key (2) | key | upstream id | tag (16)
//! ```
//!
//! in base64 for URLs, without padding. The mark and what a token is for are authenticated with it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chacha20poly1305::{AeadInOut, Tag, XNonce};

use super::key::{Mark, SealedKey};
use crate::session::{NewSession, Owner, SessionId, UpstreamKey, UpstreamSessionId};

/// So that nothing else that is sealed with the same key is taken for a session.
const PURPOSE: [u8; 12] = *b"sse-session1";

const MARK: usize = size_of::<Mark>();
const NONCE: usize = 24;
const TAG: usize = 16;
const HEAD: usize = MARK + NONCE;
const FIXED: usize = 8 + 32 + 2;

/// The longest token, in bytes before base64.
const MAX: usize = SessionId::MAX_LEN / 4 * 3;

/// What the upstream's id and key may have together, in bytes.
pub(super) const MAX_UPSTREAM: usize = MAX - HEAD - FIXED - TAG;

/// No two tokens have the same.
pub(super) type Nonce = [u8; NONCE];

/// What a token says.
pub(super) struct Token {
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) nonce: Nonce,
    pub(super) session: NewSession,
}

impl Token {
    /// `None` if it does not fit into an id.
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
        // No key is another thing than an empty one.
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

    /// `None` if none of these keys has sealed it.
    pub(super) fn open(id: &str, keys: &[SealedKey]) -> Option<Self> {
        let mut bytes = [0; MAX];
        let len = URL_SAFE_NO_PAD.decode_slice(id, &mut bytes).ok()?;
        let (head, rest) = bytes[..len].split_first_chunk::<HEAD>()?;
        let (mark, nonce) = (*head.first_chunk::<MARK>()?, *head.last_chunk::<NONCE>()?);
        let tag = Tag::from(*rest.last_chunk::<TAG>()?);

        // What has the mark of no key is tried as well, so that it takes as long as what has one.
        let key = keys
            .iter()
            .find(|key| key.mark() == mark)
            .or(keys.first())?;
        let sealed = &mut bytes[HEAD..len - TAG];
        let nonce_ = XNonce::from(nonce);
        key.cipher()
            .decrypt_inout_detached(&nonce_, &context(mark), sealed.into(), &tag)
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

fn context(mark: Mark) -> [u8; 16] {
    let mut context = [0; 16];
    context[..12].copy_from_slice(&PURPOSE);
    context[12..].copy_from_slice(&mark);
    context
}
