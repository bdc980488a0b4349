//! The names of channels: which text a string goes on in.

use super::texts::Texts;
use crate::intercept::JsonValue;

/// A channel whose name has keys in it that the event gives.
///
/// Numbers are the same key if their values are: `0`, `0.0`, `-0` and `0e0`. Keys of other types are compared in different
/// ways: to JavaScript `0` and `"0"` are the same name of a member, to Python `true` is the number 1. A text with a key that
/// may or may not be another one cannot be judged.
#[derive(Clone)]
pub(super) struct Channel {
    name: String,
    is_ambiguous: bool,
}

impl Channel {
    pub(super) fn new(kind: &str) -> Self {
        Self {
            name: kind.to_owned(),
            is_ambiguous: false,
        }
    }

    /// A channel within this one. When this one is [done](Self::done), so is that.
    pub(super) fn child(&self, name: &str) -> Self {
        let mut channel = self.clone();
        channel.push(name);
        channel
    }

    /// With the element's own index, or its place where it has none.
    pub(super) fn indexed(self, element: JsonValue<'_>, index: &str, place: usize) -> Self {
        self.with(element.get(index), &place.to_string())
    }

    /// With a key that may be missing.
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

    /// A string that goes on in this channel.
    pub(super) fn delta<'a>(self, value: JsonValue<'a>, texts: &mut Texts<'a>) {
        texts.is_ambiguous |= self.is_ambiguous;
        texts.delta(self.name, value);
    }

    /// A string that goes on in this channel, which usually tells the text of another one once more.
    pub(super) fn retold<'a>(&self, value: JsonValue<'a>, texts: &mut Texts<'a>) {
        texts.is_ambiguous |= self.is_ambiguous;
        texts.alias(self.name.clone(), value);
    }

    /// Nothing more comes in this channel and those within it.
    pub(super) fn done(self, texts: &mut Texts<'_>) {
        texts.finish(self.name);
    }
}

/// Whether readers that turn keys into strings may take this one for a key of another type.
fn is_like_another_type(key: &str) -> bool {
    key.trim().is_empty()
        || key.trim().parse::<f64>().is_ok()
        || ["true", "false", "null", "undefined"].contains(&key)
}

/// One name for each value that a number can have, as readers that have 64-bit numbers compare them.
fn number(value: f64) -> String {
    if value == 0.0 {
        // Zero has a sign in this type only.
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
        let channel = Channel::new("x").keyed(Some(json.root()));
        (channel.name, channel.is_ambiguous)
    }

    #[test]
    fn numbers_of_one_value_have_one_name() {
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
    fn keys_that_readers_compare_differently_are_ambiguous() {
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
