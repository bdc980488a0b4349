//! The locations of a session id in the head of a request or response.

use std::{borrow::Cow, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{COOKIE, SET_COOKIE},
    request,
};

use crate::{
    headers::query::{parameters, set_parameter},
    session::credentials::trimmed,
};

/// A location of a session id in requests and responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IdLocation {
    /// The header of this name, in requests and responses.
    Header(HeaderName),
    /// The cookie of this name: `Cookie` in requests, `Set-Cookie` in responses.
    Cookie(Arc<str>),
    /// The query parameter of this name, in requests.
    Query(Box<str>),
}

impl IdLocation {
    /// All ids in a request, as bytes. They may be malformed.
    pub(super) fn in_request(&self, request: &request::Parts) -> Vec<Vec<u8>> {
        match self {
            IdLocation::Header(name) => {
                let spelled = spellings(&request.headers, name);
                let values = spelled
                    .iter()
                    .flat_map(|name| request.headers.get_all(name));
                values.map(|value| value.as_bytes().to_vec()).collect()
            }
            IdLocation::Cookie(name) => cookies(&request.headers)
                .filter(|(cookie, _)| *cookie == name.as_bytes())
                .map(|(_, value)| value.to_vec())
                .collect(),
            IdLocation::Query(name) => parameters(&request.uri)
                .filter(|parameter| parameter.is(name))
                .map(|parameter| parameter.value().into_owned())
                .collect(),
        }
    }

    /// Replaces each id in a request, or removes it if `id` is `None`.
    pub(super) fn set_in_request(&self, request: &mut request::Parts, id: Option<&str>) {
        match self {
            IdLocation::Header(name) => {
                for spelled in spellings(&request.headers, name) {
                    request.headers.remove(spelled);
                }
                if let Some(id) = id.and_then(|id| HeaderValue::from_str(id).ok()) {
                    request.headers.insert(name, id);
                }
            }
            IdLocation::Cookie(name) => set_cookie(&mut request.headers, name, id),
            IdLocation::Query(name) => set_parameter(&mut request.uri, name, id),
        }
    }

    /// All ids in a response, without those of cookies that the response expires.
    pub(super) fn in_response(&self, headers: &HeaderMap) -> Vec<Vec<u8>> {
        match self {
            IdLocation::Header(name) => {
                let values = headers.get_all(name).iter();
                values.map(|value| value.as_bytes().to_vec()).collect()
            }
            IdLocation::Cookie(name) => {
                let cookies = headers.get_all(SET_COOKIE).iter();
                let ids = cookies.filter_map(|cookie| SetCookieId::parse(cookie.as_bytes(), name));
                let ids = ids.filter(|cookie| !cookie.is_expired);
                ids.map(|cookie| cookie.id.to_vec()).collect()
            }
            IdLocation::Query(_) => Vec::new(),
        }
    }

    /// Replaces each id in a response by the result of `client_id`, or removes it if that is `None`.
    pub(super) fn set_in_response<'a>(
        &self,
        headers: &mut HeaderMap,
        client_id: impl Fn(&[u8]) -> Option<&'a str>,
    ) {
        match self {
            IdLocation::Header(name) => {
                let values: Vec<_> = headers.get_all(name).iter().cloned().collect();
                for spelled in spellings(headers, name) {
                    headers.remove(spelled);
                }
                let ids = values.iter().filter_map(|id| client_id(id.as_bytes()));
                for id in ids.filter_map(|id| HeaderValue::from_str(id).ok()) {
                    headers.append(name, id);
                }
            }
            IdLocation::Cookie(name) => {
                let values: Vec<_> = headers.get_all(SET_COOKIE).iter().cloned().collect();
                headers.remove(SET_COOKIE);
                for value in values {
                    let cookie = SetCookieId::parse(value.as_bytes(), name);
                    let changed = match &cookie {
                        None => Some(value.clone()),
                        // An expired cookie may hold an upstream session id, which the client must not receive.
                        Some(cookie) if cookie.is_expired => cookie.with_id(""),
                        Some(cookie) => client_id(cookie.id).and_then(|id| cookie.with_id(id)),
                    };
                    if let Some(value) = changed {
                        headers.append(SET_COOKIE, value);
                    }
                }
            }
            IdLocation::Query(_) => {}
        }
    }
}

