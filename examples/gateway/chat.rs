//! An LLM answer, word by word, and the tokens that were sent, so that a page can show both sides of the gateway.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    extract::{Query, State},
    response::sse::Event,
};
use serde::Deserialize;
use serde_json::json;

use crate::demo::{Events, paced};

/// The answer; `|` separates the tokens.
const ANSWER: &str = "Every |event |of |this |answer |went |through |the |gateway's |interceptors, |one |at |a |time. |\
                      Write |to |ada|.love|lace@|example|.com, |or |pay |with |4111 |1111 |1111 |1111: |\
                      the |gateway |held |these |tokens |until |it |knew |what |they |were, |and |masked |them.";

/// The answers whose tokens are remembered.
const REMEMBERED: usize = 32;

/// The tokens that were sent of the last answers that had a number.
#[derive(Clone, Default)]
pub struct Sent(Arc<Mutex<VecDeque<Numbered>>>);

/// The number of an answer, and its tokens.
type Numbered = (u64, Vec<&'static str>);

#[derive(Deserialize)]
pub struct Run {
    /// A number that the client chose.
    run: Option<u64>,
}

impl Sent {
    fn push(&self, run: u64, token: &'static str) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tokens)) = answers.iter_mut().find(|(number, _)| *number == run) {
            // Clients that use one number again and again do not fill the memory.
            if tokens.len() < ANSWER.len() {
                tokens.push(token);
            }
            return;
        }
        answers.push_back((run, vec![token]));
        if answers.len() > REMEMBERED {
            answers.pop_front();
        }
    }
}

/// The answer, as a stream of a chat completions API.
pub async fn stream(State(sent): State<Sent>, Query(Run { run }): Query<Run>) -> Events {
    let tokens = ANSWER.split('|').map(Some).chain([None]);
    paced(tokens, Duration::from_millis(150), move |token| {
        let Some(token) = token else {
            return Event::default().data("[DONE]");
        };
        if let Some(run) = run {
            sent.push(run, token);
        }
        let delta = json!({ "object": "chat.completion.chunk",
                            "choices": [{ "index": 0, "delta": { "content": token } }] });
        Event::default().data(delta.to_string())
    })
}

/// The tokens that were sent of the answer with this number.
pub async fn sent(
    State(sent): State<Sent>,
    Query(Run { run }): Query<Run>,
) -> Json<Vec<&'static str>> {
    let answers = sent.0.lock().unwrap_or_else(PoisonError::into_inner);
    let answer = answers.iter().find(|(number, _)| Some(*number) == run);
    Json(answer.map(|(_, tokens)| tokens.clone()).unwrap_or_default())
}
