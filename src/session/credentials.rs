//! The request fields that identify an owner.

use std::{error::Error, fmt, sync::Arc};

use http::{
    HeaderMap, HeaderName,
    header::{AUTHORIZATION, COOKIE},
};

/// The headers in which HTTP clients commonly send credentials (RFC 9110 section 11.6.2 for `Authorization`; the others by custom).
const COMMON: [HeaderName; 6] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-access-token"),
];

/// The request fields that together identify the [owner](crate::SseProxyLayer::owner) of a request.
///
/// The default is `Authorization` and the usual API-key headers: `X-Api-Key`, `Api-Key`, `X-Goog-Api-Key`, `X-Auth-Token` and
/// `X-Access-Token`. Two requests have the same owner if they have the same values of these fields, byte for byte, in the
/// same order where a field is repeated. A request without any of the fields is anonymous, and all anonymous requests have
/// the same owner.
///
/// A cookie is part of the owner only if [`cookie`](Self::cookie) adds its name. A browser sends all cookies of a site together, and
/// an analytics cookie with a changing value would otherwise end the session.
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
    /// No fields. Add fields with [`header`](Self::header) and [`cookie`](Self::cookie); without any, all requests are anonymous.
    pub fn none() -> Self {
        Self {
            headers: Vec::new(),
            cookies: Vec::new(),
        }
    }

    /// Whether HTTP clients commonly send credentials in the header of this name.
    pub(crate) fn is_common(name: &HeaderName) -> bool {
        COMMON.contains(name)
    }

    /// Adds the header of this name. Some servers read `_` in a header name as `-`, so a header that differs only in that counts too.
    pub fn header(mut self, name: HeaderName) -> Self {
        if !self.headers.contains(&name) {
            self.headers.push(name);
        }
        self
    }

    /// Adds the cookie of this name. The name is case-sensitive. The value is compared byte for byte, with its quotes if it has
    /// any. A cookie with a [session id](super::SessionMapping::in_cookie) is never part of the owner.
    ///
    /// # Errors
    /// No cookie can have this name (RFC 6265 section 4.1.1).
    pub fn cookie(mut self, name: impl Into<Arc<str>>) -> Result<Self, InvalidCookieName> {
        let name = name.into();
        check_cookie_name(&name)?;
        if !self.cookies.contains(&name) {
            self.cookies.push(name);
        }
        Ok(self)
    }

    /// Calls `add` with the name and the value of each header in the list.
    pub(super) fn for_each_header(&self, headers: &HeaderMap, mut add: impl FnMut(&str, &[u8])) {
        for name in &self.headers {
            for value in headers.get_all(name) {
                add(name.as_str(), value.as_bytes());
            }
        }
        // Servers behind CGI or WSGI read `_` in a field name as `-`. For them, these fields are credentials too.
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

    /// Calls `add` with the name and the value of each cookie in the list, in all `Cookie` fields (HTTP/2 may split the field, RFC
    /// 9113 section 8.2.3).
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

/// Checks that a cookie can have this name. RFC 6265 section 4.1.1 asks for a token; browsers also send other visible characters.
pub(super) fn check_cookie_name(name: &Arc<str>) -> Result<(), InvalidCookieName> {
    let is_valid = |byte| u8::is_ascii_graphic(&byte) && !b"=;,\"\\".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_valid) {
        return Err(InvalidCookieName(Arc::clone(name)));
    }
    Ok(())
}

/// The error for a name that no cookie can have. `Display` shows the name and the valid characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidCookieName(Arc<str>);

impl fmt::Display for InvalidCookieName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid cookie name {:?}: it must be at least one character of visible ASCII, without `=`, `;`, `,`, `\"` and `\\`",
            self.0
        )
    }
}

impl Error for InvalidCookieName {}

/// Removes the bytes at both ends that are not visible ASCII. An upstream may treat them as white space: some read a head as Latin-1,
/// which has more white space than ASCII.
pub(super) fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && !first.is_ascii_graphic()
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && !last.is_ascii_graphic()
    {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_with_underscores_counts_if_the_list_has_it_with_hyphens() {
        let mut headers = HeaderMap::new();
        for name in ["x-api-key", "x_api_key", "x_request_id", "x-request-id"] {
            headers.insert(name, "1".parse().unwrap());
        }
        let mut found = Vec::new();
        let add = |name: &str, _: &[u8]| found.push(name.to_owned());
        Credentials::default().for_each_header(&headers, add);
        assert_eq!(found, ["x-api-key", "x_api_key"]);
    }
}
