//! A lazy view of JSON data that is edited in place.

use std::{borrow::Cow, fmt, ops::Range};

use serde::{
    Deserialize, Serialize,
    de::{Deserializer, IgnoredAny, Visitor},
};

use super::unescape::Unescaped;

/// JSON text, read where it is asked for and edited where it is changed.
///
/// Nothing is built from the text: a value is a part of it, found by descending from the root, and setting a value
/// replaces that part. All the rest stays as it was sent, byte for byte: numbers of any size, the order of keys, white
/// space.
///
/// ```
/// use tower_sse_proxy::{Event, intercept::Json};
///
/// let mut event = Event::new(r#"{"n": 1.0, "choices": [{"delta": {"content": "hi"}}], "id": 12345678901234567890}"#);
/// let mut json = Json::parse(event.data())?;
/// let text = json.pointer("/choices/0/delta/content").and_then(|value| value.as_str());
/// assert_eq!(text.as_deref(), Some("hi"));
///
/// json.set("/choices/0/delta/content", &"hello")?;
/// if json.is_changed() {
///     event.set_data(json);
/// }
/// assert_eq!(
///     event.data(),
///     r#"{"n": 1.0, "choices": [{"delta": {"content": "hello"}}], "id": 12345678901234567890}"#,
/// );
/// # Ok::<(), tower_sse_proxy::intercept::JsonError>(())
/// ```
#[derive(Clone)]
pub struct Json {
    text: String,
    changed: bool,
}

impl Json {
    /// Takes a text that is one JSON value (RFC 8259).
    ///
    /// Names and strings may contain unpaired surrogates (RFC 8259 section 8.2), and byte order marks before the value are
    /// ignored (section 8.1): readers do both, so what they read is seen here.
    ///
    /// # Errors
    /// What is wrong with the text, and where. After that nothing in it is unreadable: every object has the members, and
    /// every array the elements, that stand in the text.
    pub fn parse(text: impl Into<String>) -> Result<Self, JsonError> {
        let text = text.into();
        serde_json::from_str::<IgnoredAny>(text.trim_start_matches(BYTE_ORDER_MARK))
            .map_err(JsonError::Syntax)?;
        Ok(Self {
            text,
            changed: false,
        })
    }

    /// The whole value.
    pub fn root(&self) -> JsonValue<'_> {
        let text = self.text.trim_start_matches(BYTE_ORDER_MARK);
        JsonValue {
            raw: text.trim_matches(WHITE_SPACE),
        }
    }

    /// The value that a JSON Pointer (RFC 6901) leads to; the empty pointer leads to the root.
    pub fn pointer(&self, pointer: &str) -> Option<JsonValue<'_>> {
        let mut value = self.root();
        if pointer.is_empty() {
            return Some(value);
        }
        for token in pointer.strip_prefix('/')?.split('/') {
            let token = token.replace("~1", "/").replace("~0", "~");
            value = match value.raw.as_bytes().first() {
                Some(b'[') => value.at(index(&token)?)?,
                _ => value.get(&token)?,
            };
        }
        Some(value)
    }

    /// Puts a value in the place that a JSON Pointer (RFC 6901) leads to.
    ///
    /// # Errors
    /// The pointer leads nowhere, or the value has no JSON. The text is then as it was.
    pub fn set<T: Serialize + ?Sized>(
        &mut self,
        pointer: &str,
        value: &T,
    ) -> Result<(), JsonError> {
        let place = match self.pointer(pointer) {
            Some(value) => self.place(value),
            None => return Err(JsonError::NoSuchPlace(pointer.to_owned())),
        };
        let value = serde_json::to_string(value).map_err(JsonError::Value)?;
        self.splice(place, &value);
        Ok(())
    }

    /// Whether anything was set.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Where a value of this text stands in it.
    pub(super) fn place(&self, value: JsonValue<'_>) -> Range<usize> {
        let start = value.raw.as_ptr() as usize - self.text.as_ptr() as usize;
        start..start + value.raw.len()
    }

    pub(super) fn splice(&mut self, place: Range<usize>, json: &str) {
        self.text.replace_range(place, json);
        self.changed = true;
    }
}

/// The text as it is now.
impl AsRef<str> for Json {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// Shows the size, never the text.
impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Json")
            .field("bytes", &self.text.len())
            .field("changed", &self.changed)
            .finish_non_exhaustive()
    }
}

/// A part of a [`Json`] text that is a value.
#[derive(Clone, Copy)]
pub struct JsonValue<'a> {
    raw: &'a str,
}

