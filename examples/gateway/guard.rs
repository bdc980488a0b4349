//! The interceptors: what is dropped, rewritten, or never decided.

use std::time::Duration;

use memchr::memmem::Finder;
use tower_sse_proxy::{
    Event, Policy,
    codec::Block,
    intercept::{
        EachEvent, Head, InterceptExt, Interceptor, Verdict,
        window::{Judgement, Passage, Window},
    },
};

use crate::{settings::Settings, text::Text};

/// What stands in place of a masked text.
const MASK: &str = "***";

/// Installs what the settings ask for, in the order of severity.
pub fn install(mut policy: Policy, settings: &Settings) -> Policy {
    if let Some(text) = &settings.deny {
        let text = Text::new(text);
        policy = policy.intercept(move |_: &Head<'_>| Some(Deny(text.clone())));
    }
    if let Some(text) = &settings.window_deny {
        policy = policy.intercept(window(text, |found| {
            if found.is_empty() {
                Judgement::Pass
            } else {
                Judgement::Block
            }
        }));
    }
    if let Some(text) = &settings.window_mask {
        let len = text.len();
        policy = policy.intercept(window(text, move |found| {
            Judgement::mask(found.into_iter().map(|at| at..at + len), MASK)
        }));
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
        let hang = EachEvent::new(move |event: Event| {
            if text.is_in(&event) {
                Verdict::defer(std::future::pending::<Result<Verdict, _>>())
            } else {
                event.into()
            }
        });
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
    policy
}

/// A window that decides by where the text begins. Every event waits until its texts are known to begin no occurrence.
fn window(text: &str, decide: impl Fn(Vec<usize>) -> Judgement + Send + Sync + 'static) -> Window {
    let finder = Finder::new(text).into_owned();
    let judge =
        move |passage: &Passage| decide(finder.find_iter(passage.text.as_bytes()).collect());
    Window::new(judge)
        .overlap(text.len().saturating_sub(1))
        .time(Duration::MAX)
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
