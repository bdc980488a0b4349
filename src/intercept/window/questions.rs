//! What is asked of a judge about some passages: each question once.

use std::collections::HashMap;

use super::decision::{Decision, TextSegment};

/// The passages that are shown to a judge.
///
/// A text that stands by itself, such as the id that every event has, is one question for all events that it is judged in.
/// A channel that usually has the text of another one needs no question of its own while it has.
#[derive(Debug)]
pub(super) struct Questions {
    asked: Vec<TextSegment>,
    /// For each passage the question that it is.
    of: Vec<usize>,
}

impl Questions {
    /// The questions about these passages, of which some are aliases of others.
    pub(super) fn new<'a>(passages: impl Iterator<Item = (&'a TextSegment, bool)>) -> Self {
        let passages: Vec<_> = passages.collect();
        let mut asked: Vec<TextSegment> = Vec::new();
        let mut of = vec![0; passages.len()];
        let mut alone: HashMap<&str, usize> = HashMap::new();
        let mut all: HashMap<(&str, usize, bool), usize> = HashMap::new();
        // Aliases last, so that they find what they are an alias of.
        for aliases in [false, true] {
            for (question, (passage, is_alias)) in of.iter_mut().zip(&passages) {
                if *is_alias != aliases {
                    continue;
                }
                let text = passage.text.as_str();
                let known = if aliases {
                    all.get(&(text, passage.sent, passage.complete))
                } else if passage.channel.is_none() {
                    alone.get(text)
                } else {
                    None
                };
                if let Some(known) = known {
                    *question = *known;
                    continue;
                }
                *question = asked.len();
                all.insert((text, passage.sent, passage.complete), asked.len());
                if passage.channel.is_none() {
                    alone.insert(text, asked.len());
                }
                asked.push((*passage).clone());
            }
        }
        Self { asked, of }
    }

    /// What the judge is asked, in order.
    pub(super) fn passages(&self) -> impl Iterator<Item = TextSegment> {
        self.asked.iter().cloned()
    }

    /// The judgements of all passages, from the answers.
    pub(super) fn judgements(&self, answers: &[Decision]) -> Vec<Decision> {
        let answers = self.of.iter().filter_map(|question| answers.get(*question));
        answers.cloned().collect()
    }
}
