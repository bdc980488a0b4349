//! A lazy view of JSON data that is edited in place.

mod elements;

use std::{borrow::Cow, fmt, ops::Range};

use serde::{
    Deserialize,
    de::{Deserializer, IgnoredAny, Visitor},
};
use tower::BoxError;

use super::unescape::Unescaped;
use elements::Elements;

/// JSON text that is read lazily and edited in place.
///
/// It builds no tree. A value is a range of the text, found by a walk from the root; setting a value replaces its range. The
/// rest of the text stays byte-identical: numbers of any size, the order of members, white space.
///
/// ```
/// use tower_sse_proxy::{Event, intercept::Json};
///
/// let mut event = Event::new(r#"{"n": 1.0, "choices": [{"delta": {"content": "hi"}}], "id": 12345678901234567890}"#);
/// let mut json = Json::parse(event.data())?;
/// let text = json.pointer("/choices/0/delta/content").and_then(|value| value.as_str());
/// assert_eq!(text.as_deref(), Some("hi"));
///
/// json.set_str("/choices/0/delta/content", "hello")?;
/// json.set_raw("/n", "[2]")?;
/// if json.is_changed() {
///     event.set_data(json);
/// }
/// assert_eq!(
///     event.data(),
///     r#"{"n": [2], "choices": [{"delta": {"content": "hello"}}], "id": 12345678901234567890}"#,
/// );
/// # Ok::<(), tower_sse_proxy::intercept::JsonError>(())
/// ```
///
/// `Display`, [`AsRef<str>`] and [`into_string`](Self::into_string) give the current text. `Debug` shows its size only.
#[derive(Clone)]
pub struct Json {
    text: String,
    changed: bool,
}

impl Json {
    /// Parses a text that is one JSON value (RFC 8259).
    ///
    /// It accepts two kinds of text that readers of event streams accept, so that no reader sees more than an interceptor:
    /// unpaired surrogates in names and strings (RFC 8259 section 8.2), and byte order marks before the value (section 8.1),
    /// which it skips.
    ///
    /// # Errors
    /// [`JsonError::Syntax`], with the line and column of the fault.
    pub fn parse(text: impl Into<String>) -> Result<Self, JsonError> {
        let text = text.into();
        check(text.trim_start_matches(BYTE_ORDER_MARK)).map_err(JsonError::Syntax)?;
        Ok(Self {
            text,
            changed: false,
        })
    }

    /// Returns the root value.
    pub fn root(&self) -> JsonValue<'_> {
        let text = self.text.trim_start_matches(BYTE_ORDER_MARK);
        JsonValue {
            raw: text.trim_matches(WHITE_SPACE),
        }
    }

    /// Returns the value at a JSON Pointer (RFC 6901), or `None` if it leads to no value. The empty pointer is the root.
    ///
    /// Of several members with the same name, the pointer means the last.
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

    /// Replaces the value at a JSON Pointer (RFC 6901) by a string. It escapes the text.
    ///
    /// # Errors
    /// [`JsonError::NoSuchValue`] if the pointer leads to no value. The text then stays unchanged.
    pub fn set_str(&mut self, pointer: &str, text: &str) -> Result<(), JsonError> {
        let range = self.range_at(pointer)?;
        self.replace(range, &serde_json::Value::from(text).to_string());
        Ok(())
    }

    /// Replaces the value at a JSON Pointer (RFC 6901) by another JSON text, which is copied as it is.
    ///
    /// # Errors
    /// [`JsonError::NoSuchValue`] if the pointer leads to no value, and [`JsonError::InvalidValue`] if `json` is not one JSON
    /// value. The text then stays unchanged.
    pub fn set_raw(&mut self, pointer: &str, json: &str) -> Result<(), JsonError> {
        let range = self.range_at(pointer)?;
        check(json).map_err(JsonError::InvalidValue)?;
        self.replace(range, json);
        Ok(())
    }

    /// Whether a value was set since [`parse`](Self::parse).
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Returns the current text without copying it.
    pub fn into_string(self) -> String {
        self.text
    }

    /// The range of the text that a value of this text covers.
    pub(super) fn range_of(&self, value: JsonValue<'_>) -> Range<usize> {
        let start = value.raw.as_ptr() as usize - self.text.as_ptr() as usize;
        start..start + value.raw.len()
    }

    fn range_at(&self, pointer: &str) -> Result<Range<usize>, JsonError> {
        match self.pointer(pointer) {
            Some(value) => Ok(self.range_of(value)),
            None => Err(JsonError::NoSuchValue(pointer.to_owned())),
        }
    }

    fn replace(&mut self, range: Range<usize>, json: &str) {
        self.text.replace_range(range, json);
        self.changed = true;
    }
}

