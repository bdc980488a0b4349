//! The questions to a judge: the distinct segments of a batch.

use std::collections::HashMap;

use super::decision::{Decision, TextSegment};

/// The distinct segments of a batch.
///
/// A text of one event, such as the id in every chunk, is one question for all events of the batch that contain it. A channel
/// that is an alias of another has no question while the two texts are equal.
#[derive(Debug)]
pub(super) struct Questions {
    segments: Vec<TextSegment>,
    /// For each segment of the batch, the index of its question in `segments`.
    question_of: Vec<usize>,
}

impl Questions {
    /// Takes the segments of a batch, each with whether it is an alias.
    pub(super) fn new<'a>(segments: impl Iterator<Item = (&'a TextSegment, bool)>) -> Self {
        let segments: Vec<_> = segments.collect();
        let mut questions: Vec<TextSegment> = Vec::new();
        let mut question_of = vec![0; segments.len()];
        let mut of_one_event: HashMap<&str, usize> = HashMap::new();
        let mut all: HashMap<(&str, usize, bool), usize> = HashMap::new();
        // Aliases come last, so that the question of the other channel exists.
        for aliases in [false, true] {
            for (question, (segment, is_alias)) in question_of.iter_mut().zip(&segments) {
                if *is_alias != aliases {
                    continue;
                }
                let text = segment.text.as_str();
                let known = if aliases {
                    all.get(&(text, segment.sent, segment.complete))
                } else if segment.channel.is_none() {
                    of_one_event.get(text)
                } else {
                    None
                };
                if let Some(known) = known {
                    *question = *known;
                    continue;
                }
                *question = questions.len();
                all.insert((text, segment.sent, segment.complete), questions.len());
                if segment.channel.is_none() {
                    of_one_event.insert(text, questions.len());
                }
                questions.push((*segment).clone());
            }
        }
        Self {
            segments: questions,
            question_of,
        }
    }

    /// The distinct segments, in order.
    pub(super) fn segments(&self) -> impl Iterator<Item = TextSegment> {
        self.segments.iter().cloned()
    }

    /// The decisions on all segments of the batch, from the answers to the questions.
    pub(super) fn decisions(&self, answers: &[Decision]) -> Vec<Decision> {
        let question_of = self.question_of.iter();
        question_of
            .filter_map(|question| answers.get(*question).cloned())
            .collect()
    }
}
