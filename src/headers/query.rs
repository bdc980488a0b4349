//! The query of a request target (RFC 3986 3.4): its parameters are parsed, decoded and changed here.

use std::borrow::Cow;

use http::{Uri, uri::PathAndQuery};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The characters that [`escaped`] changes: all but the unreserved ones (RFC 3986 2.3).
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// One parameter of a query, with the separator after it: `&`, or `;`, which old servers accept as well.
pub(crate) struct Parameter<'a>(&'a str);

impl<'a> Parameter<'a> {
    /// The parameter without its separator, not decoded.
    pub(crate) fn text(&self) -> &'a str {
        self.0.strip_suffix(['&', ';']).unwrap_or(self.0)
    }

    /// Whether an upstream may read this parameter as `name`: percent-encoded or not, in any case, with `+` as a space, and also as
    /// `name[]`, which some servers read as a list.
    pub(crate) fn is(&self, name: &str) -> bool {
        let key = self.text().split('=').next().unwrap_or_default();
        let key = percent_decode_str(key).decode_utf8_lossy();
        let key = key.split('[').next().unwrap_or_default();
        key.eq_ignore_ascii_case(name) || key.replace('+', " ").eq_ignore_ascii_case(name)
    }

    /// The value, decoded once as `application/x-www-form-urlencoded` (WHATWG URL 5.1): `+` is a space. Empty if there is no `=`.
    pub(crate) fn value(&self) -> Cow<'a, [u8]> {
        let value = self.text().split_once('=').map_or("", |(_, value)| value);
        if value.contains('+') {
            let spaced = value.replace('+', " ");
            return Cow::Owned(percent_decode_str(&spaced).collect());
        }
        percent_decode_str(value).into()
    }

    /// The separator after the parameter. Empty if it is the last one.
    fn separator(&self) -> &'a str {
        &self.0[self.text().len()..]
    }
}

/// The query without the parameters of this name and without empty parameters, for the comparison of targets. Starts with `?` if
/// it is not empty.
pub(crate) fn without_parameter(uri: &Uri, name: Option<&str>) -> String {
    let mut query = String::new();
    let mut separator = "";
    for parameter in parameters(uri) {
        let removed = name.is_some_and(|name| parameter.is(name));
        if !parameter.text().is_empty() && !removed {
            query += if query.is_empty() { "?" } else { separator };
            query += parameter.text();
        }
        separator = parameter.separator();
    }
    query
}

/// Percent-encodes an id for a query.
pub(crate) fn escaped(id: &str) -> String {
    utf8_percent_encode(id, QUERY).to_string()
}

/// The parameters of a query, in order.
pub(crate) fn parameters(uri: &Uri) -> impl Iterator<Item = Parameter<'_>> {
    let query = uri.query().unwrap_or_default();
    query.split_inclusive(['&', ';']).map(Parameter)
}

/// Sets the value of each parameter of this name, or removes the parameters if `id` is `None`. Other parameters do not change by
/// a byte. Does nothing if there is no parameter of this name.
pub(crate) fn set_parameter(uri: &mut Uri, name: &str, id: Option<&str>) {
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
            query.push_str(parameter.separator());
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

/// Replaces the path and query of a URI. Returns `false`, and leaves the URI unchanged, if `target` is not a valid path and query.
pub(crate) fn set_target(uri: &mut Uri, target: &str) -> bool {
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
