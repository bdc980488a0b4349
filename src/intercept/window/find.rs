//! The texts of an event: all of them, where they stand, and which channels they go on in.

use std::collections::{HashMap, HashSet};

use super::{
    edit::Place,
    leaves::{Unreadable, leaves},
    texts::{TextExtractor, Texts},
};
use crate::{
    codec::Event,
    intercept::{Json, JsonValue},
};

/// What was found in an event.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) texts: Vec<Text>,
    /// Channels in which nothing more comes.
    pub(super) done: Vec<String>,
}

/// A text of an event, not empty.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) place: Place,
    /// As it stands there: data, what is between the quotes of a string, or a number.
    pub(super) source: String,
    /// So many layers of escapes make the text of it.
    pub(super) layers: usize,
    /// So many more layers may stand for a text, too.
    pub(super) more_layers: usize,
    /// The channels that it goes on in; a text by itself has none.
    pub(super) channels: Vec<Name>,
}

/// A channel that a text goes on in.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) name: String,
    pub(super) is_alias: bool,
}

/// Finds every text of an event.
///
/// # Errors
/// The event cannot be read in one way only.
pub(super) fn find(event: &Event, extract: &dyn TextExtractor) -> Result<Found, Unreadable> {
    let data = event.data();
    let json = Json::parse(&*data).ok();
    let mut texts = Texts::default();
    extract.extract(event, json.as_ref().map(Json::root), &mut texts);
    if texts.is_ambiguous {
        return Err(Unreadable::new(
            "a text with an index that readers may compare in different ways",
        ));
    }
    let mut found = Found {
        texts: Vec::new(),
        done: texts.done,
    };
    let Some(json) = json.as_ref().filter(|_| texts.plain.is_none()) else {
        if !data.is_empty() {
            let channel = texts.plain.map(|name| Name {
                name,
                is_alias: false,
            });
            found.texts.push(Text {
                place: Place::Data,
                source: data.into_owned(),
                layers: 0,
                // To a lenient reader it may be JSON, with strings that hold JSON in turn.
                more_layers: 2,
                channels: channel.into_iter().collect(),
            });
        }
        return Ok(found);
    };
    // No two strings or numbers begin at the same byte.
    let start = |value: JsonValue<'_>| value.raw().as_ptr() as usize;
    let skipped: HashSet<_> = texts.known.iter().map(|value| start(*value)).collect();
    let mut channels: HashMap<usize, Vec<Name>> = HashMap::new();
    for delta in &texts.deltas {
        channels.entry(start(delta.value)).or_default().push(Name {
            name: delta.channel.clone(),
            is_alias: delta.is_alias,
        });
    }
    for leaf in leaves(json)? {
        if skipped.contains(&start(leaf)) {
            continue;
        }
        let channels = channels.remove(&start(leaf)).unwrap_or_default();
        let inside = leaf.inside_quotes();
        let source = inside.unwrap_or(leaf.raw());
        if !source.is_empty() {
            found.texts.push(Text {
                place: Place::Json(json.range_of(leaf)),
                source: source.to_owned(),
                layers: usize::from(inside.is_some()),
                // A string may hold JSON, such as the arguments of a tool call.
                more_layers: usize::from(inside.is_some()),
                channels,
            });
        }
    }
    Ok(found)
}
