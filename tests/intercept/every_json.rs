//! For any JSON data, a window judges every text that a client can read in it, and changes nothing else. The expected texts
//! come from an independent JSON reader that shares no code with the crate.

mod reader;
mod streams;

use std::time::Duration;

use proptest::{collection, prelude::*};
use tower_sse_proxy::{
    ErrorKind,
    codec::{Decoder, Item},
    intercept::window::{Decision, Pattern, TextSegment, TextWindow, patterns},
};

use crate::support::{Script, cases, layer, pass, rest};
use reader::{Value, channels, contains, is_in, parse, readable, unescaped, units};
use streams::{Choices, SECRET, stream};

fn holding(window: TextWindow, text: &str) -> TextWindow {
    window
        .overlap(text.len() - 1)
        .max_delay(Duration::MAX)
        .max_held_bytes(usize::MAX)
}

/// Two windows that end the stream at `text`: one judges with a function, one with a pattern.
fn deny(text: &'static str) -> [TextWindow; 2] {
    let judge = move |segment: &TextSegment| {
        if segment.text.contains(text) {
            Decision::Block
        } else {
            Decision::Pass
        }
    };
    let pattern = patterns([Pattern::phrase(text).block()]).unwrap();
    let pattern = TextWindow::new(pattern).max_held_bytes(usize::MAX);
    [holding(TextWindow::new(judge), text), pattern]
}

/// Two windows that mask `text`: one judges with a function, one with a pattern.
fn mask(text: &'static str) -> [TextWindow; 2] {
    let judge = move |segment: &TextSegment| {
        let found = segment.text.match_indices(text);
        Decision::mask(found.map(|(at, _)| at..at + text.len()), "***")
    };
    let pattern = patterns([Pattern::phrase(text).mask("***")]).unwrap();
    let pattern = TextWindow::new(pattern).max_held_bytes(usize::MAX);
    [holding(TextWindow::new(judge), text), pattern]
}

fn wire(data: &[String]) -> String {
    data.iter()
        .map(|data| format!("data: {data}\n\n"))
        .collect()
}

fn data_of(stream: &str) -> Vec<String> {
    let mut decoder = Decoder::default();
    decoder.push(stream.to_owned().into());
    let mut data = Vec::new();
    while let Some(piece) = decoder.next_item().unwrap() {
        if let Item::Event(event) = piece {
            data.push(event.data().into_owned());
        }
    }
    data
}

/// Passes the stream through each window. Returns the output and the error kind, if the stream failed.
fn through(windows: [TextWindow; 2], stream: &str) -> [(String, Option<ErrorKind>); 2] {
    windows.map(|window| through_one(window, stream))
}

fn through_one(window: TextWindow, stream: &str) -> (String, Option<ErrorKind>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let script = Script::of([stream.to_owned()]);
    runtime.block_on(async { rest(pass(&layer(window), script).await).await })
}

/// If the stream contains the secret, it must be cut before the secret's first letter. Otherwise it must pass unchanged.
fn check_deny(data: &[String]) {
    let all = wire(data);
    for (out, failed) in through(deny(SECRET), &all) {
        check_denied(data, &all, &out, failed);
    }
}

fn check_denied(data: &[String], all: &str, out: &str, failed: Option<ErrorKind>) {
    let left = data_of(out);
    assert!(all.starts_with(out), "{data:?}");
    if !is_in(data, &units(SECRET)) {
        assert_eq!((out, failed), (all, None), "{data:?}");
        return;
    }
    assert_eq!(failed, Some(ErrorKind::Blocked), "{data:?}");
    for text in readable(&left) {
        assert!(!contains(&text, &units(SECRET)), "{data:?}: {left:?}");
    }
    let left = channels(&left);
    for (channel, text) in channels(data) {
        let secret = units(SECRET);
        let begins = text
            .windows(secret.len())
            .position(|window| window == secret);
        if let (Some(begins), Some(left)) = (begins, left.get(&channel)) {
            assert!(left.len() <= begins, "{data:?}: {channel}");
        }
    }
}

