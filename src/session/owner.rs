//! The owner of a request.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use http::request;
use sha2::Sha256;

use super::{Credentials, Owner, SessionMapping};

type Principal = Arc<dyn Fn(&request::Parts) -> Option<Vec<u8>> + Send + Sync>;

/// Computes the owner of a request: an HMAC-SHA256 of its principal or its credentials.
#[derive(Clone)]
pub(crate) struct Owners {
    keyed: Hmac<Sha256>,
    rule: Rule,
}

#[derive(Clone)]
enum Rule {
    Credentials(Credentials),
    Principal(Principal),
}

impl Owners {
    pub(crate) fn set_key(&mut self, key: &[u8]) {
        self.keyed = keyed(key);
    }

    pub(crate) fn set_principal(&mut self, principal: Principal) {
        self.rule = Rule::Principal(principal);
    }

    pub(crate) fn set_credentials(&mut self, credentials: Credentials) {
        self.rule = Rule::Credentials(credentials);
    }

    /// The owner, or [`Owner::ANONYMOUS`] for a request without a principal or credentials. `sessions` are the rules for the request.
    pub(crate) fn owner(
        &self,
        request: &request::Parts,
        sessions: Option<&SessionMapping>,
    ) -> Owner {
        let mut keyed = self.keyed.clone();
        let mut is_anonymous = true;
        let mut add = |kind: &str, name: &[u8], value: &[u8]| {
            is_anonymous = false;
            // The length precedes each part, so that different lists of fields have different input to the hash.
            for part in [kind.as_bytes(), name, value] {
                keyed.update(&(part.len() as u64).to_le_bytes());
                keyed.update(part);
            }
        };
        match &self.rule {
            Rule::Principal(principal) => {
                if let Some(principal) = principal(request) {
                    add("principal", b"", &principal);
                }
            }
            Rule::Credentials(credentials) => {
                credentials.for_each_header(&request.headers, |name, value| {
                    add("header", name.as_bytes(), value);
                });
                credentials.for_each_cookie(&request.headers, |name, value| {
                    // The cookie that holds the session id cannot be part of the owner: the request that opens the
                    // session does not have it yet.
                    if !sessions.is_some_and(|sessions| sessions.has_cookie(name)) {
                        add("cookie", name.as_bytes(), value);
                    }
                });
            }
        }
        if is_anonymous {
            return Owner::ANONYMOUS;
        }
        Owner::from_bytes(keyed.finalize().into_bytes().into())
    }
}

impl Default for Owners {
    /// A random key and the default [`Credentials`].
    ///
    /// # Panics
    /// If the operating system cannot provide random numbers.
    fn default() -> Self {
        let mut key = [0_u8; 32];
        getrandom::fill(&mut key).expect("the operating system has random numbers");
        Self {
            keyed: keyed(&key),
            rule: Rule::Credentials(Credentials::default()),
        }
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC accepts keys of any length (RFC 2104 section 2)")
}
