//! Putting changed texts back where they were.

use std::ops::Range;

use super::extract::RETOLD;
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

/// The block with these texts in their places.
pub(super) fn rewrite(block: Block, changed: Vec<(Place, String)>) -> Block {
    if changed.is_empty() {
        return block;
    }
    let mut event = match Event::from_block(block) {
        Ok(event) => event,
        Err(block) => return block,
    };
    let mut splices = Vec::new();
    for (place, text) in changed {
        match place {
            // Then it is the only text in the event.
            Place::Data => {
                event.set_data(text);
                return event.into();
            }
            Place::Json(range) => {
                splices.push((range, serde_json::Value::from(text).to_string()));
            }
        }
    }
    let Ok(mut json) = Json::parse(event.data()) else {
        return event.into();
    };
    find_retold(&json, json.root(), &mut splices);
    // From the last to the first, so that places stay where they are.
    splices.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    for (range, text) in splices {
        json.splice(range, &text);
    }
    event.set_data(json);
    event.into()
}

fn find_retold(json: &Json, value: JsonValue<'_>, found: &mut Vec<(Range<usize>, String)>) {
    for element in value.elements() {
        find_retold(json, element, found);
    }
    for (name, member) in value.members() {
        if RETOLD.contains(&name.as_ref()) {
            let nothing = if member.raw().starts_with('[') {
                "[]"
            } else {
                "null"
            };
            found.push((json.place(member), nothing.to_owned()));
        } else {
            find_retold(json, member, found);
        }
    }
}
