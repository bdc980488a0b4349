//! The key that sessions are sealed with.

use std::{error::Error, fmt, str::FromStr};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};

const PADDING_OR_NOT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a [`SealedStore`](super::SealedStore) seals and opens session ids with: 32 bytes that only the nodes know.
///
/// Who has it can make sessions of any owner. It is overwritten when it is dropped, and `Debug` does not show it.
///
/// As text, it is 64 hexadecimal digits (`openssl rand -hex 32`) or in base64 (`openssl rand -base64 32`, also with the
/// alphabet for URLs and without padding). White space around it is no part of it.
///
/// ```
/// use tower_sse_proxy::session::SealedKey;
///
/// let key: SealedKey = "8f0b3f3ec2c0f0b6a1b2b5f0a8e4d8c1f86c3a4f3e8f1d0c9b7a6958473625d1\n".parse()?;
/// # Ok::<_, tower_sse_proxy::session::MalformedKey>(())
/// ```
#[derive(Clone)]
pub struct SealedKey {
    cipher: XChaCha20Poly1305,
    mark: Mark,
}

/// What tells a key without telling anything of it, so that a token is opened once, however many keys there are.
pub(super) type Mark = [u8; 4];

/// What no token is sealed with: tokens have random nonces.
const NONCE_OF_THE_MARK: [u8; 24] = [0; 24];

impl SealedKey {
    /// A key of these bytes, which are random.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let cipher = XChaCha20Poly1305::new(&bytes.into());
        let nonce = XNonce::from(NONCE_OF_THE_MARK);
        // Nothing is sealed, which cannot be too long.
        let tag = cipher.encrypt_inout_detached(&nonce, b"mark", (&mut [][..]).into());
        let [a, b, c, d, ..]: [u8; 16] = tag.map_or([0; 16], Into::into);
        Self {
            cipher,
            mark: [a, b, c, d],
        }
    }

    /// A new key from the operating system, for sessions that end with this process: there is no way to read it.
    ///
    /// # Panics
    /// If the operating system has no random numbers to give.
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the operating system has random numbers");
        Self::from_bytes(bytes)
    }

    pub(super) fn cipher(&self) -> &XChaCha20Poly1305 {
        &self.cipher
    }

    pub(super) fn mark(&self) -> Mark {
        self.mark
    }
}

impl FromStr for SealedKey {
    type Err = MalformedKey;

    /// # Errors
    /// It is neither 64 hexadecimal digits nor 32 bytes in base64.
    fn from_str(text: &str) -> Result<Self, MalformedKey> {
        let text = text.trim();
        let bytes = from_hex(text).or_else(|| from_base64(text));
        bytes.map(Self::from_bytes).ok_or(MalformedKey {
            characters: text.chars().count(),
        })
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Some(bytes)
}

fn from_base64(text: &str) -> Option<[u8; 32]> {
    let text = text.replace('-', "+").replace('_', "/");
    PADDING_OR_NOT.decode(text).ok()?.try_into().ok()
}

/// A text that is no [`SealedKey`]. It tells how long the text is, and nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedKey {
    characters: usize,
}

impl fmt::Display for MalformedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let characters = self.characters;
        write!(
            f,
            "a sealing key is 32 bytes, as 64 hexadecimal digits or in base64, and not these {characters} characters"
        )
    }
}

impl Error for MalformedKey {}

impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_hex_and_base64() {
        let bytes: [u8; 32] = std::array::from_fn(|n| 255 - n as u8 * 7);
        let mark = SealedKey::from_bytes(bytes).mark();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let base64 = base64::engine::general_purpose::STANDARD.encode(bytes);
        let for_urls = base64.replace('+', "-").replace('/', "_");
        assert_ne!(base64, for_urls);
        let unpadded = for_urls.trim_end_matches('=');
        for text in [&hex, &hex.to_uppercase(), &base64, &for_urls, unpadded] {
            let around = format!(" {text}\r\n");
            assert_eq!(around.parse::<SealedKey>().unwrap().mark(), mark, "{text}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_shown() {
        let zeros = "0".repeat(63);
        for wrong in [
            "",
            "canary",
            &zeros,
            &format!("{zeros}g"),
            &format!("{zeros}00"),
            &"A".repeat(42),
            &"\u{e9}".repeat(32),
        ] {
            let error = wrong.parse::<SealedKey>().unwrap_err().to_string();
            let length = wrong.chars().count();
            assert!(
                error.ends_with(&format!("and not these {length} characters")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_key_is_not_shown_and_no_two_are_the_same() {
        assert_eq!(format!("{:?}", SealedKey::generate()), "SealedKey(..)");
        assert_ne!(SealedKey::generate().mark(), SealedKey::generate().mark());
    }
}
