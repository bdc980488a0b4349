//! Where in a head an id can stand.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{COOKIE, SET_COOKIE},
    request,
    uri::PathAndQuery,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What a query leaves as it is (RFC 3986 3.4, and without what forms give a meaning).
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A place for a session id in requests, and in the answers that give one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A header of this name, both ways.
    Header(HeaderName),
    /// `Cookie` in requests, `Set-Cookie` in answers.
    Cookie(Box<str>),
    /// A query parameter of requests.
    Query(Box<str>),
}

impl Place {
    /// The ids in a request, as far as they are text.
    pub(super) fn in_request(&self, request: &request::Parts) -> Vec<Vec<u8>> {
        match self {
            Place::Header(name) => {
                let spelled = spellings(&request.headers, name);
                let values = spelled
                    .iter()
                    .flat_map(|name| request.headers.get_all(name));
                values.map(|value| value.as_bytes().to_vec()).collect()
            }
            Place::Cookie(name) => cookies(&request.headers)
                .filter(|(cookie, _)| **cookie == **name)
                .map(|(_, value)| value.as_bytes().to_vec())
                .collect(),
            Place::Query(name) => parameters(&request.uri)
                .filter(|parameter| parameter.is(name))
                .map(|parameter| parameter.value().into_owned())
                .collect(),
        }
    }

    /// Puts another id in the place of each one, or takes them away.
    pub(super) fn set_in_request(&self, request: &mut request::Parts, id: Option<&str>) {
        match self {
            Place::Header(name) => {
                for spelled in spellings(&request.headers, name) {
                    request.headers.remove(spelled);
                }
                if let Some(id) = id.and_then(|id| HeaderValue::from_str(id).ok()) {
                    request.headers.insert(name, id);
                }
            }
            Place::Cookie(name) => set_cookie(&mut request.headers, name, id),
            Place::Query(name) => set_parameter(&mut request.uri, name, id),
        }
    }

    /// The ids that an answer gives.
    pub(super) fn in_answer(&self, headers: &HeaderMap) -> Vec<Vec<u8>> {
        match self {
            Place::Header(name) => {
                let values = headers.get_all(name).iter();
                values.map(|value| value.as_bytes().to_vec()).collect()
            }
            Place::Cookie(name) => {
                let cookies = headers.get_all(SET_COOKIE).iter();
                let given = cookies.filter_map(|cookie| given_in(cookie.as_bytes(), name));
                given.map(|(_, value, _)| value.to_vec()).collect()
            }
            Place::Query(_) => Vec::new(),
        }
    }

    /// Puts another id in the place of each one that an answer gives; `None` takes it away.
    pub(super) fn set_in_answer<'a>(
        &self,
        headers: &mut HeaderMap,
        ours: impl Fn(&[u8]) -> Option<&'a str>,
    ) {
        let field = match self {
            Place::Header(name) => name.clone(),
            Place::Cookie(_) => SET_COOKIE,
            Place::Query(_) => return,
        };
        let values: Vec<HeaderValue> = headers.get_all(&field).iter().cloned().collect();
        headers.remove(&field);
        for value in values {
            let (before, id, after) = match self {
                Place::Cookie(name) => match given_in(value.as_bytes(), name) {
                    Some(given) => given,
                    None => {
                        headers.append(&field, value);
                        continue;
                    }
                },
                _ => (&b""[..], value.as_bytes(), &b""[..]),
            };
            let ours = ours(id).map(|ours| [before, ours.as_bytes(), after].concat());
            if let Some(Ok(ours)) = ours.map(|ours| HeaderValue::from_bytes(&ours)) {
                headers.append(&field, ours);
            }
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

/// The cookies of a request (RFC 6265 4.2.1), without the quotes that a value may stand in.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| std::str::from_utf8(value.as_bytes()).ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.trim(), unquoted(value.trim())))
}

fn unquoted(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value)
}

