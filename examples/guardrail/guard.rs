//! What is looked for, and what becomes of it.

use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{
        Head,
        window::{Pattern, PatternError, Window, patterns},
    },
};

use crate::ending::{self, Ending};

/// The guardrail, as a layer. A text waits only where it may be the beginning of what is looked for.
pub fn layer(phrase: &str) -> Result<SseProxyLayer, PatternError> {
    let judge = patterns([
        Pattern::phrase(phrase).ignore_case().block(),
        Pattern::card_number().mask("[card]"),
        Pattern::email().mask("[e-mail]"),
    ])?;
    let window = Window::new(judge).on_block(|| vec![Event::new(ending::BLOCKED)]);
    let layer = SseProxyLayer::default()
        .intercept(window)
        .intercept(|head: &Head<'_>| Some(Ending::of(head.request.uri.path())));
    Ok(layer)
}
