//! The values of JSON data that a judge sees.

use crate::intercept::{Json, JsonValue};

/// Returns the values that a judge sees: each string at any depth, and each unsigned integer.
///
/// # Errors
/// An object with two members of the same name, since readers disagree about which one applies, nesting above [`MAX_DEPTH`], and
/// more than [`MAX_LEAVES`] such values.
pub(super) fn leaves(json: &Json) -> Result<Vec<JsonValue<'_>>, Unreadable> {
    let mut leaves = Vec::new();
    collect(json.root(), 0, &mut leaves)?;
    Ok(leaves)
}

/// Members that repeat the text of their event token by token, with numbers about each token. The judge sees them too. When
/// a mask changes the event, they are emptied, because the numbers describe the old text.
pub(super) const REPEATED_TEXT: [&str; 2] = ["logprobs", "logprobsResult"];

/// Limits the cost: the text of a value is scanned once for each level above it.
const MAX_DEPTH: usize = 32;

/// Limits the cost: each value takes some 300 bytes while the window holds the event, and half a microsecond. An event of 16 MiB may
/// have 8 million of them.
const MAX_LEAVES: usize = 1 << 18;

fn collect<'a>(
    value: JsonValue<'a>,
    depth: usize,
    into: &mut Vec<JsonValue<'a>>,
) -> Result<(), Unreadable> {
    if depth > MAX_DEPTH {
        return Err(Unreadable("JSON nested more than 32 levels deep"));
    }
    let raw = value.raw();
    match raw.as_bytes().first() {
        Some(b'[') => {
            for element in value.elements() {
                collect(element, depth + 1, into)?;
            }
        }
        Some(b'{') => {
            let members: Vec<_> = value.entries().collect();
            let mut names: Vec<_> = members.iter().map(|(name, _)| name.exact()).collect();
            names.sort_unstable();
            if names.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(Unreadable(
                    "a JSON object with two members of the same name",
                ));
            }
            for (_, member) in members {
                collect(member, depth + 1, into)?;
            }
        }
        Some(_) if is_string_or_integer(raw) => {
            if into.len() == MAX_LEAVES {
                return Err(Unreadable("more than 262144 strings and numbers"));
            }
            into.push(value);
        }
        _ => {}
    }
    Ok(())
}

fn is_string_or_integer(raw: &str) -> bool {
    raw.starts_with('"') || raw.bytes().all(|byte| byte.is_ascii_digit())
}

/// The error for an event that readers may interpret differently, or that exceeds a limit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable(&'static str);

impl Unreadable {
    pub(super) fn new(reason: &'static str) -> Self {
        Self(reason)
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the event cannot be judged: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}