fn set_cookie(headers: &mut HeaderMap, name: &str, id: Option<&str>) {
    let values: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for value in values {
        let Ok(text) = std::str::from_utf8(value.as_bytes()) else {
            headers.append(COOKIE, value);
            continue;
        };
        let is_it = |pair: &&str| {
            pair.split_once('=')
                .is_some_and(|(cookie, _)| cookie.trim() == name)
        };
        if !text.split(';').any(|pair| is_it(&pair)) {
            headers.append(COOKIE, value);
            continue;
        }
        let pairs = text.split(';').map(str::trim);
        let pairs = pairs.filter_map(|pair| match id {
            _ if !is_it(&pair) => Some(Cow::Borrowed(pair)),
            Some(id) => Some(Cow::Owned(format!("{name}={id}"))),
            None => None,
        });
        let pairs: Vec<_> = pairs.collect();
        if let Ok(value) = HeaderValue::from_str(&pairs.join("; "))
            && !value.is_empty()
        {
            headers.append(COOKIE, value);
        }
    }
}

/// The id that a `Set-Cookie` gives, with what stands before and behind it; not if it takes the cookie back (RFC 6265 4.1).
fn given_in<'a>(cookie: &'a [u8], name: &str) -> Option<(&'a [u8], &'a [u8], &'a [u8])> {
    let text = std::str::from_utf8(cookie).ok()?;
    let (pair, attributes) = match text.split_once(';') {
        Some((pair, attributes)) => (pair, attributes),
        None => (text, ""),
    };
    let (cookie_name, value) = pair.split_once('=')?;
    let id = unquoted(value.trim());
    let taken_back = attributes.split(';').any(|attribute| {
        let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        name.trim().eq_ignore_ascii_case("max-age")
            && value.trim().parse::<i64>().is_ok_and(|age| age <= 0)
    });
    if cookie_name.trim() != name || id.is_empty() || taken_back {
        return None;
    }
    let start = pair.find('=')? + 1 + value.find(id)?;
    let (before, rest) = cookie.split_at(start);
    let (id, after) = rest.split_at(id.len());
    Some((before, id, after))
}

/// One parameter of a query, with the separator behind it. Old servers separate by `;` as well.
struct Parameter<'a>(&'a str);

impl<'a> Parameter<'a> {
    fn text(&self) -> &'a str {
        self.0.strip_suffix(['&', ';']).unwrap_or(self.0)
    }

    /// However it is escaped: the upstream reads it in plain.
    fn is(&self, name: &str) -> bool {
        let key = self.text().split('=').next().unwrap_or_default();
        let key = percent_decode_str(key).decode_utf8_lossy();
        key == name || key.replace('+', " ") == name
    }

    fn value(&self) -> Cow<'a, [u8]> {
        let value = self.text().split_once('=').map_or("", |(_, value)| value);
        percent_decode_str(value).into()
    }
}

/// An id as it stands in a query.
pub(super) fn escaped(id: &str) -> String {
    utf8_percent_encode(id, QUERY).to_string()
}

fn parameters(uri: &Uri) -> impl Iterator<Item = Parameter<'_>> {
    let query = uri.query().unwrap_or_default();
    query.split_inclusive(['&', ';']).map(Parameter)
}

/// All others stay as they are, byte for byte.
fn set_parameter(uri: &mut Uri, name: &str, id: Option<&str>) {
    if !parameters(uri).any(|parameter| parameter.is(name)) {
        return;
    }
    let mut query = String::new();
    for parameter in parameters(uri) {
        if !parameter.is(name) {
            query.push_str(parameter.0);
        } else if let Some(id) = id {
            let key = parameter.text().split('=').next().unwrap_or_default();
            query.push_str(key);
            query.push('=');
            query.push_str(&escaped(id));
            query.push_str(&parameter.0[parameter.text().len()..]);
        }
    }
    let query = query.trim_end_matches(['&', ';']);
    let path = uri.path();
    let target = if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    };
    set_target(uri, &target);
}

/// Puts another path and query in the place of a URI's own.
pub(super) fn set_target(uri: &mut Uri, target: &str) -> bool {
    let Ok(target) = target.parse::<PathAndQuery>() else {
        return false;
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target);
    match Uri::from_parts(parts) {
        Ok(changed) => *uri = changed,
        Err(_) => return false,
    }
    true
}
