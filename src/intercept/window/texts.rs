//! The texts of an event, as an extractor names them.

use crate::{codec::Event, intercept::JsonValue};

/// Finds the texts in an event.
///
/// A function `for<'a> Fn(&Event, Option<JsonValue<'a>>, &mut Texts<'a>)` is one. The value is the event's data, if that
/// is JSON.
///
/// ```
/// use tower_sse_proxy::{Event, intercept::{JsonValue, window::Texts}};
///
/// /// `{"speaker": "a", "said": "some more of wha"}`
/// fn chat<'a>(_event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
///     if let Some(json) = json
///         && let Some(said) = json.get("said")
///     {
///         let speaker = json.get("speaker").map_or("", |speaker| speaker.raw());
///         texts.delta(speaker, said);
///     }
/// }
/// ```
pub trait TextExtractor: Send + Sync + 'static {
    /// Names the texts in this event that go on from event to event, and those that are finished.
    fn extract<'a>(&self, event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>);
}

impl<F> TextExtractor for F
where
    F: for<'a> Fn(&Event, Option<JsonValue<'a>>, &mut Texts<'a>) + Send + Sync + 'static,
{
    fn extract<'a>(&self, event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
        self(event, json, texts);
    }
}

/// The texts that were found in an event.
///
/// Strings of the event that are not named here are judged too, each by itself: a snapshot of the whole answer at its end
/// goes through the same judge as the pieces before it.
#[derive(Debug, Default)]
pub struct Texts<'a> {
    pub(super) deltas: Vec<Delta<'a>>,
    pub(super) plain: Option<String>,
    pub(super) done: Vec<String>,
    pub(super) known: Vec<JsonValue<'a>>,
    pub(super) is_ambiguous: bool,
}

/// A string that goes on in a channel.
#[derive(Debug)]
pub(super) struct Delta<'a> {
    pub(super) channel: String,
    pub(super) value: JsonValue<'a>,
    /// Whether this channel usually has the text of another one, so that one decision does for both while they agree.
    pub(super) is_alias: bool,
}

impl<'a> Texts<'a> {
    /// This string goes on where the last one of the same channel ended. Anything but a string is passed over.
    ///
    /// A channel is a text of its own: one choice, one content block, the arguments of one tool call. A string may go on in
    /// several channels, if readers disagree about the one that it belongs to.
    pub fn delta(&mut self, channel: impl Into<String>, value: JsonValue<'a>) {
        self.push(channel.into(), value, false);
    }

    /// As [`delta`](Self::delta), in a channel that usually has the same text as another one.
    pub(super) fn alias(&mut self, channel: String, value: JsonValue<'a>) {
        self.push(channel, value, true);
    }

    fn push(&mut self, channel: String, value: JsonValue<'a>, is_alias: bool) {
        if value.raw().starts_with('"') {
            self.deltas.push(Delta {
                channel,
                value,
                is_alias,
            });
        }
    }

    /// The event's data as it is goes on where that of the last one ended.
    pub fn whole_data(&mut self, channel: impl Into<String>) {
        self.plain = Some(channel.into());
    }

    /// The channel is complete, and so are those whose names begin with this one and a space: nothing of them is held
    /// back for what might come.
    pub fn finish(&mut self, channel: impl Into<String>) {
        self.done.push(channel.into());
    }

    /// This value is not text: a number that counts, or a string whose content the upstream alone decides. It is not judged.
    ///
    /// Only the value itself is passed over, at the exact place that is named here. The extractors of this module skip
    /// numbers, and no string.
    pub fn ignore(&mut self, value: JsonValue<'a>) {
        self.known.push(value);
    }
}
