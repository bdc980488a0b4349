//! The patterns of the guardrail.

use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{
        StreamHead,
        window::{Pattern, PatternError, TextWindow, patterns},
    },
};

use crate::ending::{self, Ending};

/// The guardrail as a layer: it blocks `phrase` and masks card numbers and e-mail addresses. It holds text only while the text may
/// begin a match.
pub fn layer(phrase: &str) -> Result<SseProxyLayer, PatternError> {
    let judge = patterns([
        Pattern::phrase(phrase).ignore_case().block(),
        Pattern::card_number().mask("[card]"),
        Pattern::email().mask("[e-mail]"),
    ])?;
    let window = TextWindow::new(judge).on_block(|| vec![Event::new(ending::BLOCKED)]);
    let layer = SseProxyLayer::default()
        .intercept(window)
        .intercept(|head: &StreamHead<'_>| Some(Ending::of(head.request.uri.path())));
    Ok(layer)
}