fn check(text: &str) -> Result<(), BoxError> {
    serde_json::from_str::<IgnoredAny>(text)?;
    Ok(())
}

/// The current text.
impl AsRef<str> for Json {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// Writes the current text.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
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

/// A value in a [`Json`] text.
#[derive(Clone, Copy)]
pub struct JsonValue<'a> {
    raw: &'a str,
}

impl<'a> JsonValue<'a> {
    /// Returns the JSON text of the value, byte-identical to the data.
    ///
    /// To deserialize the value, pass this text to a JSON library: `serde_json::from_str::<T>(value.raw())`.
    pub fn raw(self) -> &'a str {
        self.raw
    }

    /// Returns the member of an object with this name, or `None`. Of several members with the same name, it returns the last,
    /// as JavaScript and Python do.
    pub fn get(self, name: &str) -> Option<JsonValue<'a>> {
        let mut found = None;
        for (key, value) in self.entries() {
            if key.as_str().is_some_and(|key| key == name) {
                found = Some(value);
            }
        }
        found
    }

    /// Returns the element of an array at this index, counted from 0, or `None`.
    pub fn at(self, index: usize) -> Option<JsonValue<'a>> {
        self.elements().into_iter().nth(index)
    }

    /// Returns the members of an object in order, with unescaped names. Empty for other values. An unpaired surrogate in a
    /// name reads as U+FFFD.
    pub fn members(self) -> Vec<(Cow<'a, str>, JsonValue<'a>)> {
        let members = self.entries();
        let members = members.map(|(name, value)| (name.as_str().unwrap_or_default(), value));
        members.collect()
    }

    /// Returns the elements of an array in order. Empty for other values.
    pub fn elements(self) -> Vec<JsonValue<'a>> {
        self.inside_brackets('[').collect()
    }

    /// Returns the unescaped text of a string, or `None` for other values. An unpaired surrogate (RFC 8259 section 8.2) reads
    /// as U+FFFD.
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        self.inside_quotes()
            .map(|inside| Unescaped::new(inside).into_text())
    }

    /// The escaped text between the quotes of a string.
    pub(super) fn inside_quotes(self) -> Option<&'a str> {
        let literal = self.raw.strip_prefix('"')?;
        Some(literal.strip_suffix('"').unwrap_or(literal))
    }

    /// The members of an object in order, with names as string literals. Empty for other values.
    pub(super) fn entries(self) -> impl Iterator<Item = (JsonValue<'a>, JsonValue<'a>)> {
        let mut values = self.inside_brackets('{');
        std::iter::from_fn(move || values.next().zip(values.next()))
    }

    /// The bytes of a string in a form in which two names are equal only if they have the same code units: each unpaired
    /// surrogate has its own bytes.
    pub(super) fn exact(self) -> Cow<'a, [u8]> {
        if memchr::memchr(b'\\', self.raw.as_bytes()).is_none() {
            return self.raw.trim_matches('"').as_bytes().into();
        }
        match serde_json::from_str(self.raw) {
            Ok(Wtf8(bytes)) => bytes.into(),
            Err(_) => self.raw.as_bytes().into(),
        }
    }

    /// The values between the brackets of an array or object. Empty if the value begins with another character.
    fn inside_brackets(self, opening: char) -> impl Iterator<Item = JsonValue<'a>> {
        let inside = self.raw.strip_prefix(opening).unwrap_or_default();
        let elements = Elements::new(inside.strip_suffix([']', '}']).unwrap_or(inside));
        elements.map(|raw| JsonValue { raw })
    }

    pub(super) fn is_null(self) -> bool {
        self.raw == "null"
    }
}