/// The names in this head that an upstream may read as `name`. Servers behind CGI or WSGI read `_` as `-`, so that a client
/// could otherwise send an id that the layer does not translate.
fn spellings(headers: &HeaderMap, name: &HeaderName) -> Vec<HeaderName> {
    let same = |other: &&HeaderName| {
        other.as_str().len() == name.as_str().len()
            && other
                .as_str()
                .bytes()
                .zip(name.as_str().bytes())
                .all(|(a, b)| a == b || (a == b'_' && b == b'-'))
    };
    headers.keys().filter(same).cloned().collect()
}

/// The names and values of the cookies of a request (RFC 6265 section 4.2.1), without quotes around a value. They are bytes, because
/// an upstream may accept cookies that are not UTF-8.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b';'))
        .filter_map(name_and_value)
        .map(|(name, value)| (name, unquoted(value)))
}

fn name_and_value(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b'=', pair)?;
    Some((trimmed(&pair[..at]), trimmed(&pair[at + 1..])))
}

fn unquoted(value: &[u8]) -> &[u8] {
    value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""))
        .unwrap_or(value)
}

fn set_cookie(headers: &mut HeaderMap, name: &str, id: Option<&str>) {
    let values: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    let has_name =
        |pair: &[u8]| name_and_value(pair).is_some_and(|(cookie, _)| cookie == name.as_bytes());
    for value in values {
        let pairs = || value.as_bytes().split(|&byte| byte == b';');
        if !pairs().any(has_name) {
            headers.append(COOKIE, value);
            continue;
        }
        let pairs = pairs().filter_map(|pair| match id {
            _ if !has_name(pair) => Some(Cow::Borrowed(pair.trim_ascii())),
            Some(id) => Some(Cow::Owned(format!("{name}={id}").into_bytes())),
            None => None,
        });
        let pairs: Vec<_> = pairs.collect();
        if let Ok(value) = HeaderValue::from_bytes(&pairs.join(&b"; "[..]))
            && !value.is_empty()
        {
            headers.append(COOKIE, value);
        }
    }
}

/// A `Set-Cookie` field with a session id (RFC 6265 section 4.1), in three parts.
struct SetCookieId<'a> {
    before: &'a [u8],
    id: &'a [u8],
    after: &'a [u8],
    /// Whether `Max-Age` tells the client to remove the cookie (RFC 6265 section 5.2.2).
    is_expired: bool,
}

impl<'a> SetCookieId<'a> {
    /// `None` if the field sets another cookie, or an empty value.
    fn parse(cookie: &'a [u8], name: &str) -> Option<Self> {
        let end = memchr::memchr(b';', cookie).unwrap_or(cookie.len());
        let (pair, attributes) = cookie.split_at(end);
        let (cookie_name, value) = name_and_value(pair)?;
        let id = unquoted(value);
        if cookie_name != name.as_bytes() || id.is_empty() {
            return None;
        }
        let is_expired = attributes.split(|&byte| byte == b';').any(|attribute| {
            name_and_value(attribute).is_some_and(|(name, value)| {
                let age = str::from_utf8(value)
                    .ok()
                    .and_then(|age| age.parse::<i64>().ok());
                name.eq_ignore_ascii_case(b"max-age") && age.is_some_and(|age| age <= 0)
            })
        });
        let start = id.as_ptr() as usize - cookie.as_ptr() as usize;
        Some(Self {
            before: &cookie[..start],
            id,
            after: &cookie[start + id.len()..],
            is_expired,
        })
    }