impl<'a> JsonValue<'a> {
    /// The text of the value, as it was sent.
    pub fn raw(self) -> &'a str {
        self.raw
    }

    /// A member of an object. Of several with this name the last, as JavaScript and Python read it.
    pub fn get(self, name: &str) -> Option<JsonValue<'a>> {
        let mut found = None;
        for (key, value) in self.entries() {
            if key.as_str().is_some_and(|key| key == name) {
                found = Some(value);
            }
        }
        found
    }

    /// An element of an array.
    pub fn at(self, index: usize) -> Option<JsonValue<'a>> {
        self.elements().into_iter().nth(index)
    }

    /// The members of an object, in order; none of anything else. In a name, a surrogate that has no other half reads as
    /// U+FFFD.
    pub fn members(self) -> Vec<(Cow<'a, str>, JsonValue<'a>)> {
        let members = self.entries();
        let members = members.map(|(name, value)| (name.as_str().unwrap_or_default(), value));
        members.collect()
    }

    /// The elements of an array, in order; none of anything else.
    pub fn elements(self) -> Vec<JsonValue<'a>> {
        self.parts('[').collect()
    }

    /// The text of a string. A surrogate that has no other half (RFC 8259 8.2) reads as U+FFFD.
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        self.inside()
            .map(|inside| Unescaped::new(inside).into_text())
    }

    /// What stands between the quotes of a string.
    pub(super) fn inside(self) -> Option<&'a str> {
        let literal = self.raw.strip_prefix('"')?;
        Some(literal.strip_suffix('"').unwrap_or(literal))
    }

    /// The members of an object, names as literals; none of anything else.
    pub(super) fn entries(self) -> impl Iterator<Item = (JsonValue<'a>, JsonValue<'a>)> {
        let mut parts = self.parts('{');
        std::iter::from_fn(move || parts.next().zip(parts.next()))
    }

    /// A string such that two names are the same only if these are: unpaired surrogates differ from each other.
    pub(super) fn exact(self) -> Cow<'a, [u8]> {
        if memchr::memchr(b'\\', self.raw.as_bytes()).is_none() {
            return self.raw.trim_matches('"').as_bytes().into();
        }
        match self.read() {
            Some(Wtf8(bytes)) => bytes.into(),
            None => self.raw.as_bytes().into(),
        }
    }

    /// What stands between the brackets, if those are of this kind.
    fn parts(self, opening: char) -> Parts<'a> {
        let inside = self.raw.strip_prefix(opening).unwrap_or_default();
        Parts {
            rest: inside.strip_suffix([']', '}']).unwrap_or(inside),
        }
    }

    /// The value as a type of one's own, or `None` if it is not one.
    pub fn read<T: Deserialize<'a>>(self) -> Option<T> {
        serde_json::from_str(self.raw).ok()
    }

    pub(super) fn is_null(self) -> bool {
        self.raw == "null"
    }
}

/// Shows the kind, never the text.
impl fmt::Debug for JsonValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.raw.as_bytes().first() {
            Some(b'{') => "object",
            Some(b'[') => "array",
            Some(b'"') => "string",
            _ => "scalar",
        };
        write!(f, "JsonValue({kind}, {} bytes)", self.raw.len())
    }
}

/// Why a text cannot be read or changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum JsonError {
    /// It is not JSON.
    Syntax(serde_json::Error),
    /// This JSON Pointer leads nowhere.
    NoSuchPlace(String),
    /// The new value has no JSON.
    Value(serde_json::Error),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonError::Syntax(error) => write!(f, "the data is not JSON: {error}"),
            JsonError::NoSuchPlace(pointer) => write!(
                f,
                "the JSON Pointer {pointer:?} leads nowhere: only a value that is there can be set"
            ),
            JsonError::Value(error) => {
                write!(f, "the new value cannot be written as JSON: {error}")
            }
        }
    }
}

impl std::error::Error for JsonError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JsonError::Syntax(error) | JsonError::Value(error) => Some(error),
            JsonError::NoSuchPlace(_) => None,
        }
    }
}

/// An array index of a JSON Pointer: no leading zero, no sign (RFC 6901 4).
fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || !token.starts_with(['0', '+']);
    token.parse().ok().filter(|_| plain)
}

/// White space of JSON (RFC 8259 section 2).
const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

const BYTE_ORDER_MARK: char = '\u{feff}';

/// The values, and names, that stand between two brackets, each as its text.
///
/// The text has been checked when it was [parsed](Json::parse). Reading it cannot fail, so nothing in it can be passed
/// over: each byte is white space, a comma, a colon, or part of a value.
struct Parts<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Parts<'a> {
    type Item = JsonValue<'a>;

    fn next(&mut self) -> Option<JsonValue<'a>> {
        let rest = self
            .rest
            .trim_start_matches([' ', '\t', '\n', '\r', ',', ':']);
        if rest.is_empty() {
            self.rest = rest;
            return None;
        }
        let (raw, rest) = rest.split_at(value_len(rest.as_bytes()));
        self.rest = rest;
        Some(JsonValue { raw })
    }
}

