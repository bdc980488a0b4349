//! The values of JSON data that are judged.

use crate::intercept::{Json, JsonValue};

/// The values that are judged: every string, at any depth and under any name, and every whole number.
///
/// # Errors
/// An object that has a name twice (readers disagree about which one counts), or too deep a nesting.
pub(super) fn leaves(json: &Json) -> Result<Vec<JsonValue<'_>>, Unreadable> {
    let mut leaves = Vec::new();
    collect(json.root(), 0, &mut leaves)?;
    Ok(leaves)
}

/// Members that repeat the text of their event token by token, with numbers about it. They are judged as any other; in an
/// event that a mask has changed they are emptied, for the numbers are about a text that is gone.
pub(super) const RETOLD: [&str; 2] = ["logprobs", "logprobsResult"];

/// Each level is read once for each level above it.
const DEEPEST: usize = 32;

fn collect<'a>(
    value: JsonValue<'a>,
    depth: usize,
    into: &mut Vec<JsonValue<'a>>,
) -> Result<(), Unreadable> {
    if depth > DEEPEST {
        return Err(Unreadable("JSON nested more than 32 deep"));
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
                return Err(Unreadable("a JSON object with a name twice"));
            }
            for (_, member) in members {
                collect(member, depth + 1, into)?;
            }
        }
        Some(b'"') => into.push(value),
        Some(_) if raw.bytes().all(|byte| byte.is_ascii_digit()) => into.push(value),
        _ => {}
    }
    Ok(())
}

/// An event that cannot be judged, since readers may read it differently.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable(&'static str);

impl Unreadable {
    pub(super) fn new(why: &'static str) -> Self {
        Self(why)
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the event cannot be judged: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}
