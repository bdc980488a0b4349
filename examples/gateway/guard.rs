//! The interceptors: what is dropped, rewritten, or never decided.

use tower_sse_proxy::{
    Event, Policy,
    codec::Block,
    intercept::{
        Interceptor, MakeInterceptorExt, StreamHead, Verdict,
        window::{Pattern, PatternError, TextWindow, patterns},
    },
};

use crate::{settings::Settings, text::Text};

/// What stands in place of a masked text.
const MASK: &str = "***";

/// How many bytes of events a window holds behind one of the largest size.
const HELD_BYTES: usize = 1 << 20;

/// Installs what the settings ask for, in the order of severity.
///
/// # Errors
/// A text for a window that is too long to be looked for: the error names the setting.
pub fn install(mut policy: Policy, settings: &Settings) -> Result<Policy, String> {
    if let Some(text) = &settings.deny {
        let text = Text::new(text);
        policy = policy.intercept(move |_: &StreamHead<'_>| Some(Deny(text.clone())));
    }
    if let Some(text) = &settings.window_deny {
        let window = window(Pattern::phrase(text).block(), settings);
        policy = policy.intercept(window.map_err(|error| format!("SSEP_WINDOW_DENY: {error}"))?);
    }
    if let Some(text) = &settings.window_mask {
        let window = window(Pattern::phrase(text).mask(MASK), settings);
        policy = policy.intercept(window.map_err(|error| format!("SSEP_WINDOW_MASK: {error}"))?);
    }
    if let Some(text) = &settings.panic {
        let text = Text::new(text);
        policy = policy.intercept(move |event: Event| {
            assert!(!text.is_in(&event), "told to panic at this event");
            event
        });
    }
    if let Some(text) = &settings.hang {
        let text = Text::new(text);
        let hang = move |event: Event| {
            if text.is_in(&event) {
                Verdict::defer(std::future::pending::<Result<Verdict, _>>())
            } else {
                event.into()
            }
        };
        policy = match settings.intercept_timeout() {
            Some(limit) => policy.intercept(hang.time_limit(limit)),
            None => policy.intercept(hang),
        };
    }
    if let Some(from) = &settings.rewrite_from {
        let (from, to) = (Text::new(from), settings.rewrite_to());
        policy = policy.intercept(move |mut event: Event| {
            if from.is_in_data(&event) {
                event.set_data(&to);
            }
            event
        });
    }
    Ok(policy)
}

/// A window for one pattern. An event waits only while its texts may begin an occurrence.
fn window(pattern: Pattern, settings: &Settings) -> Result<TextWindow, PatternError> {
    // An event of the largest size that ends with the beginning of an occurrence waits for its continuation, too.
    let max_bytes = settings.max_event_bytes.saturating_add(HELD_BYTES);
    Ok(TextWindow::new(patterns([pattern])?).max_held_bytes(max_bytes))
}

/// Drops whatever carries a text, whether a client would dispatch it or not.
struct Deny(Text);

impl Interceptor for Deny {
    fn event(&mut self, event: Event) -> Verdict {
        (!self.0.is_in(&event)).then_some(event).into()
    }

    fn block(&mut self, block: Block) -> Verdict {
        (!self.0.is_in_a_line(&block)).then_some(block).into()
    }
}
