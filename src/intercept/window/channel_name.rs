//! The names of channels, from keys in the events of an API.

use super::texts::Texts;
use crate::intercept::JsonValue;

/// The name of a channel. It contains keys from the event, such as the index of a choice.
///
/// Numbers with equal values are the same key: `0`, `0.0`, `-0` and `0e0`. Readers compare keys of other types in different
/// ways: in JavaScript `0` and `"0"` name the same member, in Python `true` equals 1. A key that some readers may take for
/// another key makes the name ambiguous, and the window then refuses the event.
#[derive(Clone)]
pub(super) struct ChannelName {
    name: String,
    is_ambiguous: bool,
}

impl ChannelName {
    pub(super) fn new(kind: &str) -> Self {
        Self {
            name: kind.to_owned(),
            is_ambiguous: false,
        }
    }

    /// A channel within this one. [`finish`](Self::finish) of this channel finishes it too.
    pub(super) fn child(&self, name: &str) -> Self {
        let mut channel = self.clone();
        channel.push(name);
        channel
    }

    /// Adds the index of an array element: its member `index`, or its position if it has no such member.
    pub(super) fn indexed(self, element: JsonValue<'_>, index: &str, position: usize) -> Self {
        self.with(element.get(index), &position.to_string())
    }

    /// Adds the position of an array element, or `-` if the text is in no such array.
    pub(super) fn at(mut self, position: Option<usize>) -> Self {
        match position {
            Some(position) => self.push(&position.to_string()),
            None => self.push("-"),
        }
        self
    }

    /// Adds a key, or `-` if the event has no such key.
    pub(super) fn keyed(self, key: Option<JsonValue<'_>>) -> Self {
        self.with(key, "-")
    }

    fn with(mut self, key: Option<JsonValue<'_>>, missing: &str) -> Self {
        let Some(key) = key.filter(|key| !key.is_null()) else {
            self.push(missing);
            return self;
        };
        match (key.as_str(), key.raw().parse()) {
            (Some(text), _) => {
                self.is_ambiguous |= is_like_another_type(&text);
                self.push(&["\"", &text, "\""].concat());
            }
            (None, Ok(value)) => self.push(&number(value)),
            (None, Err(_)) => {
                self.is_ambiguous = true;
                self.push(missing);
            }
        }
        self
    }

    fn push(&mut self, name: &str) {
        self.name.push(' ');
        self.name.push_str(name);
    }

    /// Appends a string to this channel.
    pub(super) fn delta<'a>(self, value: JsonValue<'a>, texts: &mut Texts<'a>) {
        texts.is_ambiguous |= self.is_ambiguous;
        texts.delta(self.name, value);
    }

    /// Appends a string to this channel, which usually repeats the text of another channel.
    pub(super) fn repeat<'a>(&self, value: JsonValue<'a>, texts: &mut Texts<'a>) {
        texts.is_ambiguous |= self.is_ambiguous;
        texts.alias(self.name.clone(), value);
    }

    /// Finishes this channel and those within it.
    pub(super) fn finish(self, texts: &mut Texts<'_>) {
        texts.finish(self.name);
    }
}

/// Whether a reader that converts keys to strings may take this key for a key of another type.
fn is_like_another_type(key: &str) -> bool {
    key.trim().is_empty()
        || key.trim().parse::<f64>().is_ok()
        || ["true", "false", "null", "undefined"].contains(&key)
}

/// Returns one name for each value of a 64-bit float, since readers compare numbers as such.
fn number(value: f64) -> String {
    if value == 0.0 {
        // Also for -0.0, which is equal to 0.0.
        "0".to_owned()
    } else if value.abs() < 1e15 {
        value.to_string()
    } else {
        format!("{value:e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intercept::Json;

    fn named(key: &str) -> (String, bool) {
        let json = Json::parse(key).unwrap();
        let channel = ChannelName::new("x").keyed(Some(json.root()));
        (channel.name, channel.is_ambiguous)
    }

    #[test]
    fn equal_numbers_have_one_name() {
        for (name, spellings) in [
            (
                "x 0",
                &["0", "0.0", "-0", "-0.0", "0e0", "0E+9", "1e-400"][..],
            ),
            ("x 1", &["1", "1.0", "10e-1", "0.1e1"]),
            ("x -1.5", &["-1.5", "-15e-1"]),
            ("x 1e15", &["1000000000000000", "1e15", "1E+15"]),
            ("x inf", &["1e400", "2E999"]),
            ("x -", &["null"]),
        ] {
            for spelling in spellings {
                assert_eq!(named(spelling), (name.to_owned(), false), "{spelling}");
            }
        }
        assert_ne!(named("1"), named("2"));
    }

    #[test]
    fn keys_that_readers_may_compare_differently_are_ambiguous() {
        for key in [
            "true",
            "false",
            "{}",
            "[0]",
            "\"0\"",
            "\"\\u0030\"",
            "\" 1\"",
            "\"1e3\"",
            "\"\"",
            "\"true\"",
            "\"undefined\"",
        ] {
            assert!(named(key).1, "{key}");
        }
        assert_eq!(named("\"four\""), ("x \"four\"".to_owned(), false));
        assert_eq!(named("\"f\\u006fur\""), named("\"four\""));
    }
}
