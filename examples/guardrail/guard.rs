//! What is looked for, and what becomes of it.

use std::time::Duration;

use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{
        Head,
        window::{Judgement, Passage, Window},
    },
};

use crate::{
    cards,
    ending::{self, Ending},
};

/// No letter waits longer than this for what may come after it. What takes longer to come is not seen whole: of a card
/// number the beginning has then left before the rest is masked.
const TIME: Duration = Duration::from_secs(1);

/// The guardrail, as a layer.
pub fn layer(phrase: &str) -> SseProxyLayer {
    let phrase = phrase.to_lowercase();
    // The longest that is looked for is seen whole before its first letter leaves.
    let overlap = cards::LONGEST.max(phrase.len());
    let window = Window::new(move |passage: &Passage| judge(passage, &phrase))
        .overlap(overlap)
        .time(TIME)
        .on_block(|| vec![Event::new(ending::BLOCKED)]);
    SseProxyLayer::default()
        .intercept(window)
        .intercept(|head: &Head<'_>| Some(Ending::of(head.request.uri.path())))
}

fn judge(passage: &Passage, phrase: &str) -> Judgement {
    if passage.text.to_lowercase().contains(phrase) {
        return Judgement::Block;
    }
    Judgement::mask(cards::find(&passage.text), "[card]")
}
