//! Whatever JSON an event has, a window judges every text that a reader can read in it, and changes nothing else. What a
//! reader can read is told by a reader that shares no code with the crate.

mod reader;
mod streams;

use std::time::Duration;

use proptest::{
    collection,
    prelude::*,
    test_runner::{Config, RngSeed},
};
use tower_sse_proxy::{
    ErrorKind,
    codec::{Decoder, Item},
    intercept::window::{Decision, Pattern, TextSegment, TextWindow, patterns},
};

use crate::support::{Script, layer, pass, rest};
use reader::{Value, channels, contains, is_in, parse, readable, undone, units};
use streams::{Choices, SECRET, stream};

fn holding(window: TextWindow, text: &str) -> TextWindow {
    window
        .overlap(text.len() - 1)
        .max_delay(Duration::MAX)
        .max_held_bytes(usize::MAX)
}

/// Windows that end a stream at this text: with a function as the judge, and with a pattern.
fn deny(text: &'static str) -> [TextWindow; 2] {
    let judge = move |passage: &TextSegment| {
        if passage.text.contains(text) {
            Decision::Block
        } else {
            Decision::Pass
        }
    };
    let pattern = patterns([Pattern::phrase(text).block()]).unwrap();
    let pattern = TextWindow::new(pattern).max_held_bytes(usize::MAX);
    [holding(TextWindow::new(judge), text), pattern]
}

