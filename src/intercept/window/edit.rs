//! Putting changed texts back where they were.

use std::ops::Range;

use super::leaves::RETOLD;
use crate::{
    codec::{Block, Event},
    intercept::{Json, JsonValue},
};

/// Where in an event a text stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the data.
    Data,
    /// A value of the data, which is JSON.
    Json(Range<usize>),
}

/// A part of a text, as it stands in its place, and what is to stand there, spelled as that place needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) range: Range<usize>,
    pub(super) with: String,
}

/// The block with these edits in these places. A place may be named more than once.
///
/// Of a JSON string only what is edited changes; everything else stays as it was spelled.
pub(super) fn rewrite(block: Block, changed: Vec<(Place, Vec<Edit>)>) -> Block {
    if changed.is_empty() {
        return block;
    }
    let mut event = match Event::from_block(block) {
        Ok(event) => event,
        Err(block) => return block,
    };
    let data = event.data();
    let mut places: Vec<(Range<usize>, Vec<Edit>)> = Vec::new();
    let mut plain = Vec::new();
    for (place, mut edits) in changed {
        match place {
            // Then it is the only text in the event.
            Place::Data => plain.append(&mut edits),
            Place::Json(range) => places.push((range, edits)),
        }
    }
    if !plain.is_empty() {
        let text = edited(&data, plain);
        event.set_data(text);
        return event.into();
    }
    let Ok(json) = Json::parse(&*data) else {
        return event.into();
    };
    let mut emptied = Vec::new();
    find_retold(&json, json.root(), &mut emptied);
    places.sort_by_key(|(range, _)| range.start);
    places.dedup_by(|(range, edits), (before, all)| {
        let is_same = range == before;
        if is_same {
            all.append(edits);
        }
        is_same
    });
    let mut splices = Vec::new();
    for (range, edits) in places {
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

/// A string, or a number, with its text edited: a string in any case.
fn edited_value(raw: &str, edits: Vec<Edit>) -> String {
    let inside = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    let text = edited(inside.unwrap_or(raw), edits);
    ["\"", &text, "\""].concat()
}

/// A text as it stands between the quotes of a JSON string.
pub(super) fn escaped(text: &str) -> String {
    let string = serde_json::Value::from(text).to_string();
    let inside = string
        .strip_prefix('"')
        .and_then(|raw| raw.strip_suffix('"'));
    inside.unwrap_or_default().to_owned()
}

/// The text with what is edited replaced. Where edits overlap, what the first puts there stands for all.
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

/// The members that tell the text once more, in order, each with what is left of it.
fn find_retold(json: &Json, value: JsonValue<'_>, found: &mut Vec<(Range<usize>, String)>) {
    for element in value.elements() {
        find_retold(json, element, found);
    }
    for (name, member) in value.members() {
        if RETOLD.contains(&name.as_ref()) {
            let nothing = match member.raw().as_bytes().first() {
                Some(b'[') => "[]",
                Some(b'"') => "\"\"",
                _ => "null",
            };
            found.push((json.range_of(member), nothing.to_owned()));
        } else {
            find_retold(json, member, found);
        }
    }
}
