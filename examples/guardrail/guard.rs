//! The patterns of the guardrail.

use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{
        StreamHead,
        window::{Pattern, PatternError, TextWindow, patterns},
    },
};

use crate::ending::{self, Ending};

/// The largest answer without streaming, in bytes.
const MAX_JSON_BYTES: usize = 4 << 20;

/// The guardrail as a layer: it blocks `phrase` and masks card numbers and e-mail addresses, in streams and in JSON bodies. In a stream it
/// holds text only while the text may begin a match.
pub fn layer(phrase: &str) -> Result<SseProxyLayer, PatternError> {
    let judge = patterns([
        Pattern::phrase(phrase).ignore_case().block(),
        Pattern::card_number().mask("[card]"),
        Pattern::email().mask("[e-mail]"),
    ])?;
    let window = TextWindow::new(judge).on_block(|| vec![Event::new(ending::BLOCKED)]);
    let layer = SseProxyLayer::default()
        .inspect_json(MAX_JSON_BYTES)
        .intercept(window)
        .intercept(|head: &StreamHead<'_>| Some(Ending::of(head.request.uri.path())));
    Ok(layer)
}