/// Windows that mask this text: with a function as the judge, and with a pattern.
fn mask(text: &'static str) -> [TextWindow; 2] {
    let judge = move |passage: &TextSegment| {
        let found = passage.text.match_indices(text);
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

/// What each of the windows makes of the stream.
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

/// The stream is cut, and what has left shows no letter of the text; or it has nothing of it, and all of it has left.
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
    assert_eq!(failed, Some(ErrorKind::InterceptorFailed), "{data:?}");
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

/// The text is nowhere; nothing else has changed.
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
    // Where the text is read only as it stands, only the text is replaced.
    let left = channels(&left);
    for (channel, text) in channels(data) {
        let is_ascii = String::from_utf16(&text);
        if let (Ok(text), false) = (is_ascii, contains(&undone(&text), &units("\\"))) {
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
    // The same cases each time, so that a change is judged by what it changes.
    #![proptest_config(Config { cases: 300, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..Config::default() })]

    #[test]
    fn any_json_is_judged_as_any_reader_reads_it(bytes in collection::vec(any::<u8>(), 0..160)) {
        let data = stream(&mut Choices(&bytes));
        check_deny(&data);
        check_mask(&data);
    }
}

/// Each of these data, alone in a stream, has the text in it.
fn denied(data: &[&str]) {
    for data in data {
        for (out, failed) in through(deny("secret"), &format!("data: {data}\n\n")) {
            assert_eq!(
                (out.as_str(), failed),
                ("", Some(ErrorKind::InterceptorFailed)),
                "{data}"
            );
        }
    }
}

/// Each of these streams has the text in it, over its events.
fn denied_over_events(streams: &[&[&str]]) {
    for data in streams {
        let stream: String = data
            .iter()
            .map(|data| format!("data: {data}\n\n"))
            .collect();
        for (out, failed) in through(deny("secret"), &stream) {
            assert_eq!(
                (out.as_str(), failed),
                ("", Some(ErrorKind::InterceptorFailed)),
                "{data:?}"
            );
        }
    }
}

fn clean(data: &[&str]) {
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
fn a_name_with_an_unpaired_surrogate_hides_no_member() {
    denied(&[
        r#"{"\ud800":0,"choices":[{"delta":{"content":"secret"}}]}"#,
        r#"{"choices":[{"delta":{"\udc00x":1,"content":"secret"}}]}"#,
        r#"{"\ud800":"secret"}"#,
        r#"{"a":[{"\udfff\ud800":["secret"]}]}"#,
        r#"{"a":"\ud800","b":"secret"}"#,
        r#"{"a":"\udc00 secret \ud800"}"#,
    ]);
    denied_over_events(&[&[
        r#"{"\ud800":0,"choices":[{"delta":{"content":"sec"}}]}"#,
        r#"{"choices":[{"\udc00":0,"delta":{"content":"ret"}}]}"#,
    ]]);
    clean(&[r#"{"\ud800":0,"\ud801":1,"\ufffd":2,"\udc00\ud800":"\ud800"}"#]);
}

#[test]
fn no_member_and_no_string_is_passed_over() {
    denied(&[
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
fn json_in_a_string_is_read_too_and_so_is_data_that_is_no_json() {
    denied(&[
        r#"{"arguments":"{\"q\":\"\\u0073ecret\"}"}"#,
        r#"{"n":NaN,"s":"\u0073ecret"}"#,
        r#"{"n":NaN,"s":"{\"q\":\"\\u0073ecret\"}"}"#,
        r"plain s\u0065cret text",
        "\u{feff}{\"a\":\"\\u0073ecret\"}",
    ]);
    denied_over_events(&[
        &[r#""{\"q\":\"\\""#, r#""u00""#, r#""73ecret\"}""#],
        &[r"a \u00", "73ecret"],
        &["\u{feff}\u{feff}\"sec\"", "\"ret\""],
    ]);
    // One layer more is none that a reader reads.
    clean(&[r#"{"a":"\\\\u0073ecret"}"#, r#"{"a":"\\x73ecret"}"#]);
}

#[test]
fn an_index_is_the_number_that_it_says() {
    let chat = |index: &str, text: &str| {
        format!(r#"{{"choices":[{{"index":{index},"delta":{{"content":"{text}"}}}}]}}"#)
    };
    for index in ["0.0", "-0", "0e0", "0E-7"] {
        denied_over_events(&[&[&chat("0", "sec"), &chat(index, "ret")]]);
    }
    denied_over_events(&[&[&chat("1.0", "sec"), &chat("0", "x"), &chat("10e-1", "ret")]]);
    for other in [chat("1", "ret"), chat("-1", "ret")] {
        let stream = format!("data: {}\n\ndata: {other}\n\n", chat("0", "sec"));
        for (out, failed) in through(deny("secret"), &stream) {
            assert_eq!((out, failed), (stream.clone(), None));
        }
    }
    // To JavaScript it is 0, to Python it is not: neither reading is safe.
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
fn deltas_are_joined_by_their_place_and_by_their_item() {
    let delta = |place: &str, text: &str| {
        format!(r#"{{"type":"response.output_text.delta",{place},"delta":"{text}"}}"#)
    };
    denied_over_events(&[
        &[
            &delta(r#""item_id":"a","output_index":0"#, "sec"),
            &delta(r#""item_id":"a","output_index":1"#, "ret"),
        ],
        &[
            &delta(r#""item_id":"a","output_index":0"#, "sec"),
            &delta(r#""item_id":"b","output_index":0"#, "ret"),
        ],
    ]);
    // A place is the same only if all of it is.
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
fn halves_of_a_character_in_two_events_are_one_character() {
    let chat = |text: &str| format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#);
    let data = [chat(r"ab\uD83D"), chat(r"\udd11ab-1 c \ud83d"), chat("d")];
    check_deny(&data);
    let data_2 = [chat(r"a\ud83d"), chat(r"\udd11b")];
    for (out, _) in through(mask("\u{1f511}b"), &wire(&data_2)) {
        assert_eq!(data_of(&out), [chat("a"), chat("***")]);
    }
    for (out, failed) in through(deny("\u{1f511}b"), &wire(&data_2)) {
        assert_eq!(
            (out.as_str(), failed),
            ("", Some(ErrorKind::InterceptorFailed))
        );
    }
    for (out, _) in through(mask(SECRET), &wire(&data)) {
        assert_eq!(data_of(&out), [chat("***"), chat(r" c \ud83d"), chat("d")]);
    }
}

#[test]
fn a_mask_changes_the_text_and_no_other_byte() {
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
fn a_text_that_goes_on_after_its_end_is_the_same_text() {
    let chat = |text: &str, finish: &str| {
        format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}},"finish_reason":{finish}}}]}}"#)
    };
    let begins = format!("data: {}\n\n", chat("a sec", "\"stop\""));
    let stream = format!("{begins}data: {}\n\n", chat("ret", "null"));
    for (out, failed) in through(deny("secret"), &stream) {
        assert_eq!(
            (out.as_str(), failed),
            (begins.as_str(), Some(ErrorKind::InterceptorFailed))
        );
    }
}