/// The output must not contain the secret, and nothing else may change.
fn check_mask(data: &[String]) {
    let all = wire(data);
    for (out, failed) in through(mask(SECRET), &all) {
        check_masked(data, &all, &out, failed);
    }
}

fn check_masked(data: &[String], all: &str, out: &str, failed: Option<ErrorKind>) {
    assert_eq!(failed, None, "{data:?}");
    if !is_in(data, &units(SECRET)) {
        assert_eq!(out, all, "{data:?}");
        return;
    }
    let left = data_of(out);
    assert_eq!(left.len(), data.len(), "{data:?}: {left:?}");
    for text in readable(&left) {
        assert!(!contains(&text, &units(SECRET)), "{data:?}: {left:?}");
    }
    for (before, after) in data.iter().zip(&left) {
        if let Some(before) = parse(&units(before)) {
            let after = parse(&units(after)).unwrap_or_else(|| panic!("no JSON: {after}"));
            assert!(is_same_but_for_texts(&before, &after), "{data:?}: {left:?}");
        }
    }
    // Where the secret is readable without undoing escapes, the mask replaces only the secret.
    let left = channels(&left);
    for (channel, text) in channels(data) {
        let is_ascii = String::from_utf16(&text);
        if let (Ok(text), false) = (is_ascii, contains(&unescaped(&text), &units("\\"))) {
            let whole: Vec<_> = data.iter().map(|data| data.contains('\\')).collect();
            if !whole.contains(&true)
                && !channel.contains("logprobs")
                && !channel.starts_with("response")
            {
                let left = left
                    .get(&channel)
                    .map(|text| String::from_utf16_lossy(text));
                assert_eq!(
                    left.as_deref(),
                    Some(&*text.replace(SECRET, "***")),
                    "{data:?}: {channel}"
                );
            }
        }
    }
}

fn is_same_but_for_texts(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::String(_), Value::String(_)) => true,
        (Value::Array(before), Value::Array(after)) => {
            let mut pairs = before.iter().zip(after);
            before.len() == after.len() && pairs.all(|(a, b)| is_same_but_for_texts(a, b))
        }
        (Value::Object(before), Value::Object(after)) => {
            before.len() == after.len()
                && before.iter().zip(after).all(|((name, a), (other, b))| {
                    let is_retold = [units("logprobs"), units("logprobsResult")].contains(name);
                    name == other && (is_retold || is_same_but_for_texts(a, b))
                })
        }
        _ => before == after,
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn every_text_that_a_reader_finds_in_any_json_is_judged(bytes in collection::vec(any::<u8>(), 0..160)) {
        let data = stream(&mut Choices(&bytes));
        check_deny(&data);
        check_mask(&data);
    }
}

/// Each item is the data of a one-event stream that contains `secret`: both windows must end the stream.
fn check_ends(data: &[&str]) {
    for data in data {
        for (out, failed) in through(deny("secret"), &format!("data: {data}\n\n")) {
            assert_eq!(
                (out.as_str(), failed),
                ("", Some(ErrorKind::Blocked)),
                "{data}"
            );
        }
    }
}

/// Each item is the data of the events of a stream that contains `secret` across events: both windows must end the stream.
fn check_ends_across_events(streams: &[&[&str]]) {
    for data in streams {
        let stream: String = data
            .iter()
            .map(|data| format!("data: {data}\n\n"))
            .collect();
        for (out, failed) in through(deny("secret"), &stream) {
            assert_eq!(
                (out.as_str(), failed),
                ("", Some(ErrorKind::Blocked)),
                "{data:?}"
            );
        }
    }
}

/// Each item is the data of a one-event stream without `secret`: the stream must pass unchanged.
fn check_passes(data: &[&str]) {
    for data in data {
        let stream = format!("data: {data}\n\n");
        for windows in [deny("secret"), mask("secret")] {
            for (out, failed) in through(windows, &stream) {
                assert_eq!((out, failed), (stream.clone(), None), "{data}");
            }
        }
    }
}

