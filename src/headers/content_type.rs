//! `Content-Type`: whether a response is an event stream or JSON, and in which charset. The body is not read for this.

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE, response};

use crate::headers::list::{Member, is_token_byte, members, quoted_string_end, trim};

/// The media type of event streams (WHATWG HTML 9.2.5).
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// Returns whether the `Content-Type` of a response is `text/event-stream`. This is the default detection of event streams.
///
/// The essence decides: the part before the first `;`, in any case (RFC 9110 8.3.1). Parameters are ignored, and a comma or
/// semicolon inside a quoted string does not separate values (RFC 9110 5.6.4). Of several values, in one field or in several fields,
/// one `text/event-stream` suffices, because clients differ in which value they use (RFC 9110 5.3).
/// Status, method and `Accept` do not matter.
///
/// Returns `false` for a malformed value, such as `text /event-stream`, although some clients accept it as an event stream. While
/// interceptors are installed, the layer answers such a response with 502; see [`Policy::intercept`](crate::Policy::intercept).
///
/// ```
/// use tower_sse_proxy::is_event_stream;
///
/// let typed = |value| http::Response::builder().header("content-type", value).body(()).unwrap().into_parts().0;
/// assert!(is_event_stream(&typed("Text/Event-Stream; charset=utf-8")));
/// assert!(is_event_stream(&typed("application/json, text/event-stream")));
/// assert!(!is_event_stream(&typed("application/json; note=\"text/event-stream\"")));
/// assert!(!is_event_stream(&typed("text/event-streaming")));
/// ```
pub fn is_event_stream(response: &response::Parts) -> bool {
    declared(&response.headers) == Declared::EventStream
}

/// What the `Content-Type` of a response declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Declared {
    /// One value is `text/event-stream`.
    EventStream,
    /// A value is malformed, and some recipients may read it as `text/event-stream`.
    Ambiguous,
    /// No recipient reads `text/event-stream`.
    Other,
}

/// Reads the `Content-Type` of a response.
pub(crate) fn declared(headers: &HeaderMap) -> Declared {
    let mut fields = headers.get_all(CONTENT_TYPE).iter();
    let (Some(first), more) = (fields.next(), fields.next().is_some()) else {
        return Declared::Other;
    };
    if !more {
        return declared_by(first.as_bytes());
    }
    let fields: Vec<&[u8]> = headers
        .get_all(CONTENT_TYPE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let each = || fields.iter().map(|field| declared_by(field));
    if each().any(|one| one == Declared::Ambiguous) {
        Declared::Ambiguous
    } else if each().any(|one| one == Declared::EventStream) {
        Declared::EventStream
    } else if declared_by(&fields.join(&b", "[..])) == Declared::Other {
        Declared::Other
    } else {
        // Recipients may join several fields into one list (RFC 9110 5.3). Here an unclosed quoted string of one field would then
        // end in another field.
        Declared::Ambiguous
    }
}

fn declared_by(value: &[u8]) -> Declared {
    let mut declared = Declared::Other;
    for member in members(value) {
        if member.is_malformed() {
            if names_event_stream(member) {
                return Declared::Ambiguous;
            }
        } else if is_of_event_stream(member) {
            declared = Declared::EventStream;
        }
    }
    declared
}

fn is_of_event_stream(member: Member<'_>) -> bool {
    member.essence().eq_ignore_ascii_case(EVENT_STREAM)
}

/// Whether a malformed value contains the subtype after removal of all bytes that are not allowed in a token. A lenient recipient
/// may ignore such bytes.
fn names_event_stream(member: Member<'_>) -> bool {
    const SUBTYPE: &[u8] = b"event-stream";
    let bytes = member.as_bytes().iter().copied();
    let letters: Vec<u8> = bytes.filter(|&byte| is_token_byte(byte)).collect();
    let mut windows = letters.windows(SUBTYPE.len());
    windows.any(|window| window.eq_ignore_ascii_case(SUBTYPE))
}

/// Whether one value of `Content-Type` is a JSON media type: its essence is `application/json` or ends in `+json` (RFC 6839 3.1).
///
/// As for event streams, the essence of any value decides, and parameters do not. Fields are also read joined into one list (RFC
/// 9110 5.3).
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(CONTENT_TYPE).iter();
    let fields: Vec<&[u8]> = fields.map(HeaderValue::as_bytes).collect();
    let names_json = |field: &[u8]| members(field).any(is_of_json);
    fields.iter().any(|field| names_json(field))
        || fields.len() > 1 && names_json(&fields.join(&b", "[..]))
}

