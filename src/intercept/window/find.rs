//! Finds all texts of an event, their locations, and their channels.

use std::collections::{HashMap, HashSet};

use super::{
    edit::Location,
    leaves::{Unreadable, leaves},
    texts::{TextExtractor, Texts},
};
use crate::{
    codec::Event,
    intercept::{BodyShape, Json, JsonValue},
};

/// The texts of an event.
#[derive(Debug, Default)]
pub(super) struct EventTexts {
    pub(super) texts: Vec<EventText>,
    /// The names of channels that the event finishes.
    pub(super) finished: Vec<String>,
}

/// A text of an event. It is not empty.
#[derive(Debug)]
pub(super) struct EventText {
    pub(super) location: Location,
    /// The bytes at the location: the data, the inside of a string literal, or a number.
    pub(super) source: String,
    /// The number of escape layers between the source and the text.
    pub(super) layers: usize,
    /// The number of further escape layers that a reader may undo.
    pub(super) more_layers: usize,
    /// The channels that the text continues. Empty for a text of this event only.
    pub(super) channels: Vec<ChannelRef>,
}

/// A channel that a text continues.
#[derive(Debug)]
pub(super) struct ChannelRef {
    pub(super) name: String,
    pub(super) is_alias: bool,
}

/// Finds each text of an event.
///
/// # Errors
/// Readers may interpret the event differently.
pub(super) fn find(
    event: &Event,
    shape: BodyShape,
    extractor: &dyn TextExtractor,
) -> Result<EventTexts, Unreadable> {
    let data = event.data();
    let json = Json::parse(&*data).ok();
    let mut texts = Texts::of(shape);
    extractor.extract(event, json.as_ref().map(Json::root), &mut texts);
    if texts.is_ambiguous {
        return Err(Unreadable::new(
            "a text with an index that readers may compare in different ways",
        ));
    }
    let mut found = EventTexts {
        texts: Vec::new(),
        finished: texts.finished,
    };
    let Some(json) = json.as_ref().filter(|_| texts.whole_data.is_none()) else {
        if !data.is_empty() {
            let channel = texts.whole_data.map(|name| ChannelRef {
                name,
                is_alias: false,
            });
            found.texts.push(EventText {
                location: Location::Data,
                source: data.into_owned(),
                layers: 0,
                // A lenient reader may parse it as JSON, with strings that contain JSON again.
                more_layers: 2,
                channels: channel.into_iter().collect(),
            });
        }
        return Ok(found);
    };
    // Identifies a value: two strings or numbers never begin at the same byte.
    let start = |value: JsonValue<'_>| value.raw().as_ptr() as usize;
    let ignored: HashSet<_> = texts.ignored.iter().map(|value| start(*value)).collect();
    let mut channels: HashMap<usize, Vec<ChannelRef>> = HashMap::new();
    for delta in &texts.deltas {
        channels
            .entry(start(delta.value))
            .or_default()
            .push(ChannelRef {
                name: delta.channel.clone(),
                is_alias: delta.is_alias,
            });
    }
    for leaf in leaves(json)? {
        if ignored.contains(&start(leaf)) {
            continue;
        }
        let channels = channels.remove(&start(leaf)).unwrap_or_default();
        let inside = leaf.inside_quotes();
        let source = inside.unwrap_or(leaf.raw());
        if !source.is_empty() {
            found.texts.push(EventText {
                location: Location::Json(json.range_of(leaf)),
                source: source.to_owned(),
                layers: usize::from(inside.is_some()),
                // A string may contain JSON, such as the arguments of a tool call.
                more_layers: usize::from(inside.is_some()),
                channels,
            });
        }
    }
    Ok(found)
}
