//! The fields of a request that say which owner it belongs to.

use std::{error::Error, fmt, sync::Arc};

use http::{
    HeaderMap, HeaderName,
    header::{AUTHORIZATION, COOKIE},
};

use super::location::trimmed;

/// The fields in which HTTP clients commonly send credentials (RFC 9110 11.6.2 for `Authorization`; the others by custom).
const COMMON: [HeaderName; 6] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-access-token"),
];

/// The fields of a request that together are its [owner](crate::SseProxyLayer::owner).
///
/// The default is `Authorization` and the usual API-key headers: `X-Api-Key`, `Api-Key`, `X-Goog-Api-Key`, `X-Auth-StreamId` and
/// `X-Access-StreamId`. Two requests have the same owner if they have the same values of these fields, byte for byte, in the
/// same order where a field is repeated. A request that has none of the fields is anonymous, and all anonymous requests have
/// the same owner.
///
/// Cookies count only by [name](Self::cookie). A browser sends all cookies of a site together, and a cookie that
/// analytics code sets anew would otherwise end the session.
///
/// ```
/// use tower_sse_proxy::{SseProxyLayer, session::{Credentials, InvalidCookieName}};
///
/// # fn main() -> Result<(), InvalidCookieName> {
/// let credentials = Credentials::default().cookie("login")?;
/// let layer = SseProxyLayer::default().credentials(credentials);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    headers: Vec<HeaderName>,
    cookies: Vec<Arc<str>>,
}

impl Credentials {
    /// No fields: a start for a list of your own. With an empty list all requests are anonymous.
    pub fn none() -> Self {
        Self {
            headers: Vec::new(),
            cookies: Vec::new(),
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: HeaderName) -> Self {
        if !self.headers.contains(&name) {
            self.headers.push(name);
        }
        self
    }

    /// Adds the cookie of this name. The name is compared with case, the value as it stands in the `Cookie` field, with its
    /// quotes if it has any. The cookie that holds a [session](super::SessionMapping::in_cookie) id never counts.
    ///
    /// # Errors
    /// No cookie can have this name (RFC 6265 4.1.1).
    pub fn cookie(mut self, name: impl Into<Arc<str>>) -> Result<Self, InvalidCookieName> {
        let name = name.into();
        let is_valid = |byte| u8::is_ascii_graphic(&byte) && !b"=;,\"\\".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_valid) {
            return Err(InvalidCookieName(name));
        }
        if !self.cookies.contains(&name) {
            self.cookies.push(name);
        }
        Ok(self)
    }

    /// Calls this with the name and the value of each header that counts.
    pub(super) fn for_each_header(&self, headers: &HeaderMap, mut add: impl FnMut(&str, &[u8])) {
        for name in &self.headers {
            for value in headers.get_all(name) {
                add(name.as_str(), value.as_bytes());
            }
        }
        // Servers behind CGI or WSGI read `_` in a field name as `-`: for them these fields are credentials too.
        let mut underscored: Vec<_> = headers
            .keys()
            .filter(|name| name.as_str().contains('_'))
            .filter(|name| {
                let name = name.as_str().replace('_', "-");
                self.headers.iter().any(|other| *other == *name)
            })
            .collect();
        underscored.sort_unstable_by_key(|name| name.as_str());
        for name in underscored {
            for value in headers.get_all(name) {
                add(name.as_str(), value.as_bytes());
            }
        }
    }

    /// Calls this with the name and the value of each cookie that counts, however many `Cookie` fields there are (HTTP/2
    /// splits the field, RFC 9113 8.2.3).
    pub(super) fn for_each_cookie(&self, headers: &HeaderMap, mut add: impl FnMut(&str, &[u8])) {
        for name in &self.cookies {
            let values = headers.get_all(COOKIE).iter();
            for pair in values.flat_map(|value| value.as_bytes().split(|&byte| byte == b';')) {
                let Some(at) = memchr::memchr(b'=', pair) else {
                    continue;
                };
                if trimmed(&pair[..at]) == name.as_bytes() {
                    add(name, pair[at + 1..].trim_ascii());
                }
            }
        }
    }
}

impl Default for Credentials {
    fn default() -> Self {
        Self {
            headers: COMMON.to_vec(),
            cookies: Vec::new(),
        }
    }
}

/// The error of [`Credentials::cookie`]: no cookie can have this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidCookieName(Arc<str>);

impl fmt::Display for InvalidCookieName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid cookie name {:?}: it must be visible ASCII without `=`, `;`, `,`, `\"` and `\\`",
            self.0
        )
    }
}

impl Error for InvalidCookieName {}
