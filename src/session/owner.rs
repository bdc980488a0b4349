//! Whose a request is.

use std::{fmt, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use http::{
    HeaderName,
    header::{AUTHORIZATION, COOKIE},
    request,
};
use sha2::Sha256;

use super::{Owner, Sessions};

/// What requests commonly prove themselves by.
const CREDENTIALS: [HeaderName; 6] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-access-token"),
];

type Principal = Arc<dyn Fn(&request::Parts) -> Option<Vec<u8>> + Send + Sync>;

/// Tells owners apart.
#[derive(Clone)]
pub(crate) struct Owners {
    keyed: Hmac<Sha256>,
    principal: Option<Principal>,
}

impl Owners {
    pub(crate) fn set_key(&mut self, key: &[u8]) {
        self.keyed = keyed(key);
    }

    pub(crate) fn set_principal(&mut self, principal: Principal) {
        self.principal = Some(principal);
    }

    pub(crate) fn owner(&self, request: &request::Parts, sessions: Option<&Sessions>) -> Owner {
        let mut keyed = self.keyed.clone();
        let mut any = false;
        let mut prove = |name: &str, value: &[u8]| {
            any = true;
            // The length first, so that no two proofs run into each other and look like a third.
            for part in [name.as_bytes(), value] {
                keyed.update(&(part.len() as u64).to_le_bytes());
                keyed.update(part);
            }
        };
        match &self.principal {
            Some(principal) => {
                if let Some(principal) = principal(request) {
                    prove("principal", &principal);
                }
            }
            None => {
                for name in &CREDENTIALS {
                    for value in request.headers.get_all(name) {
                        prove(name.as_str(), value.as_bytes());
                    }
                }
                // HTTP/2 cuts the field where it likes, and the session's own cookie is no proof: at first it is not there.
                let cookies = request.headers.get_all(COOKIE).iter();
                let cookies = cookies.flat_map(|value| value.as_bytes().split(|&b| b == b';'));
                for cookie in cookies.map(<[u8]>::trim_ascii) {
                    if !cookie.is_empty()
                        && !sessions.is_some_and(|sessions| sessions.is_own_cookie(cookie))
                    {
                        prove("cookie", cookie);
                    }
                }
            }
        }
        if !any {
            return Owner::ANONYMOUS;
        }
        Owner::from_bytes(keyed.finalize().into_bytes().into())
    }
}

impl Default for Owners {
    /// With a key of its own.
    fn default() -> Self {
        let mut key = [0_u8; 32];
        getrandom::fill(&mut key).expect("the operating system has random numbers");
        Self {
            keyed: keyed(&key),
            principal: None,
        }
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length (RFC 2104 2)")
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owners")
            .field("by_principal", &self.principal.is_some())
            .finish_non_exhaustive()
    }
}
