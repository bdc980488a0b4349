//! Where in a head an id can stand.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{COOKIE, SET_COOKIE},
    request,
};

use crate::headers::query::{parameters, set_parameter};

/// A place for a session id in requests, and in the answers that give one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IdLocation {
    /// A header of this name, both ways.
    Header(HeaderName),
    /// `Cookie` in requests, `Set-Cookie` in answers.
    Cookie(Box<str>),
    /// A query parameter of requests.
    Query(Box<str>),
}

impl IdLocation {
    /// The ids in a request, as far as they are text.
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

    /// Puts another id in the place of each one, or takes them away.
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

    /// The ids that an answer gives.
    pub(super) fn in_answer(&self, headers: &HeaderMap) -> Vec<Vec<u8>> {
        match self {
            IdLocation::Header(name) => {
                let values = headers.get_all(name).iter();
                values.map(|value| value.as_bytes().to_vec()).collect()
            }
            IdLocation::Cookie(name) => {
                let cookies = headers.get_all(SET_COOKIE).iter();
                let given = cookies.filter_map(|cookie| SetCookieId::of(cookie.as_bytes(), name));
                let given = given.filter(|given| !given.taken_back);
                given.map(|given| given.id.to_vec()).collect()
            }
            IdLocation::Query(_) => Vec::new(),
        }
    }

