//! The key that encrypts sessions.

use std::{error::Error, fmt, str::FromStr};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};

/// Base64 with or without padding.
const ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The secret key of a [`SealedStore`](super::SealedStore): 32 bytes, the same on all nodes.
///
/// Anyone with the key can create a session of any owner. The key is overwritten in memory when it is dropped, and `Debug` does not show
/// it.
///
/// It parses from 64 hexadecimal digits (`openssl rand -hex 32`) or from base64 (`openssl rand -base64 32`; also with the URL-safe
/// alphabet, and without padding). White space around the text is ignored.
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

/// Identifies a key without revealing it. A token starts with the mark of its key, so that it is decrypted only once even if a store has
/// several keys.
pub(super) type Mark = [u8; 4];

/// The nonce for the mark. Tokens have random nonces, so that none has this one.
const MARK_NONCE: [u8; 24] = [0; 24];

impl SealedKey {
    /// A key from 32 bytes. They must come from a cryptographically secure random number generator.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let cipher = XChaCha20Poly1305::new(&bytes.into());
        let nonce = XNonce::from(MARK_NONCE);
        // The cipher only fails on input that is too long, and this input is empty.
        let tag = cipher.encrypt_inout_detached(&nonce, b"mark", (&mut [][..]).into());
        let [a, b, c, d, ..]: [u8; 16] = tag.map_or([0; 16], Into::into);
        Self {
            cipher,
            mark: [a, b, c, d],
        }
    }

    /// A random key from the operating system. The key cannot be exported, so its sessions end with this process.
    ///
    /// # Panics
    /// If the operating system cannot provide random numbers.
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
    /// The text is neither 64 hexadecimal digits nor 32 bytes in base64.
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
    ANY_PADDING.decode(text).ok()?.try_into().ok()
}

/// The error of parsing a [`SealedKey`]. It contains the length of the text, but no part of the text, which may be most of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedKey {
    characters: usize,
}

impl fmt::Display for MalformedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let characters = self.characters;
        write!(
            f,
            "invalid key of {characters} characters: a key is 32 bytes, as 64 hexadecimal digits or in base64"
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
    fn key_parses_from_hex_and_base64() {
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
    fn malformed_key_is_an_error_that_does_not_show_it() {
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
                error.starts_with(&format!("invalid key of {length} characters:")),
                "{error}"
            );
        }
    }

    #[test]
    fn debug_hides_the_key_and_generated_keys_differ() {
        assert_eq!(format!("{:?}", SealedKey::generate()), "SealedKey(..)");
        assert_ne!(SealedKey::generate().mark(), SealedKey::generate().mark());
    }
}
