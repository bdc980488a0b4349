//! Patterns in a window: the output equals the masked whole text, in whatever pieces and at whatever times the text arrives.

mod card_numbers;
mod delay;
mod holding;
mod oracle;

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use oracle::{Oracle, cards};
use proptest::{collection, prelude::*, sample::Index};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use tower_sse_proxy::{
    ErrorKind,
    codec::{Decoder, Item},
    intercept::window::{Decision, Pattern, Patterns, TextSegment, TextWindow, patterns},
};

use crate::support::{cases, event, layer, open, pass, rest};

/// An event of OpenAI's chat completions with the next piece of a text.
fn chat(text: &str) -> String {
    delta(0, text)
}

fn delta(index: usize, text: &str) -> String {
    let data = json!({"choices": [{"index": index, "delta": {"content": text}}]});
    format!("data: {data}\n\n")
}

/// The event that ends the text.
fn finished() -> String {
    let data = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    format!("data: {data}\n\n")
}

/// The text that a client joins from the events of a stream.
fn joined(stream: &str) -> String {
    let mut decoder = Decoder::default();
    decoder.push(stream.to_owned().into());
    let mut text = String::new();
    while let Some(piece) = decoder.next_item().unwrap() {
        if let Item::Event(event) = piece {
            let data: Value = serde_json::from_str(&event.data()).unwrap();
            let piece = &data["choices"][0]["delta"]["content"];
            text.push_str(piece.as_str().unwrap_or_default());
        }
    }
    text
}

fn cut(text: &str, cuts: &[Index]) -> Vec<String> {
    let boundaries: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
    let mut cuts: Vec<usize> = match boundaries.is_empty() {
        true => Vec::new(),
        false => cuts.iter().map(|cut| *cut.get(&boundaries)).collect(),
    };
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    let pieces = cuts.windows(2).map(|cut| text[cut[0]..cut[1]].to_owned());
    pieces.filter(|piece| !piece.is_empty()).collect()
}

/// Expressions with matches that overlap, grow, hide each other, or depend on the surrounding text.
const EXPRESSIONS: [&str; 24] = [
    "aa",
    "aba",
    "a[^b\n]*b",
    "\"[^\"\n]*\"x",
    "ab*?a",
    "(?:ab|aba|b+)c?",
    "a{2,4}",
    "a{2,4}?",
    r"(?-u:\b)ab(?-u:\b)",
    r"(?-u:\B)b+",
    "^a+",
    "b+$",
    "(?m)^[ab]+$",
    "a(?:[^\n]*b)?",
    "(?:a|b)*c",
    "\u{e4}+a?",
    "[^a]\u{e4}",
    "[ab\u{e4}]+x",
    ".b",
    "(?s).x.",
    "(?i)AB",
    "b(?:a.{0,6}c)?",
    "ab|abab|ababx",
    "x(?:[ab]{3})*y|a",
];

#[derive(Clone, Debug)]
enum Sent {
    Piece(String),
    Pause(u64),
}

/// The pieces, with pauses of up to half a second between them.
fn paced(pieces: Vec<String>, pauses: &[u64]) -> Vec<Sent> {
    let pauses = pauses.iter().copied().chain(std::iter::repeat(0));
    let sent = pieces.into_iter().zip(pauses);
    sent.flat_map(|(piece, pause)| [Sent::Piece(piece), Sent::Pause(pause)])
        .collect()
}

/// Sends the pieces at these times; then the upstream ends or breaks. Returns the output and the error kind, if any.
fn run(window: &TextWindow, sent: &[Sent], breaks: bool) -> (String, Option<ErrorKind>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let layer = layer(window.clone());
        let (sender, body) = http_body_util::channel::Channel::<Bytes, std::io::Error>::new(1);
        let body = pass(&layer, body).await;
        let sent = sent.to_vec();
        let sending = tokio::spawn(async move {
            let mut sender = sender;
            for step in sent {
                match step {
                    Sent::Piece(piece) => {
                        if sender.send_data(chat(&piece).into()).await.is_err() {
                            return;
                        }
                    }
                    Sent::Pause(0) => tokio::task::yield_now().await,
                    Sent::Pause(ms) => sleep(Duration::from_millis(ms)).await,
                }
            }
            if breaks {
                sender.abort(std::io::Error::other("reset"));
            }
        });
        let (out, failed) = rest(body).await;
        sending.await.unwrap();
        (joined(&out), failed)
    })
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn pieces_at_any_times_are_masked_as_the_whole_text(
        text in "[ab]{0,12}|[ab\u{e4} cxy\"\n]{0,40}",
        chosen in collection::vec(0..EXPRESSIONS.len(), 1..4),
        cuts in collection::vec(any::<Index>(), 0..20),
        pauses in collection::vec(0u64..500, 0..20),
        stop in any::<Index>(),
    ) {
        let expressions: Vec<_> = chosen.iter().map(|&n| EXPRESSIONS[n]).collect();
        let masks: Vec<_> = (0..chosen.len()).map(|n| format!("<{n}>")).collect();
        let each = || expressions.iter().zip(&masks);
        let window = TextWindow::new(patterns(each().map(|(e, mask)| Pattern::regex(*e).mask(mask))).unwrap());
        let expected = Oracle::regexes(each().map(|(e, mask)| (*e, mask.as_str()))).masked(&text);

        let pieces = cut(&text, &cuts);
        let (out, failed) = run(&window, &paced(pieces.clone(), &pauses), false);
        prop_assert_eq!((&out, failed), (&expected, None));

        // The output before the upstream breaks must be a prefix of the masked text, whatever pieces would have followed.
        let before = pieces[..stop.index(pieces.len() + 1)].to_vec();
        let (out, failed) = run(&window, &paced(before, &pauses), true);
        prop_assert!(expected.starts_with(&out), "{} of {}", out, expected);
        prop_assert_eq!(failed, Some(ErrorKind::Upstream));
    }

    #[test]
    fn card_numbers_in_any_pieces_are_masked_as_in_the_whole_text(
        text in "(?:4111 1111 1111 1111|4222222222222|378282246310005|6304000000000000000|[0-9]{1,5}|[ -]|x){0,9}",
        cuts in collection::vec(any::<Index>(), 0..20),
        pauses in collection::vec(0u64..500, 0..20),
    ) {
        static WINDOW: LazyLock<TextWindow> =
            LazyLock::new(|| TextWindow::new(patterns([Pattern::card_number().mask("#")]).unwrap()));
        let window = &*WINDOW;
        let expected = oracle::merged(&text, cards(&text).map(|range| (range, "#")).collect());
        let (out, failed) = run(window, &paced(cut(&text, &cuts), &pauses), false);
        prop_assert_eq!((out, failed), (expected, None));
    }
}