#[test]
fn name_with_an_unpaired_surrogate_hides_no_member() {
    check_ends(&[
        r#"{"\ud800":0,"choices":[{"delta":{"content":"secret"}}]}"#,
        r#"{"choices":[{"delta":{"\udc00x":1,"content":"secret"}}]}"#,
        r#"{"\ud800":"secret"}"#,
        r#"{"a":[{"\udfff\ud800":["secret"]}]}"#,
        r#"{"a":"\ud800","b":"secret"}"#,
        r#"{"a":"\udc00 secret \ud800"}"#,
    ]);
    check_ends_across_events(&[&[
        r#"{"\ud800":0,"choices":[{"delta":{"content":"sec"}}]}"#,
        r#"{"choices":[{"\udc00":0,"delta":{"content":"ret"}}]}"#,
    ]]);
    check_passes(&[r#"{"\ud800":0,"\ud801":1,"\ufffd":2,"\udc00\ud800":"\ud800"}"#]);
}

#[test]
fn every_member_and_string_is_judged() {
    check_ends(&[
        r#"{"logprobs":"secret"}"#,
        r#"{"a":{"logprobs":[{"token":"secret"}]}}"#,
        r#"{"logprobsResult":{"x":"secret"}}"#,
        r#"{"id":"secret","choices":[]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"id":"secret","type":"x"}]}}]}"#,
        r#"{"type":"response.secret"}"#,
        r#"{"type":"response.created","item_id":"secret"}"#,
        r#"{"type":"content_block_delta","delta":{"type":"signature_delta","signature":"secret"}}"#,
        r#"{"candidates":[],"responseId":"secret"}"#,
        r#"{"candidates":[{"content":{"parts":[{"thoughtSignature":"secret"}]}}]}"#,
    ]);
}

#[test]
fn json_in_a_string_and_data_without_json_are_judged() {
    check_ends(&[
        r#"{"arguments":"{\"q\":\"\\u0073ecret\"}"}"#,
        r#"{"n":NaN,"s":"\u0073ecret"}"#,
        r#"{"n":NaN,"s":"{\"q\":\"\\u0073ecret\"}"}"#,
        r"plain s\u0065cret text",
        "\u{feff}{\"a\":\"\\u0073ecret\"}",
    ]);
    check_ends_across_events(&[
        &[r#""{\"q\":\"\\""#, r#""u00""#, r#""73ecret\"}""#],
        &[r"a \u00", "73ecret"],
        &["\u{feff}\u{feff}\"sec\"", "\"ret\""],
    ]);
    // No client undoes escapes twice within a string.
    check_passes(&[r#"{"a":"\\\\u0073ecret"}"#, r#"{"a":"\\x73ecret"}"#]);
}

#[test]
fn indexes_with_equal_numeric_values_are_one_text() {
    let chat = |index: &str, text: &str| {
        format!(r#"{{"choices":[{{"index":{index},"delta":{{"content":"{text}"}}}}]}}"#)
    };
    for index in ["0.0", "-0", "0e0", "0E-7"] {
        check_ends_across_events(&[&[&chat("0", "sec"), &chat(index, "ret")]]);
    }
    check_ends_across_events(&[&[&chat("1.0", "sec"), &chat("0", "x"), &chat("10e-1", "ret")]]);
    for other in [chat("1", "ret"), chat("-1", "ret")] {
        let stream = format!("data: {}\n\ndata: {other}\n\n", chat("0", "sec"));
        for (out, failed) in through(deny("secret"), &stream) {
            assert_eq!((out, failed), (stream.clone(), None));
        }
    }
    // JavaScript reads these as index 0, Python does not. The window must not rely on either reading.
    for other in ["\"0\"", "true", "[0]"] {
        let stream = format!("data: {}\n\n", chat(other, "x"));
        for (out, failed) in through(deny("secret"), &stream) {
            assert_eq!(
                (out.as_str(), failed),
                ("", Some(ErrorKind::InterceptorFailed)),
                "{other}"
            );
        }
    }
}

#[test]
fn deltas_are_joined_by_position_and_by_item() {
    let delta = |place: &str, text: &str| {
        format!(r#"{{"type":"response.output_text.delta",{place},"delta":"{text}"}}"#)
    };
    check_ends_across_events(&[
        &[
            &delta(r#""item_id":"a","output_index":0"#, "sec"),
            &delta(r#""item_id":"a","output_index":1"#, "ret"),
        ],
        &[
            &delta(r#""item_id":"a","output_index":0"#, "sec"),
            &delta(r#""item_id":"b","output_index":0"#, "ret"),
        ],
    ]);
    // Two deltas belong to the same text only if all parts of their keys are equal.
    let stream = format!(
        "data: {}\n\ndata: {}\n\n",
        delta(r#""output_index":0"#, "sec"),
        delta(r#""content_index":0"#, "ret"),
    );
    for (out, failed) in through(deny("secret"), &stream) {
        assert_eq!((out, failed), (stream.clone(), None));
    }
}

#[test]
fn surrogate_halves_in_two_events_are_one_character() {
    let chat = |text: &str| format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#);
    let data = [chat(r"ab\uD83D"), chat(r"\udd11ab-1 c \ud83d"), chat("d")];
    check_deny(&data);
    let data_2 = [chat(r"a\ud83d"), chat(r"\udd11b")];
    for (out, _) in through(mask("\u{1f511}b"), &wire(&data_2)) {
        assert_eq!(data_of(&out), [chat("a"), chat("***")]);
    }
    for (out, failed) in through(deny("\u{1f511}b"), &wire(&data_2)) {
        assert_eq!((out.as_str(), failed), ("", Some(ErrorKind::Blocked)));
    }
    for (out, _) in through(mask(SECRET), &wire(&data)) {
        assert_eq!(data_of(&out), [chat("***"), chat(r" c \ud83d"), chat("d")]);
    }
}

#[test]
fn mask_changes_the_text_and_no_other_byte() {
    for (data, masked) in [
        (
            r#"{ "a":"\u0041 \/ s\u0065cret \ud800\n","b":1.0 }"#,
            r#"{ "a":"\u0041 \/ *** \ud800\n","b":1.0 }"#,
        ),
        (
            r#"{"a":"{\"q\":\"x \\u0073ecret\\n\"}"}"#,
            r#"{"a":"{\"q\":\"x ***\\n\"}"}"#,
        ),
        (
            r#"{"choices":[{"delta":{"content":"a secret"},"logprobs":{"content":[{"token":"secret"}]}}]}"#,
            r#"{"choices":[{"delta":{"content":"a ***"},"logprobs":null}]}"#,
        ),
        (r#"{"logprobs":[{"token":"secret"}]}"#, r#"{"logprobs":[]}"#),
        (r#"{"logprobs":"secret"}"#, r#"{"logprobs":""}"#),
        (
            "{\"n\":NaN,\"s\":\"s\\u0065cret\"}",
            "{\"n\":NaN,\"s\":\"***\"}",
        ),
    ] {
        for (out, failed) in through(mask("secret"), &format!("data: {data}\n\n")) {
            assert_eq!((out, failed), (format!("data: {masked}\n\n"), None));
        }
    }
}

#[test]
fn text_that_continues_after_its_finish_is_the_same_text() {
    let chat = |text: &str, finish: &str| {
        format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}},"finish_reason":{finish}}}]}}"#)
    };
    let begins = format!("data: {}\n\n", chat("a sec", "\"stop\""));
    let stream = format!("{begins}data: {}\n\n", chat("ret", "null"));
    for (out, failed) in through(deny("secret"), &stream) {
        assert_eq!(
            (out.as_str(), failed),
            (begins.as_str(), Some(ErrorKind::Blocked))
        );
    }
}
