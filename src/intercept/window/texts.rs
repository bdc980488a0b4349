//! The texts of an event, as an extractor names them.

use crate::{
    codec::Event,
    intercept::{BodyShape, JsonValue},
};

/// Tells a window which strings of an event belong to which text.
///
/// A function `for<'a> Fn(&Event, Option<JsonValue<'a>>, &mut Texts<'a>)` implements this trait. [`extract`](super::extract)
/// has the extractors of common APIs.
///
/// ```
/// use tower_sse_proxy::{Event, intercept::{JsonValue, window::{Decision, TextSegment, TextWindow, Texts}}};
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
///
/// let window = TextWindow::new(|_: &TextSegment| Decision::Pass).extract(chat);
/// ```
pub trait TextExtractor: Send + Sync + 'static {
    /// Adds the texts of this event to `texts`. `json` is the data of the event, or `None` if the data is not JSON.
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

/// The texts that an extractor found in an event.
///
/// A channel is one text that several events carry: one choice, one content block, or the arguments of one tool call. Its
/// name is any string of at most 256 bytes.
///
/// The judge also sees the strings that an extractor does not name, each as a complete text. An API that repeats the whole
/// answer at its end is therefore covered.
#[derive(Debug, Default)]
pub struct Texts<'a> {
    pub(super) deltas: Vec<Delta<'a>>,
    pub(super) whole_data: Option<String>,
    pub(super) finished: Vec<String>,
    pub(super) ignored: Vec<JsonValue<'a>>,
    pub(super) is_ambiguous: bool,
    shape: BodyShape,
}

/// A string that continues a channel.
#[derive(Debug)]
pub(super) struct Delta<'a> {
    pub(super) channel: String,
    pub(super) value: JsonValue<'a>,
    /// Whether this channel usually has the text of another channel. One decision then serves both while they are equal.
    pub(super) is_alias: bool,
}

impl<'a> Texts<'a> {
    pub(super) fn of(shape: BodyShape) -> Self {
        Self {
            shape,
            ..Self::default()
        }
    }

    /// Whether the event is one of a stream, or is a whole JSON body. The data of a JSON body has the form of an API's answer without
    /// streaming, and all of its texts are complete.
    pub fn shape(&self) -> BodyShape {
        self.shape
    }

    /// Appends this string to a channel. Values other than strings have no effect.
    ///
    /// If readers disagree about the channel of a string, append it to each of the channels.
    pub fn delta(&mut self, channel: impl Into<String>, value: JsonValue<'a>) {
        self.push(channel.into(), value, false);
    }

    /// As [`delta`](Self::delta), for a channel that usually has the text of another channel.
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

    /// Appends the whole data of the event to a channel. The window then looks at no JSON value of the event.
    pub fn whole_data(&mut self, channel: impl Into<String>) {
        self.whole_data = Some(channel.into());
    }

    /// Finishes a channel, and all channels with names that begin with this name and a space. The window then no longer
    /// holds their text back.
    pub fn finish(&mut self, channel: impl Into<String>) {
        self.finished.push(channel.into());
    }

    /// Excludes this value from the judge: a number, or a string that no client and no model can influence.
    ///
    /// It excludes this value of this event only, not values of the same name elsewhere. The extractors of this crate exclude
    /// numbers and no strings.
    pub fn ignore(&mut self, value: JsonValue<'a>) {
        self.ignored.push(value);
    }
}
