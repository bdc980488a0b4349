//! Is this response an event stream? By its header alone: the body is never touched to decide.

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE, response};

/// The media type of event streams (WHATWG HTML 9.2.5).
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// The default detection: `text/event-stream` stands in any `Content-Type` field, in any case, as a word of its own.
/// Status, method and `Accept` do not matter.
///
/// Where a response has several types, or one that is not well-formed, clients differ in what they believe (RFC 9110 5.3,
/// Fetch "extract a MIME type"), so the type counts wherever it stands. The price of a wrong yes is an inspection. A longer
/// word is another type, whatever clients make of it that compare a part of it only.
///
/// ```
/// use tower_sse_proxy::is_event_stream;
///
/// let typed = |value| http::Response::builder().header("content-type", value).body(()).unwrap().into_parts().0;
/// assert!(is_event_stream(&typed("Text/Event-Stream; charset=utf-8")));
/// assert!(is_event_stream(&typed("application/json, text/event-stream")));
/// assert!(!is_event_stream(&typed("text/event-streaming")));
/// ```
pub fn is_event_stream(response: &response::Parts) -> bool {
    let mut fields = response.headers.get_all(CONTENT_TYPE).iter();
    fields.any(|field| names_event_stream(field.as_bytes()))
}

/// The `charset` of an event stream that is not UTF-8, as a client may believe it.
///
/// Clients look for it in many ways: by parameter, in quotes, in the extended form of RFC 2231 (`charset*=`), or for the
/// word anywhere. So the word counts wherever it stands, and the price of a wrong yes is a refusal.
pub(crate) fn foreign_charset(headers: &HeaderMap) -> Option<String> {
    let fields = headers.get_all(CONTENT_TYPE).iter();
    let named = fields.flat_map(|field| {
        let field = field.as_bytes();
        let places = field.windows(CHARSET.len()).enumerate();
        places
            .filter(|(_, word)| word.eq_ignore_ascii_case(CHARSET))
            .filter_map(|(at, _)| charset_named(&field[at + CHARSET.len()..]))
    });
    named
        .into_iter()
        .find(|charset| {
            let utf8 = [&b""[..], b"utf-8", b"utf8"];
            !utf8.iter().any(|label| charset.eq_ignore_ascii_case(label))
        })
        .map(shown)
}

const CHARSET: &[u8] = b"charset";

/// The value that follows on the name; `None` if it names nothing.
fn charset_named(after: &[u8]) -> Option<&[u8]> {
    let end = after.iter().position(|&b| b == b';' || b == b',');
    let after = &after[..end.unwrap_or(after.len())];
    if after.starts_with(b"*") {
        return Some(after);
    }
    let is_quote = |b: &u8| b"\"' \t".contains(b);
    let from = after.iter().position(|b| !is_quote(b))?;
    let value = after[from..].strip_prefix(b"=")?.trim_ascii();
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    Some(value.strip_suffix(b"\"").unwrap_or(value).trim_ascii())
}

/// A value that an upstream sent, as it may stand in a log.
pub(crate) fn shown(value: &[u8]) -> String {
    value[..value.len().min(40)].escape_ascii().to_string()
}

/// Leaves one `Content-Type`: a client must not believe another one than was acted on.
pub(crate) fn settle_content_type(headers: &mut HeaderMap) {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let alone = values
        .next()
        .is_some_and(|value| !value.as_bytes().contains(&b','))
        && values.next().is_none();
    if alone {
        return;
    }
    let settled = media_types(headers)
        .find(|media_type| essence_is_event_stream(media_type))
        .and_then(|media_type| HeaderValue::from_bytes(media_type).ok());
    if let Some(settled) = settled {
        headers.insert(CONTENT_TYPE, settled);
    }
}

/// Whether the media type stands in a field, not as a part of a longer word (`token` of RFC 9110 5.6.2).
fn names_event_stream(field: &[u8]) -> bool {
    let in_word = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
    };
    let mut windows = field.windows(EVENT_STREAM.len()).enumerate();
    windows.any(|(at, window)| {
        window.eq_ignore_ascii_case(EVENT_STREAM)
            && !in_word(field[..at].last())
            && !in_word(field.get(at + EVENT_STREAM.len()))
    })
}

/// All media types of all fields. A comma always separates, even in a quoted parameter: some clients read it
/// so, and the price of a wrong yes is only an inspection.
fn media_types(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(CONTENT_TYPE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
}

fn essence_is_event_stream(media_type: &[u8]) -> bool {
    let end = media_type.iter().position(|&b| b == b';');
    let essence = media_type[..end.unwrap_or(media_type.len())].trim_ascii_end();
    essence.eq_ignore_ascii_case(EVENT_STREAM)
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
    fn an_event_stream_is_known_by_its_essence() {
        for yes in [
            &b"text/event-stream"[..],
            b"TEXT/EVENT-STREAM",
            b"text/event-stream;charset=utf-8",
            b" \ttext/event-stream \t; x=y",
            b"text/event-stream;",
            b"text/event-stream; x=\"\xff\"",
            b"text/plain; x=\"a, text/event-stream; b\"",
            b"text/event-stream, text/plain",
            b"text/plain; text/event-stream",
            b"text/event-stream\xa0",
            b"\"text/event-stream\"",
            b"text/event-stream charset=utf-8",
        ] {
            assert!(detected(&[yes]), "{}", yes.escape_ascii());
        }
        for no in [
            &b"text/event-streamX"[..],
            b"text/event-stream2;charset=utf-8",
            b"xtext/event-stream",
            b"text/event stream",
            b"text/event-stream+json",
            b"",
        ] {
            assert!(!detected(&[no]), "{}", no.escape_ascii());
        }
        assert!(!detected(&[]));
        assert!(detected(&[b"text/html", b"text/event-stream"]));
    }

    #[test]
    fn only_utf_8_is_utf_8() {
        for fine in [
            &b"a/b"[..],
            b"a/b; charset=UTF-8",
            b"a/b;charset=\"utf8\"",
            b"a/b; charset=",
            b"a/b; charset",
            b"a/b; profile=charset; charset=utf-8",
        ] {
            assert_eq!(foreign_charset(&headers(&[fine])), None);
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
        ] {
            assert_eq!(
                foreign_charset(&headers(&[foreign])).as_deref(),
                Some(found)
            );
        }
    }

    #[test]
    fn several_types_become_one() {
        for several in [
            &[&b"text/html"[..], b"text/event-stream; a=b"][..],
            &[b"text/html, text/event-stream; a=b"],
        ] {
            let mut headers = headers(several);
            settle_content_type(&mut headers);
            let left: Vec<_> = headers.get_all(CONTENT_TYPE).iter().collect();
            assert_eq!(left, ["text/event-stream; a=b"]);
        }
    }
}