/// The length of the value that a text begins with.
fn value_len(text: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at += string_len(&text[at..]),
            b'[' | b'{' => {
                depth += 1;
                at += 1;
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' if depth > 0 => at += 1,
            _ => {
                // A number or a name such as `true`.
                let ends = |byte: &u8| b",:]}[{\" \t\n\r".contains(byte);
                let rest = &text[at..];
                at += rest.iter().position(ends).unwrap_or(rest.len()).max(1);
            }
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the string literal that a text begins with.
fn string_len(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = text
        .get(at..)
        .and_then(|rest| memchr::memchr2(b'"', b'\\', rest))
    {
        at += found + 1;
        if text[at - 1] == b'"' {
            return at;
        }
        // What is escaped ends nothing.
        at += 1;
    }
    text.len()
}

/// A string that may have half surrogates.
struct Wtf8(Vec<u8>);

impl<'de> Deserialize<'de> for Wtf8 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Wtf8;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Wtf8, E> {
                Ok(Wtf8(bytes.to_vec()))
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_stays_as_it_was() {
        let text = r#" {"b":1.0,"a":[1e400,-0.0,{"x/y":"\u0041","~":null}],"b2":123456789012345678901234567890} "#;
        let mut json = Json::parse(text).unwrap();
        let read =
            |json: &Json, pointer: &str| json.pointer(pointer).map(|value| value.raw().to_owned());
        assert_eq!(read(&json, "/a/0").as_deref(), Some("1e400"));
        assert_eq!(json.pointer("/a/2/x~1y").unwrap().as_str().unwrap(), "A");
        assert_eq!(read(&json, "/a/2/~0").as_deref(), Some("null"));
        for nowhere in ["a", "/c", "/a/3", "/a/00", "/a/+1", "/a/-", "/b/0", "/"] {
            assert_eq!(read(&json, nowhere), None, "{nowhere}");
            assert!(matches!(
                json.set(nowhere, &1),
                Err(JsonError::NoSuchPlace(_))
            ));
        }
        assert!(!json.is_changed());
        json.set("/a/2/x~1y", &"\"\n").unwrap();
        assert!(json.is_changed());
        assert_eq!(json.as_ref(), text.replace(r#""\u0041""#, r#""\"\n""#));
        json.set("", &()).unwrap();
        assert_eq!(json.as_ref(), " null ");
    }

    #[test]
    fn half_a_surrogate_is_no_reason_to_miss_the_rest() {
        let json = Json::parse(r#"{"k\u0065y":"a\ud83db","key":"last"}"#).unwrap();
        assert_eq!(json.root().get("key").unwrap().as_str().unwrap(), "last");
        let first = json.root().members()[0].1.as_str().unwrap();
        assert_eq!(first, "a\u{fffd}b");
    }

    #[test]
    fn a_name_with_half_a_surrogate_hides_nothing_of_its_object() {
        let json = Json::parse(
            "\u{feff}{\"\\ud800\":0, \"\\udc00x\" : [ {\"\\udfff\":{}, \"id\":\"a\\\\\"}] ,\"id\":7}",
        );
        let json = json.unwrap();
        assert_eq!(json.pointer("/id").unwrap().raw(), "7");
        let names: Vec<_> = json
            .root()
            .members()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["\u{fffd}", "\u{fffd}x", "id"]);
        let inner = json.root().members()[1].1.elements();
        assert_eq!(inner[0].get("id").unwrap().as_str().unwrap(), "a\\");
        let exact: Vec<_> = json
            .root()
            .entries()
            .map(|(name, _)| name.exact())
            .collect();
        assert!(exact[0] != "\u{fffd}".as_bytes() && exact[0] != exact[1]);
    }

    #[test]
    fn what_is_not_json_says_where() {
        for bad in ["", "[DONE]", "{\"a\":1", "{} {}", "{a:1}"] {
            let error = Json::parse(bad).unwrap_err();
            assert!(error.to_string().contains("column"), "{error}");
            assert!(std::error::Error::source(&error).is_some());
        }
    }

    #[test]
    fn debug_output_shows_no_text() {
        let mut json = Json::parse(r#"{"a":["secret"]}"#).unwrap();
        json.set("/a/0", "hidden").unwrap();
        assert_eq!(format!("{json:?}"), "Json { bytes: 16, changed: true, .. }");
        let shown = |pointer: &str| format!("{:?}", json.pointer(pointer).unwrap());
        assert_eq!(shown(""), "JsonValue(object, 16 bytes)");
        assert_eq!(shown("/a"), "JsonValue(array, 10 bytes)");
        assert_eq!(shown("/a/0"), "JsonValue(string, 8 bytes)");
        assert_eq!(
            format!("{:?}", Json::parse("1").unwrap().root()),
            "JsonValue(scalar, 1 bytes)"
        );
    }
}