/// Shows the type and the size, never the text.
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

/// Why a text could not be parsed, or a value not be set.
#[derive(Debug)]
#[non_exhaustive]
pub enum JsonError {
    /// The text is not one JSON value.
    Syntax(BoxError),
    /// This JSON Pointer leads to no value. Only an existing value can be set.
    NoSuchValue(String),
    /// The new value is not one JSON value.
    InvalidValue(BoxError),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonError::Syntax(error) => write!(f, "the data is not JSON: {error}"),
            JsonError::NoSuchValue(pointer) => write!(
                f,
                "no value at the JSON Pointer {pointer:?}: only an existing value can be set"
            ),
            JsonError::InvalidValue(error) => write!(f, "the new value is not JSON: {error}"),
        }
    }
}

impl std::error::Error for JsonError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JsonError::Syntax(error) | JsonError::InvalidValue(error) => Some(&**error),
            JsonError::NoSuchValue(_) => None,
        }
    }
}

/// Parses an array index of a JSON Pointer: no leading zero, no sign (RFC 6901 section 4).
fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || !token.starts_with(['0', '+']);
    token.parse().ok().filter(|_| plain)
}

/// White space of JSON (RFC 8259 section 2).
const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

const BYTE_ORDER_MARK: char = '\u{feff}';

/// The bytes of a string that may contain unpaired surrogates.
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
    fn setting_a_value_changes_no_other_byte() {
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
                json.set_raw(nowhere, "1"),
                Err(JsonError::NoSuchValue(_))
            ));
        }
        assert!(!json.is_changed());
        json.set_str("/a/2/x~1y", "\"\n").unwrap();
        assert!(json.is_changed());
        assert_eq!(json.as_ref(), text.replace(r#""\u0041""#, r#""\"\n""#));
        json.set_raw("", "null").unwrap();
        assert_eq!(json.as_ref(), " null ");
        assert_eq!(json.to_string(), " null ");
        assert_eq!(json.into_string(), " null ");
    }

    #[test]
    fn invalid_new_value_changes_nothing() {
        let mut json = Json::parse("[1]").unwrap();
        for bad in ["", "1,2", "1]", "x"] {
            let error = json.set_raw("/0", bad).unwrap_err();
            assert!(matches!(error, JsonError::InvalidValue(_)), "{bad}");
            assert!(std::error::Error::source(&error).is_some());
        }
        assert!(!json.is_changed());
        assert_eq!(json.to_string(), "[1]");
    }

    #[test]
    fn unpaired_surrogate_does_not_hide_later_members() {
        let json = Json::parse(r#"{"k\u0065y":"a\ud83db","key":"last"}"#).unwrap();
        assert_eq!(json.root().get("key").unwrap().as_str().unwrap(), "last");
        let first = json.root().members()[0].1.as_str().unwrap();
        assert_eq!(first, "a\u{fffd}b");
    }

    #[test]
    fn names_with_unpaired_surrogates_do_not_hide_members() {
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
    fn syntax_error_names_the_column() {
        for bad in ["", "[DONE]", "{\"a\":1", "{} {}", "{a:1}"] {
            let error = Json::parse(bad).unwrap_err();
            assert!(error.to_string().contains("column"), "{error}");
            assert!(std::error::Error::source(&error).is_some());
        }
    }

    #[test]
    fn debug_output_shows_no_text() {
        let mut json = Json::parse(r#"{"a":["secret"]}"#).unwrap();
        json.set_str("/a/0", "hidden").unwrap();
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