    /// The field with another id.
    fn with_id(&self, id: &str) -> Option<HeaderValue> {
        HeaderValue::from_bytes(&[self.before, id.as_bytes(), self.after].concat()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use proptest::{collection::vec, prelude::*, sample::select};

    fn request(target: &str, cookies: &[String]) -> Option<request::Parts> {
        let mut request = Request::get(target);
        for cookie in cookies {
            request = request.header(COOKIE, cookie);
        }
        Some(request.body(()).ok()?.into_parts().0)
    }

    fn text(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
        vec(select(pieces), 0..10).prop_map(|pieces| pieces.concat())
    }

    /// The text of the parameters with another name.
    fn others(request: &request::Parts) -> Vec<String> {
        parameters(&request.uri)
            .filter(|parameter| !parameter.is("sid") && !parameter.text().is_empty())
            .map(|parameter| parameter.text().to_owned())
            .collect()
    }

    fn other_cookies(request: &request::Parts) -> Vec<(Vec<u8>, Vec<u8>)> {
        cookies(&request.headers)
            .filter(|(name, _)| *name != b"sid")
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect()
    }

    #[test]
    fn cookie_after_one_that_is_not_utf8_is_translated() {
        let location = IdLocation::Cookie("sid".into());
        let mut request = request("/", &[]).unwrap();
        let cookie = HeaderValue::from_bytes(b"a=\xff; sid=UP").unwrap();
        request.headers.insert(COOKIE, cookie);
        assert_eq!(location.in_request(&request), [b"UP"]);
        location.set_in_request(&mut request, Some("client"));
        assert_eq!(request.headers[COOKIE].as_bytes(), b"a=\xff; sid=client");
        let mut response = HeaderMap::new();
        let cookie = HeaderValue::from_bytes(b"sid=\"UP\"; Comment=\xff").unwrap();
        response.insert(SET_COOKIE, cookie);
        location.set_in_response(&mut response, |_| Some("client"));
        assert_eq!(
            response[SET_COOKIE].as_bytes(),
            b"sid=\"client\"; Comment=\xff"
        );
    }

    proptest! {
        #[test]
        fn each_parameter_of_the_name_is_replaced_or_removed_and_no_other(
            query in text(&["sid", "%73id", "s%69d", "SID", "[]", "=", "=", "&", ";", "a", "%20", "%", "+", "%3d"]),
        ) {
            let location = IdLocation::Query("sid".into());
            let Some(before) = request(&format!("/path?{query}"), &[]) else { return Ok(()) };
            let count = location.in_request(&before).len();
            let mut set = before.clone();
            location.set_in_request(&mut set, Some("a b&c"));
            prop_assert_eq!(location.in_request(&set), vec![b"a b&c".to_vec(); count]);
            prop_assert_eq!(others(&set), others(&before));
            let mut gone = before.clone();
            location.set_in_request(&mut gone, None);
            prop_assert!(location.in_request(&gone).is_empty());
            prop_assert_eq!(others(&gone), others(&before));
            prop_assert_eq!((gone.uri.path(), set.uri.path()), ("/path", "/path"));
        }

        #[test]
        fn each_cookie_of_the_name_is_replaced_or_removed_and_no_other(
            fields in vec(text(&["sid", "=", "=", "; ", ";", "a", "\"", " ", "sid=x", "b=1"]), 0..3),
        ) {
            let location = IdLocation::Cookie("sid".into());
            let Some(before) = request("/", &fields) else { return Ok(()) };
            let count = location.in_request(&before).len();
            let mut set = before.clone();
            location.set_in_request(&mut set, Some("UP"));
            prop_assert_eq!(location.in_request(&set), vec![b"UP".to_vec(); count]);
            prop_assert_eq!(other_cookies(&set), other_cookies(&before));
            let mut gone = before.clone();
            location.set_in_request(&mut gone, None);
            prop_assert!(location.in_request(&gone).is_empty());
            prop_assert_eq!(other_cookies(&gone), other_cookies(&before));
        }

        #[test]
        fn id_of_set_cookie_is_replaced_and_nothing_else(
            cookie in text(&["sid", "=", "=", "; ", "a", "\"", "UP", "Path=/", "Max-Age=0", "Max-Age=1"]),
        ) {
            let location = IdLocation::Cookie("sid".into());
            let Ok(value) = HeaderValue::from_str(&cookie) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.insert(SET_COOKIE, value.clone());
            let ids = location.in_response(&headers);
            location.set_in_response(&mut headers, |_| Some("client"));
            match ids.as_slice() {
                // An expired cookie has no id, and its value is removed.
                [] if cookie.contains("Max-Age=0") => {
                    let left = headers[SET_COOKIE].to_str().unwrap();
                    let (name, rest) = cookie.split_once('=').unwrap();
                    let rest = rest.find(';').map_or("", |end| &rest[end..]);
                    let emptied = format!("{name}={rest}");
                    prop_assert!(left == cookie || left == emptied);
                }
                [] => prop_assert_eq!(&headers[SET_COOKIE], &value),
                [id] => {
                    prop_assert_eq!(location.in_response(&headers), vec![b"client".to_vec()]);
                    location.set_in_response(&mut headers, |_| std::str::from_utf8(id).ok());
                    prop_assert_eq!(&headers[SET_COOKIE], &value);
                }
                _ => prop_assert!(false, "a cookie has at most one id"),
            }
        }
    }
}
