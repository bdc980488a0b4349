//! The interceptors: what is dropped, rewritten, or never decided.

use std::{sync::Arc, time::Duration};

use memchr::memmem::Finder;
use tower_sse_proxy::{
    Event, Policy,
    codec::{Block, Line},
    intercept::{
        EachEvent, Head, InterceptExt, Interceptor, Verdict,
        window::{Judgement, Passage, Window},
    },
};

use crate::settings::Settings;

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
        let (from, to) = (from.clone(), settings.rewrite_to());
        policy = policy.intercept(move |mut event: Event| {
            if event.data().contains(&from) {
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

/// A text to look for.
#[derive(Clone)]
struct Text(Arc<Finder<'static>>);

impl Text {
    fn new(text: &str) -> Self {
        Self(Arc::new(Finder::new(text).into_owned()))
    }

    fn is_in(&self, event: &Event) -> bool {
        self.found(event.data().as_bytes()) || self.is_in_a_line(event)
    }

    /// In any value of the block. Of a field that no client knows the name counts as well.
    fn is_in_a_line(&self, block: &Block) -> bool {
        block.lines().any(|line| match line {
            Line::Comment(text) => self.found(text),
            Line::Field {
                name: b"data" | b"event" | b"id" | b"retry",
                value,
            } => self.found(value),
            Line::Field { name, value } => {
                self.found(name)
                    || self.found(value)
                    || self.found(&[name, b":", value].concat())
                    || self.found(&[name, b": ", value].concat())
            }
            _ => false,
        })
    }

    fn found(&self, text: &[u8]) -> bool {
        self.0.find(text).is_some()
    }
}
