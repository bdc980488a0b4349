//! The policy of the settings for all event streams: limits, and interceptors that drop, rewrite, mask or block text. Two of them fail
//! on purpose, for tests.

use tower_sse_proxy::{
    Event, KeepAlive, Policy,
    codec::{Block, OversizedEvent},
    intercept::{
        Interceptor, MakeInterceptorExt, StreamHead, Verdict,
        window::{Pattern, PatternError, TextWindow, patterns},
    },
};

use crate::{settings::Settings, text::Text};

/// The replacement of masked text.
const MASK: &str = "***";

/// The bytes of events that a window may hold in addition to one event of the largest size.
const HELD_BYTES: usize = 1 << 20;

/// The policy for all event streams and, if set, JSON bodies; the routes add to it.
///
/// # Errors
/// Returns an error that names the setting if the text of a window is too long for a pattern.
pub fn policy(settings: &Settings) -> Result<Policy, String> {
    // These settings make the layer read every stream, so each frame ends between two blocks. `half_close` relies on that.
    let policy = Policy::default()
        .oversized_event(OversizedEvent::Fail)
        .max_event_bytes(settings.max_event_bytes);
    let mut policy = install(policy, settings)?;
    policy = policy.watchdog(settings.watchdog());
    if let Some(bytes) = settings.inspect_json_bytes {
        policy = policy.inspect_json(bytes);
    }
    if let Some(after) = settings.early_head() {
        policy = policy.early_head(after);
    }
    if let Some(interval) = settings.keepalive() {
        policy = policy.keep_alive(KeepAlive::new(interval));
    }
    Ok(policy)
}

/// Installs the interceptors of the settings: those that drop or block first.
fn install(mut policy: Policy, settings: &Settings) -> Result<Policy, String> {
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
            assert!(!text.is_in(&event), "SSEP_PANIC matches this event");
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

/// A window for one pattern. It holds an event only while the event's text may begin a match.
fn window(pattern: Pattern, settings: &Settings) -> Result<TextWindow, PatternError> {
    // The window must be able to hold an event of the largest size that ends with the beginning of a match.
    let max_bytes = settings.max_event_bytes.saturating_add(HELD_BYTES);
    Ok(TextWindow::new(patterns([pattern])?).max_held_bytes(max_bytes))
}

/// Drops every event and every other block that contains the text.
struct Deny(Text);

impl Interceptor for Deny {
    fn event(&mut self, event: Event) -> Verdict {
        (!self.0.is_in(&event)).then_some(event).into()
    }

    fn block(&mut self, block: Block) -> Verdict {
        (!self.0.is_in_a_line(&block)).then_some(block).into()
    }
}