fn is_of_json(member: Member<'_>) -> bool {
    const SUFFIX: &[u8] = b"+json";
    let essence = member.essence();
    let suffix = essence.len().saturating_sub(SUFFIX.len());
    essence.eq_ignore_ascii_case(b"application/json")
        || essence[suffix..].eq_ignore_ascii_case(SUFFIX)
}

/// The labels of UTF-8 for [`foreign_charset`].
pub(crate) const UTF_8: &[&[u8]] = &[b"", b"utf-8", b"utf8"];

/// UTF-8, and ASCII, which is a part of it.
pub(crate) const UTF_8_OR_ASCII: &[&[u8]] = &[b"", b"utf-8", b"utf8", b"us-ascii"];

/// The first `charset` in the `Content-Type` fields that is none of `labels`, escaped for the log. A client may decode the body with
/// it.
///
/// Clients search for the charset in different ways: as a parameter, in quotes, in the extended form of RFC 2231 (`charset*=`),
/// or as a word anywhere. So this function finds the word anywhere, except inside the quoted string of another parameter's value.
/// A false positive leads to a rejected response, not to a stream that is read differently by the interceptors and the client.
pub(crate) fn foreign_charset(headers: &HeaderMap, labels: &[&[u8]]) -> Option<String> {
    let fields = headers.get_all(CONTENT_TYPE).iter();
    let members = fields.flat_map(|field| members(field.as_bytes()));
    members
        // In a malformed value, the charset may be in the essence: `a/b charset=utf-16`.
        .flat_map(|member| std::iter::once(member.essence()).chain(member.parameters()))
        .flat_map(charsets)
        .find(|charset| {
            !labels
                .iter()
                .any(|label| charset.eq_ignore_ascii_case(label))
        })
        .map(|charset| escape_for_log(&charset))
}

/// The value after each word `charset` in a parameter.
fn charsets(parameter: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    const CHARSET: &[u8] = b"charset";
    let value = quoted_value(parameter);
    let words = parameter.windows(CHARSET.len()).enumerate();
    let words = words.filter(|(_, word)| word.eq_ignore_ascii_case(CHARSET));
    let outside = words.filter(move |(at, _)| !value.contains(at));
    outside.filter_map(|(at, _)| charset_named(&parameter[at + CHARSET.len()..]))
}

/// The range of a parameter's value if it is a quoted string, else an empty range.
fn quoted_value(parameter: &[u8]) -> std::ops::Range<usize> {
    let Some(equals) = parameter.iter().position(|&byte| byte == b'=') else {
        return 0..0;
    };
    let value = trim(&parameter[equals + 1..]);
    // The parameter has no whitespace at its end, so the value ends where it ends.
    let start = parameter.len() - value.len();
    match quoted_string_end(value) {
        Some(end) => start..start + end,
        None => 0..0,
    }
}

/// The value after the name `charset`, or `None` if no `=` follows.
fn charset_named(after: &[u8]) -> Option<Vec<u8>> {
    if after.starts_with(b"*") {
        return Some(after.to_vec());
    }
    let is_quote_or_space = |b: &u8| b"\"' \t".contains(b);
    let from = after.iter().position(|b| !is_quote_or_space(b))?;
    let value = trim(after[from..].strip_prefix(b"=")?);
    if quoted_string_end(value) == Some(value.len()) {
        return Some(unquoted(&value[1..value.len() - 1]));
    }
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    Some(trim(value.strip_suffix(b"\"").unwrap_or(value)).to_vec())
}

/// Decodes the inside of a quoted string (RFC 9110 5.6.4: `quoted-pair`) and removes the whitespace around it.
fn unquoted(inside: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(inside.len());
    let mut bytes = inside.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'\\' {
            bytes.next()
        } else {
            Some(byte)
        };
        text.extend(byte);
    }
    trim(&text).to_vec()
}

/// The first 40 bytes of a value that an upstream sent, escaped for the log.
pub(crate) fn escape_for_log(value: &[u8]) -> String {
    value[..value.len().min(40)].escape_ascii().to_string()
}

