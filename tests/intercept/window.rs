//! Text that is split over events: a window judges the joined text, masks or blocks it, changes nothing else, and delays text
//! for at most `max_delay`. Tests of delays use a virtual clock.

mod bodies;
mod families;

use std::{
    convert::Infallible,
    error::Error,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::support::{
    Script, Step, cases, event, is_silent, layer, next, open, pass, rest, through,
};
use bytes::Bytes;
use families::{FAMILIES, events};
use http_body_util::BodyExt;
use proptest::{collection, prelude::*, sample::Index};
use tokio::{
    sync::oneshot,
    time::{Duration, Instant, sleep},
};
use tower::service_fn;
use tower_sse_proxy::{
    ErrorKind, Event, SseBody, SseProxyLayer,
    intercept::{
        JsonValue, MakeInterceptor, StreamHead,
        window::{Decision, Mask, TextSegment, TextWindow, Texts, extract},
    },
};

const CARD: &str = "4111 1111 1111 1111";
const MAX_DELAY: Duration = Duration::from_millis(250);

/// The ranges of sixteen digits, with or without a blank after every four digits.
fn cards(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find(|c: char| c.is_ascii_digit()) {
        let start = from + start;
        let (mut end, mut digits) = (start, 0);
        for (at, byte) in text.bytes().enumerate().skip(start) {
            match byte {
                b'0'..=b'9' if digits < 16 => (digits, end) = (digits + 1, at + 1),
                b' ' if digits % 4 == 0 => {}
                _ => break,
            }
        }
        if digits == 16 {
            found.push(start..end);
        }
        from = end;
    }
    found
}

fn no_cards(segment: &TextSegment) -> Decision {
    Decision::mask(cards(&segment.text), "[card]")
}

fn window() -> TextWindow {
    TextWindow::new(no_cards)
        .overlap(CARD.len())
        .max_delay(MAX_DELAY)
}

/// A judge that blocks text with the phrase `secret plan`.
fn no_phrase(segment: &TextSegment) -> Decision {
    if segment.text.contains("secret plan") {
        Decision::Block
    } else {
        Decision::Pass
    }
}

/// Cuts the text into `count` pieces: the first cut is at `first`, all others are between there and the end of the card number.
fn pieces(text: &str, first: usize, count: usize) -> Vec<&str> {
    let end = text.find(CARD).unwrap() + CARD.len();
    let mut cuts = vec![0, first];
    let step = ((end - first) / count).max(1);
    cuts.extend((1..count - 1).map(|n| (first + n * step).min(text.len())));
    cuts.push(text.len());
    cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect()
}

#[tokio::test]
async fn r30_card_number_is_masked_in_any_pieces_of_every_api() {
    let layer = layer(window());
    let text = format!("Gr\u{f6}\u{df}e, \u{65e5}\u{672c} \"{CARD}\" is all");
    let masked = text.replace(CARD, "[card]");
    // If the window joined both texts, the pieces of the other text would complete a card number.
    let others = ["4111 1111", " 1111", " 1", "111"];
    let card = text.find(CARD).unwrap();
    for family in FAMILIES {
        for count in [2, 3, 4, 7, 10] {
            for first in card..card + CARD.len() {
                let mut stream = Vec::new();
                let pieces = pieces(&text, first, count);
                let mut other = String::new();
                for (n, piece) in pieces.iter().enumerate() {
                    stream.push(family.event(0, piece));
                    // The later pieces of the other text must not complete the number either.
                    let more = if n < 2 { others[n] } else { "." };
                    other.push_str(more);
                    stream.push(family.event(1, more));
                }
                stream.extend(family.done(0, &text));
                stream.extend(family.done(1, &other));
                let body = pass(&layer, Script::of(stream)).await;
                let (out, failed) = rest(body).await;
                assert_eq!(failed, None);
                let read = family.read(&out);
                let name = family.name;
                assert_eq!(read[0], masked, "{name}: {pieces:?}");
                assert_eq!(read[1], other, "{name}: {pieces:?}");
                assert!(!out.contains("1111 1111 "), "{name}: {out}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn text_is_sent_within_the_maximal_delay() {
    for family in FAMILIES {
        let layer = layer(window());
        let (mut upstream, mut body) = open(&layer).await;
        let sent = Arc::new(Mutex::new(Vec::new()));
        let sending = Arc::clone(&sent);
        let sender = tokio::spawn(async move {
            for n in 0..40u64 {
                sleep(Duration::from_millis(n * 7 % 60)).await;
                sending.lock().unwrap().push(Instant::now());
                let event = family.event(n as usize % 2, "word ");
                upstream.send_data(event.into()).await.unwrap();
            }
            upstream
        });
        let mut came = 0;
        while came < 40 {
            let frame = String::from_utf8(next(&mut body).await.to_vec()).unwrap();
            for _ in events(&frame) {
                let waited = sent.lock().unwrap()[came].elapsed();
                // The timer rounds up to the next millisecond.
                let most = MAX_DELAY + Duration::from_millis(2);
                assert!(waited <= most, "{}: {waited:?}", family.name);
                came += 1;
            }
        }
        drop(sender.await.unwrap());
    }
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Card,
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let text = "[a-z \u{e4}\u{65e5}\"\\\\\n]{0,30}|[0-9]{1,6}[a-z]";
    let part = prop_oneof![3 => text.prop_map(Part::Text), 1 => Just(Part::Card)];
    collection::vec(part, 1..8)
}

/// The text, and the expected masked text.
fn text_and_masked(parts: &[Part]) -> (String, String) {
    let (mut text, mut masked) = (String::new(), String::new());
    for part in parts {
        // The letter separates the digits of neighboring parts.
        match part {
            Part::Text(more) => [&mut text, &mut masked].map(|all| *all += &format!("{more}x")),
            Part::Card => {
                text += &format!("{CARD}x");
                masked += "[card]x";
                [(), ()]
            }
        };
    }
    (text, masked)
}

fn cut(text: &str, cuts: &[Index]) -> Vec<String> {
    let boundaries: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.get(&boundaries)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|cut| text[cut[0]..cut[1]].to_owned())
        .collect()
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn interleaved_texts_are_masked_and_nothing_else_changes(
        family in 0..FAMILIES.len(),
        parts in [parts(), parts()],
        cuts in [collection::vec(any::<Index>(), 0..12), collection::vec(any::<Index>(), 0..12)],
        order in collection::vec(any::<bool>(), 26),
        frames in collection::vec(any::<Index>(), 0..6),
        size in prop_oneof![Just(0), 1usize..200],
        overlap in CARD.len()..80,
    ) {
        let family = FAMILIES[family];
        let texts = parts.map(|parts| text_and_masked(&parts));
        let mut left = [0, 1].map(|n| cut(&texts[n].0, &cuts[n]).into_iter());
        let mut stream = String::new();
        for n in order.into_iter().map(usize::from).chain([0; 26]).chain([1; 26]) {
            if let Some(piece) = left[n].next() {
                stream += &family.event(n, &piece);
            }
        }
        for (n, (whole, _)) in texts.iter().enumerate() {
            stream += &family.done(n, whole).unwrap_or_default();
        }
        let layer = layer(window().min_batch(size).overlap(overlap));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (out, failed) = runtime.block_on(async {
            rest(pass(&layer, Script::of(cut(&stream, &frames))).await).await
        });
        prop_assert_eq!(failed, None);
        let [(_, first), (_, second)] = &texts;
        prop_assert_eq!(&family.read(&out), &[first.clone(), second.clone()]);
        if texts.iter().all(|(text, masked)| text == masked) {
            prop_assert_eq!(out, stream);
        }
    }
}

/// A stream with fields, comments and JSON spellings that a window must not change.
const PLAIN_STREAM: &str = ": hi\r\nid: 1\r\ndata:{ \"choices\" : [ {\"delta\":{\"content\":\"\\u0061b\"}, \"index\":0} ],\r\ndata:\"n\":1.0e400}\r\n\r\nretry: 7\nevent: x\ndata\nunknown\n\nid: 2\n\ndata: [DONE]\n\n: bye\n\n";

#[tokio::test]
async fn stream_without_matches_passes_byte_for_byte() {
    let (out, failed) = through(&layer(window()), PLAIN_STREAM).await;
    assert_eq!((out.as_str(), failed), (PLAIN_STREAM, None));
}

#[tokio::test]
async fn masked_event_keeps_its_other_fields_and_members() {
    let stream = format!(
        "id: 7\nevent: x\n: note\nother: y\ndata: {{ \"choices\":[{{\"delta\" : {{\"content\":\"a {CARD}\"}},\"logprobs\":{{\"content\":[{{\"token\":\"{CARD}\"}}]}}}}], \"n\":1.0e400}}\n\n"
    );
    let body = pass(&layer(window()), Script::of([stream])).await;
    let expected = "id: 7\nevent: x\n: note\nother: y\ndata: { \"choices\":[{\"delta\" : {\"content\":\"a [card]\"},\"logprobs\":null}], \"n\":1.0e400}\n\n";
    assert_eq!(rest(body).await, (expected.to_owned(), None));
}

#[tokio::test]
async fn plain_text_is_judged_across_events_even_if_it_parses_as_json() {
    for (stream, expected) in [
        (
            "data: my 4111 1111\n\ndata:  1111 1111.\n\n",
            "data: my [card]\n\ndata: .\n\n",
        ),
        // A number alone is JSON, and so is a string.
        (
            "data: 4111\n\ndata: 1111\n\ndata: 11111111\n\n",
            "data: [card]\n\ndata: \n\ndata: \n\n",
        ),
        (
            "data: \"4111\"\n\ndata: \"1111 1111\"\n\ndata: 1111\n\n",
            "data: \"[card]\"\n\ndata: \"\"\n\ndata: \n\n",
        ),
        (
            "data: {\"a\":4111111111111111}\n\n",
            "data: {\"a\":\"[card]\"}\n\n",
        ),
        (
            "data: [\"4111 1111 1111 1111\"]\n\n",
            "data: [\"[card]\"]\n\n",
        ),
        // All data lines of one event are one text.
        (
            "data: 4111 1111 1111 1111\ndata: b\n\n",
            "data: [card]\ndata: b\n\n",
        ),
    ] {
        let (out, failed) = through(&layer(window()), stream).await;
        assert_eq!((out.as_str(), failed), (expected, None), "{stream}");
    }
    // `extract::plain` treats all data as plain text, even if it parses as JSON.
    let plain = layer(window().extract(extract::plain));
    let (out, _) = through(
        &plain,
        "data: 4111 1111\n\ndata: 11111111\n\ndata: {\"4\n\n",
    )
    .await;
    assert_eq!(out, "data: [card]\n\ndata: \n\ndata: {\"4\n\n");
}

#[tokio::test]
async fn string_of_an_unknown_format_is_judged_alone() {
    let stream = "data: {\"result\":{\"content\":[{\"text\":\"so 4111 1111 1111 1111\"}]},\"id\":\"4111111111111111\"}\n\n";
    let (out, _) = through(&layer(window()), stream).await;
    assert_eq!(
        out,
        "data: {\"result\":{\"content\":[{\"text\":\"so [card]\"}]},\"id\":\"[card]\"}\n\n"
    );
}

#[tokio::test]
async fn custom_extractor_assigns_texts_to_channels() {
    fn chat<'a>(_: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
        let Some(json) = json else { return };
        if let (Some(who), Some(said)) = (json.get("who"), json.get("said")) {
            texts.ignore(who);
            texts.delta(who.raw(), said);
        }
    }
    let stream = "data: {\"who\":\"4111111111111111\",\"said\":\"4111 1111\"}\n\ndata: {\"who\":\"b\",\"said\":\"4111 1111\"}\n\ndata: {\"who\":\"4111111111111111\",\"said\":\"11111111\"}\n\n";
    let (out, _) = through(&layer(window().extract(chat)), stream).await;
    assert_eq!(
        out,
        "data: {\"who\":\"4111111111111111\",\"said\":\"[card]\"}\n\ndata: {\"who\":\"b\",\"said\":\"4111 1111\"}\n\ndata: {\"who\":\"4111111111111111\",\"said\":\"\"}\n\n"
    );
}

#[tokio::test(start_paused = true)]
async fn rest_of_a_match_released_by_the_delay_limit_is_masked() {
    let (mut upstream, mut body) = open(&layer(window())).await;
    upstream.send_data(event("a 4111 1111 1")).await.unwrap();
    assert_eq!(next(&mut body).await, event("a 4111 1111 1"));
    upstream.send_data(event("111 1111 b")).await.unwrap();
    assert_eq!(next(&mut body).await, event(" b"));
}

#[tokio::test(start_paused = true)]
async fn finished_text_is_sent_at_once() {
    for family in FAMILIES {
        let Some(done) = family.done(0, "word") else {
            continue;
        };
        let (mut upstream, mut body) = open(&layer(window())).await;
        let begun = Instant::now();
        let delta = family.event(0, "word");
        upstream.send_data(delta.clone().into()).await.unwrap();
        assert!(is_silent(&mut body).await, "{}", family.name);
        upstream.send_data(done.clone().into()).await.unwrap();
        assert_eq!(next(&mut body).await, delta + &done, "{}", family.name);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn blocks_without_text_wait_only_behind_held_events() {
    let (mut upstream, mut body) = open(&layer(window())).await;
    upstream
        .send_data(": one\ndata: {\"object\":1}\n\nid: 3\n\n".into())
        .await
        .unwrap();
    assert_eq!(
        next(&mut body).await,
        ": one\ndata: {\"object\":1}\n\nid: 3\n\n"
    );
    upstream
        .send_data("data: text\n\n: two\nid: 4\n\n".into())
        .await
        .unwrap();
    assert!(is_silent(&mut body).await);
    assert_eq!(next(&mut body).await, "data: text\n\n: two\nid: 4\n\n");
}

#[tokio::test]
async fn blocked_text_ends_the_stream_and_held_events_are_dropped() {
    let stream = "data: fine so far, as far as anyone can tell\n\ndata: and now my sec\n\ndata: ret pl\n\n: c\ndata: an\n\ndata: more\n\n";
    let blocking = || TextWindow::new(no_phrase).overlap(11);
    let (out, failed) = through(&layer(blocking()), stream).await;
    assert_eq!(out, "data: fine so far, as far as anyone can tell\n\n");
    assert_eq!(failed, Some(ErrorKind::Blocked));

    let window = blocking().on_block(|| vec![Event::new("blocked"), Event::new("[DONE]")]);
    let (out, failed) = through(&layer(window), stream).await;
    assert_eq!(
        (out.as_str(), failed),
        (
            "data: fine so far, as far as anyone can tell\n\ndata: blocked\n\ndata: [DONE]\n\n",
            None
        )
    );
}

#[tokio::test(start_paused = true)]
async fn r30_phrase_is_blocked_in_any_pieces_of_every_api() {
    let layer = layer(TextWindow::new(no_phrase).overlap(11));
    let text = "here is my secret plan for you";
    for family in FAMILIES {
        for first in 1..text.len() - 1 {
            for second in first..text.len() {
                let stream = [&text[..first], &text[first..second], &text[second..]];
                let stream = stream.map(|piece| family.event(0, piece));
                let (out, failed) = rest(pass(&layer, Script::of(stream)).await).await;
                assert_eq!(failed, Some(ErrorKind::Blocked));
                let [read, _] = family.read(&out);
                assert!(
                    text.starts_with(&read) && !read.contains("plan"),
                    "{}: {read}",
                    family.name
                );
            }
        }
    }
}

#[tokio::test]
async fn held_events_are_judged_and_sent_before_an_error() {
    let steps = [
        Step::Data(event("a 4111 1111")),
        Step::Data(event(" 1111 1111")),
        Step::Error,
    ];
    let body = pass(&layer(window()), Script::new(steps)).await;
    assert_eq!(
        rest(body).await,
        (
            "data: a [card]\n\ndata: \n\n".to_owned(),
            Some(ErrorKind::Upstream)
        )
    );
    let small = layer(window()).max_event_bytes(64);
    let (out, failed) = through(
        &small,
        "data: held\n\ndata: 0123456789012345678901234567890123456789012345678901234567890\n\n",
    )
    .await;
    assert_eq!(
        (out.as_str(), failed),
        ("data: held\n\n", Some(ErrorKind::EventTooLarge))
    );
}

#[tokio::test]
async fn unfinished_last_event_is_judged_with_earlier_text() {
    let (out, failed) = through(&layer(window()), "data: a 4111 1111\n\ndata: 1111 1111 b\n").await;
    assert_eq!(
        (out.as_str(), failed),
        ("data: a [card]\n\ndata:  b\n", None)
    );
}

/// A window that judges as `no_cards` does. Each judgement waits until the test sends on its channel.
fn delayed_window() -> (TextWindow, Arc<Mutex<Vec<oneshot::Sender<()>>>>) {
    let pending = Arc::new(Mutex::new(Vec::new()));
    let senders = Arc::clone(&pending);
    let judge = service_fn(move |segment: TextSegment| {
        let (sender, released) = oneshot::channel::<()>();
        senders.lock().unwrap().push(sender);
        async move {
            let _ = released.await;
            Ok::<_, Infallible>(no_cards(&segment))
        }
    });
    (
        TextWindow::service(judge)
            .overlap(CARD.len())
            .max_delay(MAX_DELAY),
        pending,
    )
}

#[tokio::test(start_paused = true)]
async fn slow_judge_delays_only_its_own_stream() {
    let (window, pending) = delayed_window();
    let layer = layer(window);
    let (mut slow, mut slow_body) = open(&layer).await;
    slow.send_data(event("a 4111 1111 1111 1111 and more of it"))
        .await
        .unwrap();
    slow.send_data(event(" and more of it, as much as is needed"))
        .await
        .unwrap();
    assert!(is_silent(&mut slow_body).await);
    let slow_sender = pending.lock().unwrap().pop().unwrap();

    let (mut quick, mut quick_body) = open(&layer).await;
    quick.send_data(event("b")).await.unwrap();
    drop(quick);
    assert!(is_silent(&mut quick_body).await);
    pending.lock().unwrap().pop().unwrap().send(()).unwrap();
    assert_eq!(next(&mut quick_body).await, event("b"));

    assert!(is_silent(&mut slow_body).await);
    slow_sender.send(()).unwrap();
    assert_eq!(next(&mut slow_body).await, event("a [card] and more of it"));
}

#[tokio::test(start_paused = true)]
async fn failed_or_late_judge_cuts_the_stream_unless_it_fails_open() {
    let stream = "data: one\n\n: c\ndata: two\n\n";
    for (limit, error, kind) in [
        (None, "down", ErrorKind::InterceptorFailed),
        (Some(MAX_DELAY), "slow", ErrorKind::InterceptorTimedOut),
    ] {
        let judge = service_fn(move |_: TextSegment| async move {
            if error == "slow" {
                sleep(10 * MAX_DELAY).await;
            }
            Err::<Decision, _>(error)
        });
        let window = || {
            let window = TextWindow::service(judge);
            match limit {
                Some(limit) => window.judge_timeout(limit),
                None => window,
            }
        };
        let begun = Instant::now();
        assert_eq!(
            through(&layer(window()), stream).await,
            (String::new(), Some(kind)),
            "{error}"
        );
        let open = layer(window().fail_open());
        assert_eq!(
            through(&open, stream).await,
            (stream.to_owned(), None),
            "{error}"
        );
        assert!(begun.elapsed() < 4 * MAX_DELAY, "{error}");
    }
}

#[tokio::test]
async fn r30_mask_outside_the_segment_fails_with_its_range() {
    for range in [2..9, 1..2, 9..12] {
        let shown = format!("bytes {range:?} of a text segment of 4 bytes");
        let wrong = move |_: &TextSegment| {
            let (range, with) = (range.clone(), String::new());
            Decision::Mask(vec![Mask { range, with }])
        };
        let script = Script::of(["data: \u{e4}bc\n\n"]);
        let error = failure(pass(&layer(TextWindow::new(wrong)), script).await).await;
        assert!(error.contains(&shown), "{error}");
    }
}

/// Reads the error of a stream that sends nothing before it, and returns the interceptor's message.
async fn failure(mut body: SseBody<Script>) -> String {
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InterceptorFailed);
    error.source().unwrap().to_string()
}

#[tokio::test]
async fn overlapping_and_unordered_masks_are_merged() {
    let overlapping = |_: &TextSegment| {
        let mask = |range, with: &str| Mask {
            range,
            with: with.to_owned(),
        };
        Decision::Mask(vec![
            mask(6..8, "C"),
            mask(1..4, "A"),
            mask(2..5, "B"),
            mask(5..6, ""),
            mask(9..9, "!"),
        ])
    };
    let (out, _) = through(&layer(TextWindow::new(overlapping)), "data: 0123456789\n\n").await;
    assert_eq!(out, "data: 0AC89\n\n");
}

#[tokio::test]
async fn ambiguous_json_fails_the_stream_without_a_judgement() {
    let deep = format!("data: {}1{}\n\n", "[".repeat(40), "]".repeat(40));
    let long = format!(
        "data: {{\"choices\":[{{\"index\":\"{}\",\"text\":\"a\"}}]}}\n\n",
        "i".repeat(300)
    );
    for ambiguous in [
        "data: {\"a\":\"4111\",\"a\":\"b\"}\n\n".to_owned(),
        deep,
        long,
    ] {
        let stream = format!("data: before\n\n{ambiguous}data: after\n\n");
        let body = pass(&layer(window()), Script::of([stream.clone()])).await;
        assert_eq!(
            rest(body).await,
            (String::new(), Some(ErrorKind::InterceptorFailed))
        );
        let body = pass(&layer(window().fail_open()), Script::of([stream.clone()])).await;
        assert_eq!(rest(body).await, (stream, None));
    }
}

#[tokio::test(start_paused = true)]
async fn held_bytes_and_number_of_texts_are_limited() {
    let (x, y) = (event(&"x".repeat(60)), event(&"y".repeat(60)));
    let held = layer(window().max_held_bytes(x.len()).overlap(1 << 20));
    let (mut upstream, mut body) = open(&held).await;
    let begun = Instant::now();
    upstream.send_data(x.clone()).await.unwrap();
    assert!(is_silent(&mut body).await);
    upstream.send_data(y.clone()).await.unwrap();
    assert_eq!(next(&mut body).await, [x.clone(), y].concat());
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // Comments that wait behind a held event count too.
    upstream.send_data(x.clone()).await.unwrap();
    assert!(is_silent(&mut body).await);
    let comments = Bytes::from(": c\n".repeat(10));
    upstream.send_data(comments.clone()).await.unwrap();
    assert_eq!(next(&mut body).await, [x, comments].concat());
    assert_eq!(begun.elapsed(), Duration::ZERO);

    let many: String = (0..1025).map(|n| FAMILIES[0].event(n, "a")).collect();
    let body = pass(&layer(window()), Script::of([many])).await;
    assert_eq!(rest(body).await.1, Some(ErrorKind::InterceptorFailed));
}

#[tokio::test]
async fn larger_batch_needs_fewer_judgements() {
    let calls = Arc::new(AtomicUsize::new(0));
    let stream: String = (0..100)
        .map(|n| format!("data: word {n:02} \n\n"))
        .collect();
    let mut counts = Vec::new();
    for size in [0, 80] {
        let counter = Arc::clone(&calls);
        let count = move |segment: &TextSegment| {
            counter.fetch_add(1, Ordering::SeqCst);
            no_cards(segment)
        };
        calls.store(0, Ordering::SeqCst);
        let layer = layer(TextWindow::new(count).overlap(20).min_batch(size));
        let body = pass(&layer, Script::of([stream.clone()])).await;
        assert_eq!(rest(body).await.0, stream);
        counts.push(calls.load(Ordering::SeqCst));
    }
    assert!(counts[0] > 90 && counts[1] < 15, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn full_batch_and_complete_text_are_judged_at_once() {
    let chat = FAMILIES[0];
    let (mut upstream, mut body) = open(&layer(window().overlap(4).min_batch(20))).await;
    let begun = Instant::now();
    for _ in 0..2 {
        upstream
            .send_data(chat.event(0, "abcdefghij").into())
            .await
            .unwrap();
        assert!(is_silent(&mut body).await);
    }
    upstream
        .send_data(chat.event(0, "abcdefgh").into())
        .await
        .unwrap();
    assert_eq!(next(&mut body).await, chat.event(0, "abcdefghij").repeat(2));
    let last = chat.event(0, "abcdefgh") + &chat.done(0, "").unwrap();
    upstream
        .send_data(chat.done(0, "").unwrap().into())
        .await
        .unwrap();
    assert_eq!(next(&mut body).await, last);
    // A string that is no part of a text across events is complete.
    upstream
        .send_data("data: {\"a\":\"b\"}\n\n".into())
        .await
        .unwrap();
    assert_eq!(next(&mut body).await, "data: {\"a\":\"b\"}\n\n");
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn window_keeps_at_most_twice_the_overlap_of_sent_text() {
    let judged = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&judged);
    let window = TextWindow::new(move |segment: &TextSegment| {
        seen.lock()
            .unwrap()
            .push((segment.sent, segment.text.clone()));
        Decision::Pass
    });
    // Characters of three bytes, because twice the overlap of ten is no multiple of three.
    let stream = event("\u{65e5}\u{672c}").repeat(20);
    let body = pass(&layer(window.overlap(10)), Script::of([stream])).await;
    rest(body).await;
    let judged = judged.lock().unwrap();
    let sent: Vec<_> = judged.iter().map(|(sent, _)| *sent).collect();
    assert_eq!(sent[..6], [0, 6, 12, 18, 21, 21]);
    assert!(judged.iter().all(|(_, text)| text.len() <= 21 + 18));
}

#[tokio::test(start_paused = true)]
async fn sent_bytes_and_finished_texts_do_not_count_toward_limits() {
    let chat = FAMILIES[0];
    let word = chat.event(0, "a word of some length");
    let (mut upstream, mut body) = open(&layer(window().max_held_bytes(3 * word.len()))).await;
    upstream.send_data(word.clone().into()).await.unwrap();
    for _ in 0..20 {
        assert!(is_silent(&mut body).await);
        upstream.send_data(word.clone().into()).await.unwrap();
        assert_eq!(next(&mut body).await, word);
    }
    let many: String = (0..3000)
        .map(|n| chat.event(n, "a") + &chat.done(n, "a").unwrap())
        .collect();
    let body = pass(&layer(window()), Script::of([many.clone()])).await;
    assert_eq!(rest(body).await, (many, None));
}

#[tokio::test(start_paused = true)]
async fn text_smaller_than_min_batch_is_sent_after_max_delay() {
    let window = window().overlap(0).min_batch(1000);
    let (mut upstream, mut body) = open(&layer(window)).await;
    let begun = Instant::now();
    let word = FAMILIES[0].event(0, "word");
    upstream.send_data(word.clone().into()).await.unwrap();
    assert_eq!(next(&mut body).await, word);
    assert_eq!(begun.elapsed(), MAX_DELAY);
}

#[tokio::test(start_paused = true)]
async fn unfinished_text_is_remembered_while_thousands_of_others_finish() {
    let chat = FAMILIES[0];
    let window = TextWindow::new(no_phrase).overlap(11).max_delay(MAX_DELAY);
    let (mut upstream, mut body) = open(&layer(window)).await;
    let begun = chat.event(0, "my secret");
    upstream.send_data(begun.clone().into()).await.unwrap();
    // The event is sent after the longest delay. The next piece may still complete the phrase.
    assert_eq!(next(&mut body).await, begun);
    let others: String = (1..3000)
        .map(|n| chat.event(n, "a") + &chat.done(n, "a").unwrap())
        .collect();
    let stream = others + &chat.event(0, " plan");
    upstream.send_data(stream.into()).await.unwrap();
    drop(upstream);
    let (out, failed) = rest(body).await;
    assert_eq!(failed, Some(ErrorKind::Blocked));
    assert!(!out.contains(" plan"));
}

#[tokio::test]
async fn finished_text_is_remembered_until_thousands_of_others_have_finished() {
    let chat = FAMILIES[0];
    for (others, remembered) in [(1000, "abcdef"), (3000, "def")] {
        let judged = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&judged);
        let window = TextWindow::new(move |segment: &TextSegment| {
            seen.lock().unwrap().push(segment.text.clone());
            Decision::Pass
        });
        let texts = (0..=others).map(|n| (n, if n == 0 { "abc" } else { "-" }));
        let stream: String = texts
            .map(|(n, text)| chat.event(n, text) + &chat.done(n, text).unwrap())
            .collect();
        let stream = stream + &chat.event(0, "def");
        let body = pass(&layer(window.overlap(10)), Script::of([stream])).await;
        assert_eq!(rest(body).await.1, None);
        let judged = judged.lock().unwrap();
        let continued = judged.iter().filter(|text| text.ends_with("def"));
        assert_eq!(continued.collect::<Vec<_>>(), [remembered]);
    }
}

#[tokio::test]
async fn text_is_not_judged_after_a_client_disconnect() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let layer = SseProxyLayer::default().intercept(TextWindow::new(move |_: &TextSegment| {
        counter.fetch_add(1, Ordering::SeqCst);
        Decision::Pass
    }));
    let (mut upstream, mut body) = open(&layer).await;
    upstream.send_data(event("held")).await.unwrap();
    assert!(is_silent(&mut body).await);
    drop(body);
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

/// Passes the stream through a window, and returns the channels and texts that its judge gets, sorted.
async fn judged(stream: String) -> Vec<(Option<String>, String)> {
    let judged = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&judged);
    let window = TextWindow::new(move |segment: &TextSegment| {
        let TextSegment { channel, text, .. } = segment.clone();
        seen.lock().unwrap().push((channel, text));
        Decision::Pass
    });
    rest(pass(&layer(window), Script::of([stream])).await).await;
    let mut judged = std::mem::take(&mut *judged.lock().unwrap());
    judged.sort();
    judged
}

#[tokio::test]
async fn api_text_is_joined_and_every_other_string_is_judged_alone() {
    for family in FAMILIES {
        let mut judged = judged(family.event(0, "word")).await;
        for id in [
            "chatcmpl-1",
            "response.output_text.delta",
            "msg_0",
            "text_delta",
            "r",
        ] {
            let is_there = family.event(0, "word").contains(&format!("\"{id}\""));
            let is_judged = judged.contains(&(None, id.to_owned()));
            assert_eq!(is_judged, is_there, "{}: {id}", family.name);
        }
        judged.retain(|(channel, _)| channel.is_some());
        let [(Some(_), text)] = &judged[..] else {
            panic!("{}: {judged:?}", family.name);
        };
        assert_eq!(text, "word");
    }
    // A text is not a valid index.
    let odd = r#"{"choices":[{"index":"four","delta":{"content":"word"}}]}"#;
    let judged = judged(format!("data: {odd}\n\n")).await;
    assert_eq!(judged[0], (None, "four".to_owned()));
    assert_eq!(judged[1].1, "word");
}

#[tokio::test]
async fn only_nonempty_strings_and_natural_numbers_are_judged() {
    let stream =
        "data: {\"a\":1.5,\"b\":true,\"c\":null,\"d\":-3,\"e\":42,\"f\":\"\",\"g\":[\"text\"]}\n\n";
    let judged = judged(stream.to_owned()).await;
    let texts: Vec<_> = judged.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["42", "text"]);
}

#[tokio::test]
async fn json_may_have_262144_strings_and_numbers() {
    for (numbers, expected) in [
        (1 << 18, None),
        ((1 << 18) + 1, Some(ErrorKind::InterceptorFailed)),
    ] {
        // A fraction is not judged.
        let data = format!("[0.5{}]", ",1".repeat(numbers));
        let body = pass(&layer(window()), Script::of([event(&data)])).await;
        assert_eq!(rest(body).await.1, expected);
    }
}

#[tokio::test]
async fn choice_without_an_index_is_identified_by_its_position() {
    let choices = r#"{"index":null,"text":"a"},{"text":"b"},{"index":7,"text":"c"}"#;
    let judged = judged(format!("data: {{\"choices\":[{choices}]}}\n\n")).await;
    let channels: Vec<_> = judged
        .iter()
        .map(|(channel, _)| channel.as_deref().unwrap())
        .collect();
    assert_eq!(
        channels,
        ["choice 0 text", "choice 1 text", "choice 7 text"]
    );
}

#[tokio::test]
async fn json_may_have_32_levels() {
    for (depth, failed) in [(32, None), (33, Some(ErrorKind::InterceptorFailed))] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let stream = format!("data: {}1{}\n\n", open.repeat(depth), close.repeat(depth));
            let body = pass(&layer(window()), Script::of([stream])).await;
            assert_eq!(rest(body).await.1, failed, "{depth} {open}");
        }
    }
}

#[tokio::test]
async fn text_may_begin_in_content_block_start() {
    let start = "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"4111 1111\"}}\n\n";
    let stream = format!("{start}{}", FAMILIES[4].event(0, " 1111 1111"));
    let (out, _) = rest(pass(&layer(window()), Script::of([stream])).await).await;
    assert_eq!(
        out,
        start.replace("4111 1111", "[card]") + &FAMILIES[4].event(0, "")
    );
}

#[tokio::test(start_paused = true)]
async fn finished_choice_1_does_not_finish_choice_10() {
    let (mut upstream, mut body) = open(&layer(window())).await;
    let chat = FAMILIES[0];
    let begun = Instant::now();
    let (ten, one) = (chat.event(10, "ten"), chat.event(1, "one"));
    let done = chat.done(1, "one").unwrap();
    upstream
        .send_data((one.clone() + &done).into())
        .await
        .unwrap();
    assert_eq!(next(&mut body).await, one.clone() + &done);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    upstream
        .send_data((ten.clone() + &one + &done).into())
        .await
        .unwrap();
    assert!(is_silent(&mut body).await);
    assert_eq!(next(&mut body).await, ten + &one + &done);
    assert!(begun.elapsed() >= MAX_DELAY);
}

#[tokio::test]
async fn too_long_channel_name_fails_with_a_reason() {
    let opened = async |letters: usize| {
        let index = "i".repeat(letters);
        let stream =
            format!("data: {{\"choices\":[{{\"index\":\"{index}\",\"text\":\"a\"}}]}}\n\n");
        pass(&layer(window()), Script::of([stream])).await
    };
    assert_eq!(rest(opened(242).await).await.1, None);
    let error = failure(opened(243).await).await;
    assert!(
        error.contains("cannot be judged: a text channel with a name"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn held_events_are_dropped_after_a_failure() {
    let calls = Arc::new(AtomicUsize::new(0));
    let judge = service_fn(move |_: TextSegment| {
        let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if first {
                Err("down")
            } else {
                Ok(Decision::Pass)
            }
        }
    });
    let layer = layer(TextWindow::service(judge).overlap(4));
    let (out, failed) = through(&layer, "data: a text\n\ndata: more of it\n\ndata: end\n\n").await;
    assert_eq!(
        (out.as_str(), failed),
        ("", Some(ErrorKind::InterceptorFailed))
    );
}

#[tokio::test(start_paused = true)]
async fn deadline_is_the_maximal_delay_of_the_oldest_event() {
    let (request, _) = http::Request::new(()).into_parts();
    let (response, _) = http::Response::new(()).into_parts();
    let mut stream = window()
        .open(&StreamHead::new(&request, &response))
        .unwrap();
    assert_eq!(stream.deadline(), None);
    let begun = Instant::now();
    stream.event(Event::new("a"));
    sleep(MAX_DELAY / 2).await;
    stream.event(Event::new("b"));
    assert_eq!(stream.deadline(), Some((begun + MAX_DELAY).into_std()));
    sleep(MAX_DELAY / 2).await;
    stream.timeout(Instant::now().into_std());
    let later = begun + MAX_DELAY / 2 + MAX_DELAY;
    assert_eq!(stream.deadline(), Some(later.into_std()));
}

#[tokio::test]
async fn debug_output_shows_the_settings_and_no_text() {
    let shown = format!("{:?}", window().min_batch(7).max_held_bytes(9));
    assert_eq!(
        shown,
        "TextWindow { overlap: 19, min_batch: 7, max_delay: 250ms, max_held_bytes: 9, .. }"
    );
    let judge = |segment: &TextSegment| {
        let shown = format!("{segment:?}");
        assert_eq!(
            shown,
            "TextSegment { bytes: 6, sent: 0, channel: Some(\"data\"), .. }"
        );
        Decision::Pass
    };
    let (out, failed) = through(&layer(TextWindow::new(judge)), "data: secret\n\n").await;
    assert_eq!((out.as_str(), failed), ("data: secret\n\n", None));
}

#[tokio::test]
async fn maximal_settings_hold_until_the_end_without_overflow() {
    let endless = || window().overlap(usize::MAX).max_delay(Duration::MAX);
    let stream = "data: one\n\ndata: two\n\n";
    for window in [
        endless(),
        endless().max_held_bytes(1),
        endless().min_batch(usize::MAX).judge_timeout(Duration::MAX),
    ] {
        let (out, failed) = through(&layer(window), stream).await;
        assert_eq!((out.as_str(), failed), (stream, None));
    }
}
