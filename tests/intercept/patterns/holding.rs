//! Held text is sent when its continuation excludes a match, when the text ends, or at a limit. It is not sent when the stream
//! fails.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use futures_util::FutureExt;
use tower::service_fn;
use tower_sse_proxy::{Event, intercept::window::Judge};
use tracing_subscriber::filter::LevelFilter;

use super::*;
use crate::support::{Script, Step, is_silent, next};

const EMAIL: &str = "[e-mail]";

fn emails() -> TextWindow {
    TextWindow::new(patterns([Pattern::email().mask(EMAIL)]).unwrap())
}

fn no_plans() -> TextWindow {
    TextWindow::new(patterns([Pattern::phrase("secret plan").ignore_case().block()]).unwrap())
}

/// Masks a name, and holds text that may become the name.
fn no_names(segment: &TextSegment) -> Decision {
    let found = segment.text.match_indices("Alice");
    let decided = Decision::mask(found.map(|(at, name)| at..at + name.len()), "[name]");
    let begun = (1..5)
        .rev()
        .find(|&size| segment.text.ends_with(&"Alice"[..size]));
    decided.hold_from(segment.text.len() - begun.unwrap_or(0))
}

/// The same judge as a function and as a service that answers late.
fn holding_windows() -> [TextWindow; 2] {
    let service = service_fn(async |segment: TextSegment| {
        sleep(Duration::from_millis(3)).await;
        Ok::<_, io::Error>(no_names(&segment))
    });
    [TextWindow::new(no_names), TextWindow::service(service)]
        .map(|window| window.overlap(0).max_delay(Duration::MAX))
}