/// Reduces several `Content-Type` values to the `text/event-stream` value, so that a client cannot use another value. Leaves a
/// single value unchanged.
pub(crate) fn reduce_content_type(headers: &mut HeaderMap) {
    let event_stream = {
        let fields = headers.get_all(CONTENT_TYPE).iter();
        let mut members = fields.flat_map(|field| members(field.as_bytes()));
        members
            .find(|&member| is_of_event_stream(member))
            .and_then(|member| HeaderValue::from_bytes(member.as_bytes()).ok())
    };
    let mut fields = headers.get_all(CONTENT_TYPE).iter();
    let first = fields.next().map(|field| trim(field.as_bytes()));
    let is_alone =
        first == event_stream.as_ref().map(HeaderValue::as_bytes) && fields.next().is_none();
    if let Some(event_stream) = event_stream.filter(|_| !is_alone) {
        headers.insert(CONTENT_TYPE, event_stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_TYPE, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn detected(values: &[&[u8]]) -> bool {
        let mut response = http::Response::new(()).into_parts().0;
        response.headers = headers(values);
        is_event_stream(&response)
    }

    #[test]
    fn essence_decides_the_media_type() {
        for (values, expected) in [
            (&["text/event-stream"][..], Declared::EventStream),
            (&["TEXT/EVENT-STREAM"], Declared::EventStream),
            (&[" \ttext/event-stream \t; x=y"], Declared::EventStream),
            (&["text/event-stream;"], Declared::EventStream),
            (&["text/event-stream,"], Declared::EventStream),
            (&["text/event-stream; x=\"\u{e9}\""], Declared::EventStream),
            (&["text/event-stream; x=\"a, b; c\""], Declared::EventStream),
            (&["text/event-stream, text/plain"], Declared::EventStream),
            (
                &["text/plain; x=\",\", text/event-stream"],
                Declared::EventStream,
            ),
            (&["text/html", "text/event-stream"], Declared::EventStream),
            (&["garbage", "text/event-stream"], Declared::EventStream),
            (&["text/plain; text/event-stream"], Declared::Other),
            (&["text/plain; x=text/event-stream"], Declared::Other),
            (
                &["text/plain; x=\"a, text/event-stream; b\""],
                Declared::Other,
            ),
            (
                &["text/plain; x=\"\\\", text/event-stream\""],
                Declared::Other,
            ),
            (
                &["text/plain", "text/html; y=\"text/event-stream\""],
                Declared::Other,
            ),
            (&["text/event-streamX"], Declared::Other),
            (&["text/event-stream+json"], Declared::Other),
            (&["xtext/event-stream"], Declared::Other),
            (&["text/event stream"], Declared::Other),
            (&["text/plain; x=\"unclosed"], Declared::Other),
            (&["garbage"], Declared::Other),
            (&[""], Declared::Other),
            (&[], Declared::Other),
            (&["text /event-stream"], Declared::Ambiguous),
            (&["text/ event-stream; x=y"], Declared::Ambiguous),
            (&["text/event-\tstream"], Declared::Ambiguous),
            (&["t e x t / e v e n t - s t r e a m"], Declared::Ambiguous),
            (&["text/event-stream charset=utf-8"], Declared::Ambiguous),
            (&["text/event-stream\u{a0}"], Declared::Ambiguous),
            (&["text/event-stream/"], Declared::Ambiguous),
            (&["\"text/event-stream\""], Declared::Ambiguous),
            (&["event-stream"], Declared::Ambiguous),
            (&["; x=text/event-stream"], Declared::Ambiguous),
            (&["text/event-stream; x=\"unclosed"], Declared::Ambiguous),
            (
                &["text/plain; x=\"a, text/event-stream"],
                Declared::Ambiguous,
            ),
            (
                &["text/event-stream, text /event-stream"],
                Declared::Ambiguous,
            ),
            (&["text/plain", "text /Event-Stream"], Declared::Ambiguous),
            // If the fields are joined, the type is outside of the quoted strings.
            (
                &["a/b; x=\"", "a/b; y=\", text/event-stream; z=\""],
                Declared::Ambiguous,
            ),
        ] {
            let fields: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            assert_eq!(declared(&headers(&fields)), expected, "{values:?}");
            let is_stream = expected == Declared::EventStream;
            assert_eq!(detected(&fields), is_stream, "{values:?}");
        }
    }

    #[test]
    fn foreign_charset_finds_every_charset_but_utf_8() {
        for fine in [
            &b"a/b"[..],
            b"a/b; charset=UTF-8",
            b"a/b;charset=\"utf8\"",
            b"a/b; charset=",
            b"a/b; charset",
            b"a/b; profile=charset; charset=utf-8",
            b"a/b; charset=\" utf\\-8 \"",
            b"a/b; profile=\"charset=utf-16\"",
            b"a/b; x=\"a, b; charset=utf-16; c\"; charset=utf-8",
            b"a/b; x = \"\\\"; charset=utf-16\"",
        ] {
            assert_eq!(foreign_charset(&headers(&[fine]), UTF_8), None);
        }
        for (foreign, found) in [
            (&b"a/b; charset=utf-16le"[..], "utf-16le"),
            (b"a/b; x=1; Charset = \"latin1\"", "latin1"),
            (b"a/b; charset=utf-8; charset=utf-7", "utf-7"),
            (b"a/b; charset*=utf-16", "*=utf-16"),
            (b"a/b; charset*0=utf-; charset*1=16", "*0=utf-"),
            (b"a/b; \"charset\"=utf-16", "utf-16"),
            (b"a/b charset=utf-16", "utf-16"),
            (b"a/b; x-charset=utf-16", "utf-16"),
            (b"a/b; x=\"y\" charset=utf-16", "utf-16"),
            (b"a/b; x=charset=utf-16", "utf-16"),
            (b"a/b; x=\"a;b\"; charset=\"utf-16\"", "utf-16"),
            (b"a/b; charset=\"utf-8\" x", "utf-8\\\" x"),
        ] {
            assert_eq!(
                foreign_charset(&headers(&[foreign]), UTF_8).as_deref(),
                Some(found)
            );
        }
    }

    #[test]
    fn ascii_is_foreign_unless_its_label_is_allowed() {
        let ascii = headers(&[b"a/b; charset=\"US-ASCII\""]);
        assert_eq!(foreign_charset(&ascii, UTF_8).as_deref(), Some("US-ASCII"));
        assert_eq!(foreign_charset(&ascii, UTF_8_OR_ASCII), None);
        let two = headers(&[b"a/b; charset=us-ascii; charset=utf-16"]);
        let found = foreign_charset(&two, UTF_8_OR_ASCII);
        assert_eq!(found.as_deref(), Some("utf-16"));
    }

    #[test]
    fn essence_decides_whether_a_type_is_json() {
        for json in [
            &["application/json"][..],
            &["Application/JSON ; charset=utf-8"],
            &["application/problem+json"],
            &["application/vnd.api+JSON;x=\"a, b\""],
            &["text/event-stream+json"],
            &["text/html, application/json"],
            &["text/html", "application/json"],
            &["application/json; x=\"unclosed"],
            // If the fields are joined, the type is outside of the quoted strings.
            &["a/b; x=\"", "a/b; y=\", application/json; z=\""],
        ] {
            let fields: Vec<&[u8]> = json.iter().map(|value| value.as_bytes()).collect();
            assert!(is_json(&headers(&fields)), "{json:?}");
        }
        for other in [
            &[][..],
            &[""],
            &["json"],
            &["text/json"],
            &["application/jsonx"],
            &["application/x-ndjson"],
            &["application/json-seq"],
            &["application/json+xml"],
            &["text/plain; x=application/json"],
            &["text/plain; x=\"a, application/json\""],
            &["text/html; profile=a+json"],
        ] {
            let fields: Vec<&[u8]> = other.iter().map(|value| value.as_bytes()).collect();
            assert!(!is_json(&headers(&fields)), "{other:?}");
        }
    }

    #[test]
    fn several_content_types_become_one() {
        for several in [
            &[&b"text/html"[..], b"text/event-stream; a=b"][..],
            &[b"text/html, text/event-stream; a=b"],
            &[b"text/html; x=\"text/event-stream, y\", text/event-stream; a=b"],
            &[b"text/event-stream; a=b,"],
        ] {
            let mut headers = headers(several);
            reduce_content_type(&mut headers);
            let left: Vec<_> = headers.get_all(CONTENT_TYPE).iter().collect();
            assert_eq!(left, ["text/event-stream; a=b"]);
        }
    }

    #[test]
    fn single_content_type_is_unchanged() {
        for value in [
            &b"text/event-stream; x=\"a, b\"; charset=utf-8"[..],
            b"application/x-ndjson, text/plain",
        ] {
            let mut headers = headers(&[value]);
            reduce_content_type(&mut headers);
            assert_eq!(headers[CONTENT_TYPE].as_bytes(), value);
        }
    }
}