    /// Puts another id in the place of each one that an answer gives; `None` takes it away.
    pub(super) fn set_in_answer<'a>(
        &self,
        headers: &mut HeaderMap,
        ours: impl Fn(&[u8]) -> Option<&'a str>,
    ) {
        match self {
            IdLocation::Header(name) => {
                let values: Vec<_> = headers.get_all(name).iter().cloned().collect();
                for spelled in spellings(headers, name) {
                    headers.remove(spelled);
                }
                let ours = values.iter().filter_map(|id| ours(id.as_bytes()));
                for ours in ours.filter_map(|ours| HeaderValue::from_str(ours).ok()) {
                    headers.append(name, ours);
                }
            }
            IdLocation::Cookie(name) => {
                let values: Vec<_> = headers.get_all(SET_COOKIE).iter().cloned().collect();
                headers.remove(SET_COOKIE);
                for value in values {
                    let given = SetCookieId::of(value.as_bytes(), name);
                    let changed = match &given {
                        None => Some(value.clone()),
                        // Whichever it was, it is the upstream's.
                        Some(given) if given.taken_back => given.with(""),
                        Some(given) => ours(given.id).and_then(|ours| given.with(ours)),
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

/// How a header is spelled in this head. Some servers (those that speak CGI behind) read `_` for `-`, so that another
/// spelling would be a way around.
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

/// The cookies of a request (RFC 6265 4.2.1), without the quotes that a value may stand in. As bytes: what is no text to us may
/// be one to the upstream.
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

/// Without what any upstream may take for white space. Some read a head as Latin-1, where that is more than in ASCII.
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

fn unquoted(value: &[u8]) -> &[u8] {
    value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""))
        .unwrap_or(value)
}

fn set_cookie(headers: &mut HeaderMap, name: &str, id: Option<&str>) {
    let values: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    let is_it =
        |pair: &[u8]| name_and_value(pair).is_some_and(|(cookie, _)| cookie == name.as_bytes());
    for value in values {
        let pairs = || value.as_bytes().split(|&byte| byte == b';');
        if !pairs().any(is_it) {
            headers.append(COOKIE, value);
            continue;
        }
        let pairs = pairs().filter_map(|pair| match id {
            _ if !is_it(pair) => Some(Cow::Borrowed(pair.trim_ascii())),
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

/// A `Set-Cookie` with an id (RFC 6265 4.1).
struct SetCookieId<'a> {
    before: &'a [u8],
    id: &'a [u8],
    after: &'a [u8],
    /// The client is to forget it.
    taken_back: bool,
}

impl<'a> SetCookieId<'a> {
    fn of(cookie: &'a [u8], name: &str) -> Option<Self> {
        let end = memchr::memchr(b';', cookie).unwrap_or(cookie.len());
        let (pair, attributes) = cookie.split_at(end);
        let (cookie_name, value) = name_and_value(pair)?;
        let id = unquoted(value);
        if cookie_name != name.as_bytes() || id.is_empty() {
            return None;
        }
        let taken_back = attributes.split(|&byte| byte == b';').any(|attribute| {
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
            taken_back,
        })
    }

    fn with(&self, id: &str) -> Option<HeaderValue> {
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

    /// The parameters that are none of ours, as they stand.
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
    fn a_cookie_that_is_not_text_hides_no_other() {
        let place = IdLocation::Cookie("sid".into());
        let mut request = request("/", &[]).unwrap();
        let cookie = HeaderValue::from_bytes(b"a=\xff; sid=UP").unwrap();
        request.headers.insert(COOKIE, cookie);
        assert_eq!(place.in_request(&request), [b"UP"]);
        place.set_in_request(&mut request, Some("ours"));
        assert_eq!(request.headers[COOKIE].as_bytes(), b"a=\xff; sid=ours");
        let mut answer = HeaderMap::new();
        let cookie = HeaderValue::from_bytes(b"sid=\"UP\"; Comment=\xff").unwrap();
        answer.insert(SET_COOKIE, cookie);
        place.set_in_answer(&mut answer, |_| Some("ours"));
        assert_eq!(answer[SET_COOKIE].as_bytes(), b"sid=\"ours\"; Comment=\xff");
    }

    proptest! {
        #[test]
        fn every_parameter_of_the_name_is_set_or_gone_and_no_other(
            query in text(&["sid", "%73id", "s%69d", "SID", "[]", "=", "=", "&", ";", "a", "%20", "%", "+", "%3d"]),
        ) {
            let place = IdLocation::Query("sid".into());
            let Some(before) = request(&format!("/path?{query}"), &[]) else { return Ok(()) };
            let count = place.in_request(&before).len();
            let mut set = before.clone();
            place.set_in_request(&mut set, Some("a b&c"));
            prop_assert_eq!(place.in_request(&set), vec![b"a b&c".to_vec(); count]);
            prop_assert_eq!(others(&set), others(&before));
            let mut gone = before.clone();
            place.set_in_request(&mut gone, None);
            prop_assert!(place.in_request(&gone).is_empty());
            prop_assert_eq!(others(&gone), others(&before));
            prop_assert_eq!((gone.uri.path(), set.uri.path()), ("/path", "/path"));
        }

        #[test]
        fn every_cookie_of_the_name_is_set_or_gone_and_no_other(
            fields in vec(text(&["sid", "=", "=", "; ", ";", "a", "\"", " ", "sid=x", "b=1"]), 0..3),
        ) {
            let place = IdLocation::Cookie("sid".into());
            let Some(before) = request("/", &fields) else { return Ok(()) };
            let count = place.in_request(&before).len();
            let mut set = before.clone();
            place.set_in_request(&mut set, Some("UP"));
            prop_assert_eq!(place.in_request(&set), vec![b"UP".to_vec(); count]);
            prop_assert_eq!(other_cookies(&set), other_cookies(&before));
            let mut gone = before.clone();
            place.set_in_request(&mut gone, None);
            prop_assert!(place.in_request(&gone).is_empty());
            prop_assert_eq!(other_cookies(&gone), other_cookies(&before));
        }

        #[test]
        fn what_a_cookie_gives_is_set_and_nothing_else(
            cookie in text(&["sid", "=", "=", "; ", "a", "\"", "UP", "Path=/", "Max-Age=0", "Max-Age=1"]),
        ) {
            let place = IdLocation::Cookie("sid".into());
            let Ok(value) = HeaderValue::from_str(&cookie) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.insert(SET_COOKIE, value.clone());
            let given = place.in_answer(&headers);
            place.set_in_answer(&mut headers, |_| Some("ours"));
            match given.as_slice() {
                // A cookie that is taken back gives no id, and the one in it goes no further.
                [] if cookie.contains("Max-Age=0") => {
                    let left = headers[SET_COOKIE].to_str().unwrap();
                    let (name, rest) = cookie.split_once('=').unwrap();
                    let rest = rest.find(';').map_or("", |end| &rest[end..]);
                    let emptied = format!("{name}={rest}");
                    prop_assert!(left == cookie || left == emptied);
                }
                [] => prop_assert_eq!(&headers[SET_COOKIE], &value),
                [id] => {
                    prop_assert_eq!(place.in_answer(&headers), vec![b"ours".to_vec()]);
                    place.set_in_answer(&mut headers, |_| std::str::from_utf8(id).ok());
                    prop_assert_eq!(&headers[SET_COOKIE], &value);
                }
                _ => prop_assert!(false, "one cookie gives one id"),
            }
        }
    }
}