async fn get(body: &mut crate::support::Open) -> String {
    String::from_utf8(next(body).await.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn hold_from_sends_earlier_events_and_holds_the_others() {
    for window in holding_windows() {
        let (mut upstream, mut body) = open(&layer(window)).await;
        for (sent, came) in [
            ("Hello", Some(chat("Hello"))),
            (" A", None),
            ("li", None),
            ("bi, Al", Some(chat(" A") + &chat("li"))),
            ("ice.", Some(chat("bi, [name]") + &chat("."))),
        ] {
            upstream.send_data(chat(sent).into()).await.unwrap();
            match came {
                None => {
                    sleep(Duration::from_secs(600)).await;
                    assert!(is_silent(&mut body).await);
                }
                Some(came) => assert_eq!(get(&mut body).await, came),
            }
        }
        // The end of the stream completes the text.
        upstream.send_data(chat("Ali").into()).await.unwrap();
        assert!(is_silent(&mut body).await);
        drop(upstream);
        assert_eq!(get(&mut body).await, chat("Ali"));
    }
}

#[tokio::test(start_paused = true)]
async fn held_text_is_not_sent_when_the_upstream_breaks() {
    let windows = holding_windows().into_iter().chain([emails()]);
    for window in windows {
        let steps = [chat("Hi "), chat("to, "), chat("Ali")].map(|event| Step::Data(event.into()));
        let steps = steps.into_iter().chain([Step::Error]);
        let (out, failed) = rest(pass(&layer(window), Script::new(steps)).await).await;
        assert!(!out.contains("Ali"), "{out}");
        assert_eq!(joined(&out), "Hi to, ");
        assert_eq!(failed, Some(ErrorKind::Upstream));
    }
}

#[tokio::test(start_paused = true)]
async fn held_text_is_not_sent_when_a_limit_cuts_the_stream() {
    let small = layer(emails()).max_event_bytes(128);
    let stream = [chat("so, "), chat("alice"), chat(&"x".repeat(100))];
    let (out, failed) = rest(pass(&small, Script::of(stream)).await).await;
    assert_eq!(
        (joined(&out).as_str(), failed),
        ("so, ", Some(ErrorKind::EventTooLarge))
    );
}

#[tokio::test(start_paused = true)]
async fn segment_reports_whether_its_text_is_complete() {
    for (end, at_end) in [(None, true), (Some(Step::Error), false)] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let judged = Arc::clone(&seen);
        let window = TextWindow::new(move |segment: &TextSegment| {
            let segment = segment.clone();
            judged
                .lock()
                .unwrap()
                .push((segment.text, segment.complete));
            Decision::Pass
        });
        let steps = [
            chat("a text that is longer than the window, which is sixty-four bytes."),
            finished(),
            "data: {\"note\":\"alone\"}\n\n".to_owned(),
            delta(1, "more"),
        ];
        let steps = steps.into_iter().map(|event| Step::Data(event.into()));
        let body = Script::new(steps.chain(end));
        rest(pass(&layer(window.overlap(4)), body).await).await;
        let seen = seen.lock().unwrap();
        let complete = |text: &str| {
            let mut of = seen.iter().filter(|(seen, _)| seen.contains(text));
            of.next_back().unwrap().1
        };
        assert!(
            complete("sixty-four") && complete("stop") && complete("alone"),
            "{seen:?}"
        );
        assert_eq!(complete("more"), at_end, "{seen:?}");
        assert!(seen.iter().any(|(_, complete)| !complete) || at_end);
    }
}

#[tokio::test(start_paused = true)]
async fn blocking_match_ends_the_stream_at_once_even_if_it_may_grow() {
    let pattern = Pattern::regex("ab+").block();
    let (mut upstream, body) = open(&layer(TextWindow::new(patterns([pattern]).unwrap()))).await;
    upstream.send_data(chat("xab").into()).await.unwrap();
    // The upstream sends nothing more, so the match neither grows nor ends.
    let ended = tokio::time::timeout(Duration::from_secs(600), rest(body)).await;
    assert_eq!(ended, Ok((String::new(), Some(ErrorKind::Blocked))));
}

#[tokio::test(start_paused = true)]
async fn blocking_pattern_that_matches_only_at_the_end_of_the_stream_blocks() {
    let pattern = Pattern::regex("plan$").block();
    let window = TextWindow::new(patterns([pattern]).unwrap());
    for pieces in [&["plan"][..], &["the ", "pl", "an"]] {
        let stream = Script::of(pieces.iter().map(|piece| chat(piece)));
        let (out, failed) = rest(pass(&layer(window.clone()), stream).await).await;
        assert_eq!(failed, Some(ErrorKind::Blocked));
        assert!(!joined(&out).contains("pl"), "{out}");
    }
}

#[tokio::test(start_paused = true)]
async fn held_text_is_sent_when_its_text_is_finished() {
    let (mut upstream, mut body) = open(&layer(emails())).await;
    let begun = Instant::now();
    upstream
        .send_data(chat("alice@example.co").into())
        .await
        .unwrap();
    assert!(is_silent(&mut body).await);
    upstream.send_data(finished().into()).await.unwrap();
    assert_eq!(get(&mut body).await, chat(EMAIL) + &finished());
    // A text that continues after its finish is the same text.
    upstream.send_data(chat("m, bob").into()).await.unwrap();
    assert!(is_silent(&mut body).await);
    upstream.send_data(chat(" said").into()).await.unwrap();
    assert_eq!(get(&mut body).await, chat(", bob"));
    drop(upstream);
    assert_eq!(get(&mut body).await, chat(" said"));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn blocked_text_that_continues_after_its_finish_is_blocked() {
    let stream = [chat("my secret"), finished(), chat(" PLAN"), chat(" is")];
    let (out, failed) = rest(pass(&layer(no_plans()), Script::of(stream)).await).await;
    assert_eq!(joined(&out), "my secret");
    assert_eq!(failed, Some(ErrorKind::Blocked));
}

#[tokio::test]
async fn block_ends_the_stream_after_the_clean_events_before_the_match() {
    let events = [
        chat("a s"),
        chat("up, a se"),
        chat("t of sec"),
        chat("ret pl"),
        chat("an"),
        chat("!"),
    ];
    let one_chunk = vec![events.concat()];
    let chunk_each = events.to_vec();
    for chunks in [one_chunk, chunk_each] {
        let body = pass(&layer(no_plans()), Script::of(chunks.clone())).await;
        let (out, failed) = rest(body).await;
        assert_eq!(out, events[..2].concat());
        assert_eq!(failed, Some(ErrorKind::Blocked));

        let said = no_plans().on_block(|| vec![Event::new("blocked")]);
        let (out, failed) = rest(pass(&layer(said), Script::of(chunks)).await).await;
        assert_eq!(out, events[..2].concat() + "data: blocked\n\n");
        assert_eq!(failed, None);
    }
}

#[tokio::test]
async fn block_ends_the_stream_in_the_batch_that_releases_events() {
    // The first event is held until the second one arrives, and is clean.
    let stream = [chat("a sec"), chat("tor; secret plan")];
    let (out, failed) = rest(pass(&layer(no_plans()), Script::of(stream.clone())).await).await;
    assert_eq!(out, stream[0]);
    assert_eq!(failed, Some(ErrorKind::Blocked));
}

#[tokio::test]
async fn match_is_found_in_any_string_and_in_any_spelling() {
    let layer = layer(emails());
    for (sent, came) in [
        (
            r#"{"note":"to bob@example.com."}"#,
            r#"{"note":"to [e-mail]."}"#,
        ),
        (
            r#"{"note":["bob@example.com"]}"#,
            r#"{"note":["[e-mail]"]}"#,
        ),
        (
            r#"{"note":"b\u006fb\u0040example.com"}"#,
            r#"{"note":"[e-mail]"}"#,
        ),
        ("to bob@example.com.", "to [e-mail]."),
    ] {
        let body = pass(&layer, Script::of([event(sent)])).await;
        assert_eq!(
            rest(body).await,
            (String::from_utf8(event(came).to_vec()).unwrap(), None)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn parallel_texts_are_not_joined_and_keep_their_order() {
    let (mut upstream, mut body) = open(&layer(emails())).await;
    for (index, text) in [(0, "alice"), (1, "so, "), (1, "a@b.c")] {
        upstream.send_data(delta(index, text).into()).await.unwrap();
        assert!(is_silent(&mut body).await);
    }
    upstream.send_data(": ping\n\n".into()).await.unwrap();
    assert!(is_silent(&mut body).await);
    upstream.send_data(delta(0, ", ").into()).await.unwrap();
    assert_eq!(get(&mut body).await, delta(0, "alice") + &delta(1, "so, "));
    upstream.send_data(delta(1, "om, ").into()).await.unwrap();
    let rest = delta(1, EMAIL) + ": ping\n\n" + &delta(0, ", ") + &delta(1, ", ");
    assert_eq!(get(&mut body).await, rest);
}

#[tokio::test(start_paused = true)]
async fn size_limit_releases_and_counts_the_oldest_text_and_masks_the_rest() {
    let event = chat("aaaa");
    let window = emails().max_held_bytes(3 * event.len());
    let counts = window.clone();
    let (mut upstream, mut body) = open(&layer(window)).await;
    for _ in 0..3 {
        upstream.send_data(event.clone().into()).await.unwrap();
        assert!(is_silent(&mut body).await);
    }
    upstream.send_data(event.clone().into()).await.unwrap();
    assert_eq!(get(&mut body).await, event);
    let early = counts.early_releases();
    assert_eq!((early.by_size, early.by_time, early.bytes), (1, 0, 4));
    upstream.send_data(chat("@b.cd ").into()).await.unwrap();
    drop(upstream);
    let (out, failed) = rest(body).await;
    assert_eq!((joined(&out).as_str(), failed), (" ", None));
}

#[tokio::test(start_paused = true)]
async fn time_limit_masks_a_match_so_far_and_counts_released_text() {
    let window = emails().max_delay(Duration::from_millis(100));
    let counts = window.clone();
    let (mut upstream, mut body) = open(&layer(window)).await;
    upstream
        .send_data(chat("bob@example.co").into())
        .await
        .unwrap();
    let begun = Instant::now();
    assert_eq!(get(&mut body).await, chat(EMAIL));
    assert_eq!(begun.elapsed().as_millis(), 100);
    assert_eq!(counts.early_releases(), Default::default());
    upstream.send_data(chat("m.").into()).await.unwrap();
    upstream.send_data(chat(" alice").into()).await.unwrap();
    assert_eq!(get(&mut body).await, chat("."));
    assert_eq!(get(&mut body).await, chat(" alice"));
    let early = counts.early_releases();
    assert_eq!((early.by_size, early.by_time, early.bytes), (0, 1, 5));
    // A match was sent in part; the rest of it is masked.
    upstream
        .send_data(chat("@example.com ").into())
        .await
        .unwrap();
    assert_eq!(get(&mut body).await, chat(" "));
}

#[tokio::test(start_paused = true)]
async fn time_limit_does_not_release_text_of_a_blocking_pattern() {
    let guard = patterns([Pattern::card_number().block()]).unwrap();
    let window = TextWindow::new(guard).max_delay(Duration::from_millis(100));
    let (mut upstream, body) = open(&layer(window)).await;
    let clean = chat("card ");
    upstream.send_data(clean.clone().into()).await.unwrap();
    upstream
        .send_data(chat("4111111111111111").into())
        .await
        .unwrap();
    let (out, failed) = rest(body).await;
    assert_eq!((out, failed), (clean, Some(ErrorKind::Blocked)));
    drop(upstream);
}

/// A writer that collects the log output.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn early_release_is_logged_with_its_size_and_without_its_text() {
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = crate::support::subscribe(subscriber);
    for (window, warnings) in [
        (emails().max_delay(Duration::from_millis(100)), 1),
        // A judge that never reports a possible match.
        (TextWindow::new(|_: &TextSegment| Decision::Pass), 0),
    ] {
        let counts = window.clone();
        let (mut upstream, mut body) = open(&layer(window)).await;
        for _ in 0..2 {
            upstream.send_data(chat("alice").into()).await.unwrap();
            assert_eq!(get(&mut body).await, chat("alice"));
        }
        assert_eq!(counts.early_releases().by_time, 2);
        let shown = String::from_utf8(std::mem::take(&mut *logged.0.lock().unwrap())).unwrap();
        assert_eq!(shown.matches("WARN").count(), warnings, "{shown}");
        assert_eq!(
            shown.matches("bytes=5 limit=\"max_delay\"").count(),
            warnings,
            "{shown}"
        );
        assert!(!shown.contains("alice"), "{shown}");
    }
}

#[tokio::test]
async fn hold_beyond_the_segment_fails_with_the_position() {
    use std::error::Error;
    let wrong = |_: &TextSegment| Decision::Pass.hold_from(9);
    let body = pass(
        &layer(TextWindow::new(wrong).overlap(0)),
        Script::of([chat("abc")]),
    )
    .await;
    let error = http_body_util::BodyExt::collect(body).await.unwrap_err();
    let why = error.source().unwrap().to_string();
    assert!(why.contains("segment of 3 bytes from byte 9"), "{why}");
}

#[tokio::test]
async fn patterns_can_be_called_by_another_judge() {
    let guard = patterns([Pattern::email().mask(EMAIL)]).unwrap();
    let emails_only = move |segment: &TextSegment| {
        let decision = guard.judge(segment.clone()).now_or_never();
        decision.expect("patterns decide at once").unwrap()
    };
    let window = TextWindow::new(emails_only)
        .overlap(0)
        .max_delay(Duration::MAX);
    let stream = ["so, al", "ice@exam", "ple.co", "m, bye"].map(chat);
    let (out, failed) = rest(pass(&layer(window), Script::of(stream)).await).await;
    assert_eq!((joined(&out).as_str(), failed), ("so, [e-mail], bye", None));
}

#[tokio::test(start_paused = true)]
async fn mask_sent_in_part_is_completed_if_the_judge_later_passes_the_text() {
    let judge = |segment: &TextSegment| {
        let text = &segment.text;
        match text.find('A') {
            Some(at) if text.ends_with('A') => Decision::Pass.hold_from(at),
            Some(at) if text.ends_with("AB") => {
                Decision::mask(std::iter::once(at..at + 2), "[m]").hold_from(at + 1)
            }
            _ => Decision::Pass,
        }
    };
    let window = TextWindow::new(judge).overlap(0).max_delay(Duration::MAX);
    let (mut upstream, mut body) = open(&layer(window)).await;
    upstream.send_data(chat("xA").into()).await.unwrap();
    assert!(is_silent(&mut body).await);
    upstream.send_data(chat("B").into()).await.unwrap();
    assert_eq!(get(&mut body).await, chat("x[m]"));
    assert!(is_silent(&mut body).await);
    upstream.send_data(chat("!").into()).await.unwrap();
    assert_eq!(get(&mut body).await, chat("") + &chat("!"));
}

#[tokio::test]
async fn mask_sent_in_part_covers_the_rest_of_a_match_of_any_size() {
    let guard = patterns([Pattern::regex("<[^>]*>").mask("#")]).unwrap();
    let inner = guard.clone();
    let outer = move |segment: &TextSegment| {
        let decision = inner.judge(segment.clone()).now_or_never();
        decision.expect("patterns decide at once").unwrap()
    };
    let outer = TextWindow::new(outer).overlap(0).max_delay(Duration::MAX);
    for window in [outer, TextWindow::new(guard)] {
        let long = "x".repeat(1000);
        let stream = [chat("a <"), chat(&long), chat("y> and <b"), chat("c> d")];
        let (out, failed) = rest(pass(&layer(window), Script::of(stream)).await).await;
        assert_eq!((joined(&out).as_str(), failed), ("a # and # d", None));
    }
}

#[test]
fn unusable_pattern_is_an_error_that_names_it() {
    for (pattern, why) in [
        (Pattern::regex("(a"), "unclosed group"),
        (Pattern::regex("a*"), "matches the empty text"),
        (Pattern::regex(r"(?-u:\b)"), "matches the empty text"),
        (Pattern::phrase(""), "matches the empty text"),
        (Pattern::regex("$"), "matches the empty text"),
        (Pattern::regex("a^b"), "cannot match any text"),
        (Pattern::regex(r"\bab\b"), r"write (?-u:\b)"),
        (
            Pattern::regex(r"(?-u:\w){1,3000}x(?-u:\w){1,3000}"),
            "needs more than 8 MiB",
        ),
        (Pattern::regex(r"a{1,1000000}"), "needs more than 8 MiB"),
    ] {
        let error = patterns([Pattern::email(), pattern]).unwrap_err();
        assert_eq!(error.index(), 1);
        let shown = error.to_string();
        assert!(
            shown.starts_with("pattern 1: ") && shown.contains(why),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn phrase_matches_literally_and_can_ignore_case() {
    let phrase = r"a.b*\(Stra\u{df}e)";
    for (pattern, text, masked) in [
        (
            Pattern::phrase(phrase),
            r"x a.b*\(Stra\u{df}e) axb",
            "x *** axb",
        ),
        (Pattern::phrase("@home"), "at @home", "at ***"),
        (Pattern::phrase("\u{e4}B"), "\u{c4}b \u{e4}B", "\u{c4}b ***"),
        (
            Pattern::phrase("\u{e4}B").ignore_case(),
            "\u{c4}b \u{e4}B",
            "*** ***",
        ),
    ] {
        let window = TextWindow::new(patterns([pattern]).unwrap());
        let body = pass(&layer(window), Script::of([chat(text)])).await;
        assert_eq!(joined(&rest(body).await.0), masked);
    }
}
