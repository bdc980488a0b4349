//! Whose a request is.

use std::{fmt, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use http::request;
use sha2::Sha256;

use super::{Credentials, Owner, SessionMapping};

type Principal = Arc<dyn Fn(&request::Parts) -> Option<Vec<u8>> + Send + Sync>;

/// Computes the owner of a request.
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

    pub(crate) fn owner(
        &self,
        request: &request::Parts,
        sessions: Option<&SessionMapping>,
    ) -> Owner {
        let mut keyed = self.keyed.clone();
        let mut any = false;
        let mut add = |kind: &str, name: &[u8], value: &[u8]| {
            any = true;
            // Each part follows its length, so that different lists of fields never hash the same bytes.
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
        if !any {
            return Owner::ANONYMOUS;
        }
        Owner::from_bytes(keyed.finalize().into_bytes().into())
    }
}

impl Default for Owners {
    /// With a random key, and the default [`Credentials`].
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
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length (RFC 2104 2)")
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owners")
            .field("by_principal", &matches!(self.rule, Rule::Principal(_)))
            .finish_non_exhaustive()
    }
}
