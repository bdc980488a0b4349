//! Writes changed texts back into their events.

use std::ops::Range;

use super::leaves::REPEATED_TEXT;
use crate::{
    codec::{Block, Event},
    intercept::{Json, JsonValue},
};

/// The location of a text in an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// The whole data.
    Data,
    /// A range of the data that is one JSON value.
    Json(Range<usize>),
}

/// A range of the source of a text, and its replacement, escaped as the location needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) range: Range<usize>,
    pub(super) with: String,
}

/// Applies edits to the data of a block. A location may occur more than once.
///
/// Only the edited ranges change. The rest of each JSON string keeps its spelling.
pub(super) fn rewrite(block: Block, changed: Vec<(Location, Vec<Edit>)>) -> Block {
    if changed.is_empty() {
        return block;
    }
    let mut event = match Event::from_block(block) {
        Ok(event) => event,
        Err(block) => return block,
    };
    let data = event.data();
    let mut values: Vec<(Range<usize>, Vec<Edit>)> = Vec::new();
    let mut whole = Vec::new();
    for (location, mut edits) in changed {
        match location {
            // The event then has no other text.
            Location::Data => whole.append(&mut edits),
            Location::Json(range) => values.push((range, edits)),
        }
    }
    if !whole.is_empty() {
        let text = edited(&data, whole);
        event.set_data(text);
        return event.into();
    }
    let Ok(json) = Json::parse(&*data) else {
        return event.into();
    };
    let mut emptied = Vec::new();
    find_repeated_text(&json, json.root(), &mut emptied);
    values.sort_by_key(|(range, _)| range.start);
    values.dedup_by(|(range, edits), (before, all)| {
        let is_same = range == before;
        if is_same {
            all.append(edits);
        }
        is_same
    });
    let mut splices = Vec::new();
    for (range, edits) in values {
        let before = emptied.partition_point(|(emptied, _)| emptied.start <= range.start);
        let around = before.checked_sub(1).map(|last| &emptied[last].0);
        if !around.is_some_and(|emptied| emptied.contains(&range.start)) {
            let value = edited_value(&data[range.clone()], edits);
            splices.push((range, value));
        }
    }
    splices.append(&mut emptied);
    splices.sort_by_key(|(range, _)| range.start);
    let mut text = String::with_capacity(data.len());
    let mut from = 0;
    for (range, value) in splices {
        text.push_str(&data[from..range.start]);
        text.push_str(&value);
        from = range.end;
    }
    text.push_str(&data[from..]);
    event.set_data(text);
    event.into()
}

/// Applies edits to a string or a number. The result is a string.
fn edited_value(raw: &str, edits: Vec<Edit>) -> String {
    let inside = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    let text = edited(inside.unwrap_or(raw), edits);
    ["\"", &text, "\""].concat()
}

/// Escapes a text for the inside of a JSON string.
pub(super) fn escaped(text: &str) -> String {
    let string = serde_json::Value::from(text).to_string();
    let inside = string
        .strip_prefix('"')
        .and_then(|raw| raw.strip_suffix('"'));
    inside.unwrap_or_default().to_owned()
}

/// Applies edits to a text. Where edits overlap, the replacement of the first stands for all of them.
fn edited(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| edit.range.start);
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for Edit { range, with } in edits {
        if range.start >= from {
            out.push_str(&text[from..range.start]);
            out.push_str(&with);
        }
        from = from.max(range.end);
    }
    out.push_str(&text[from..]);
    out
}

/// Finds the members that [repeat text](REPEATED_TEXT), in order, each with an empty value of its type.
fn find_repeated_text(json: &Json, value: JsonValue<'_>, found: &mut Vec<(Range<usize>, String)>) {
    for element in value.elements() {
        find_repeated_text(json, element, found);
    }
    for (name, member) in value.members() {
        if REPEATED_TEXT.contains(&name.as_ref()) {
            let empty = match member.raw().as_bytes().first() {
                Some(b'[') => "[]",
                Some(b'"') => "\"\"",
                _ => "null",
            };
            found.push((json.range_of(member), empty.to_owned()));
        } else {
            find_repeated_text(json, member, found);
        }
    }
}
