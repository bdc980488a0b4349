//! For any speed and size of tokens: no part of a match is sent, and text that cannot begin a match is not delayed.

use std::{collections::BTreeMap, ops::Range};

use regex::Regex;

use super::*;

/// A pattern for the window, and the same search for the oracle.
struct Case {
    name: &'static str,
    pattern: fn() -> Pattern,
    found: Find,
    /// Possible continuations. A text may begin a match if one of these completes it to a match or to a longer match.
    completions: Vec<String>,
    secret: &'static str,
    /// The size of the longest match, for the window without patterns.
    longest: usize,
}

type Find = Box<dyn Fn(&str) -> Vec<Range<usize>> + Send + Sync>;

fn cases() -> Vec<Case> {
    let regex = |expression: &str| -> Find {
        let regex = Regex::new(expression).unwrap();
        Box::new(move |text| regex.find_iter(text).map(|found| found.range()).collect())
    };
    let suffixes =
        |text: &str| -> Vec<String> { (1..text.len()).map(|at| text[at..].to_owned()).collect() };
    let sequence = |digits: usize| (0..=digits).map(|n| "1".repeat(n));
    vec![
        Case {
            name: "phrase",
            pattern: || Pattern::phrase("project nightingale"),
            found: regex("project nightingale"),
            completions: suffixes("project nightingale"),
            secret: "project nightingale",
            longest: 19,
        },
        Case {
            name: "card number",
            pattern: Pattern::card_number,
            found: Box::new(|text| cards(text).collect()),
            // Every check digit after every number of digits.
            completions: (0..19)
                .flat_map(sequence)
                .flat_map(|ones| (0..10).map(move |check| format!("{ones}{check}")))
                .collect(),
            secret: "4111 1111 1111 1111",
            longest: 37,
        },
        Case {
            name: "e-mail",
            pattern: Pattern::email,
            found: regex(
                r"\w[\w.!#$%&'*+/=?^`{|}~-]{0,63}@(?:[0-9A-Za-z-]+\.)+[A-Za-z][A-Za-z-]*[A-Za-z]",
            ),
            completions: ["@a.bc", "a@a.bc", "a.bc", ".bc", "bc", "b"]
                .map(str::to_owned)
                .into(),
            secret: "alice.smith@example.com",
            longest: 64,
        },
        Case {
            name: "phone",
            pattern: || Pattern::regex(r"\+[0-9]{1,3}[ -]?[0-9]{3}[ -]?[0-9]{4}"),
            found: regex(r"\+[0-9]{1,3}[ -]?[0-9]{3}[ -]?[0-9]{4}"),
            completions: sequence(10)
                .skip(1)
                .chain(["1-1111111".to_owned()])
                .collect(),
            secret: "+49 555-0123",
            longest: 14,
        },
        Case {
            name: "secret key",
            pattern: || Pattern::regex("sk-[A-Za-z0-9]{20,}"),
            found: regex("sk-[A-Za-z0-9]{20,}"),
            completions: suffixes("sk-aaaaaaaaaaaaaaaaaaaaaaa")
                .into_iter()
                .chain(["a".to_owned()])
                .collect(),
            secret: "sk-Zx81kQp02LmN7vTr4yWb9",
            longest: 64,
        },
    ]
}

impl Case {
    fn masked(&self, text: &str) -> String {
        let found = (self.found)(text).into_iter();
        oracle::merged(text, found.map(|range| (range, "***")).collect())
    }

    /// The first byte of a possible match that continues after the end of this text.
    fn beginning(&self, text: &str) -> usize {
        let begun = self.completions.iter().filter_map(|more| {
            let found = (self.found)(&format!("{text}{more}")).into_iter();
            let mut begun =
                found.filter(|found| found.start < text.len() && found.end > text.len());
            begun.next()
        });
        let begun = begun.map(|found| found.start);
        begun.min().unwrap_or(text.len())
    }

    fn window_with_patterns(&self) -> TextWindow {
        TextWindow::new(patterns([(self.pattern)()]).unwrap())
    }

    /// A window that judges with a function, without patterns.
    fn window_without_patterns(self: &std::sync::Arc<Self>) -> TextWindow {
        let case = std::sync::Arc::clone(self);
        TextWindow::new(move |segment: &TextSegment| {
            Decision::mask((case.found)(&segment.text), "***")
        })
    }
}

const CLEAN: &str =
    "The spring skyline, a project of sketches, asks 3 of us 24 times: press on, or sk";

fn tokens(text: &str, size: usize) -> Vec<&str> {
    let bytes: Vec<_> = (0..text.len()).step_by(size).chain([text.len()]).collect();
    bytes.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect()
}

/// Sends the tokens with `gap` between them. Returns the output text and the delay of each token.
async fn stream(window: TextWindow, tokens: &[&str], gap: Duration) -> (String, Vec<Duration>) {
    let (mut upstream, mut body) = open(&layer(window)).await;
    let begun = Instant::now();
    let events: Vec<_> = tokens.iter().map(|token| chat(token)).collect();
    let sending = tokio::spawn(async move {
        for event in events {
            upstream.send_data(event.into()).await.unwrap();
            sleep(gap).await;
        }
    });
    let (mut out, mut delays) = (String::new(), Vec::new());
    while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
        let frame = frame.unwrap().into_data().unwrap();
        let frame = std::str::from_utf8(&frame).unwrap();
        out += &joined(frame);
        for _ in frame.matches("data: ") {
            let sent = begun + gap * delays.len() as u32;
            delays.push(Instant::now() - sent);
        }
    }
    sending.await.unwrap();
    (out, delays)
}

fn median(delays: &[Duration]) -> Duration {
    let mut delays = delays.to_vec();
    delays.sort_unstable();
    delays[delays.len() / 2]
}

const GAPS: [u64; 7] = [0, 1, 20, 60, 150, 300, 500];

#[tokio::test(start_paused = true)]
async fn no_part_of_a_match_is_sent_at_any_speed() {
    for case in cases() {
        let text = format!("Ask {} or {0}; then ask {0}", case.secret);
        let expected = case.masked(&text);
        assert!(!expected.contains(case.secret), "{expected}");
        let window = case.window_with_patterns();
        for gap in GAPS {
            for size in 1..=20 {
                let gap = Duration::from_millis(gap);
                let (out, _) = stream(window.clone(), &tokens(&text, size), gap).await;
                assert_eq!(out, expected, "{}: {size} bytes every {gap:?}", case.name);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn event_is_sent_as_soon_as_its_text_cannot_begin_a_match() {
    for case in cases() {
        let window = case.window_with_patterns();
        for size in [1, 3, 8, 20] {
            let tokens = tokens(CLEAN, size);
            let gap = Duration::from_millis(60);
            let mut earliest = vec![None; tokens.len()];
            let mut text = String::new();
            for (n, token) in tokens.iter().enumerate() {
                text.push_str(token);
                let free = case.beginning(&text);
                for (of, at) in earliest.iter_mut().enumerate().take(n + 1) {
                    let end = (of + 1) * size;
                    if at.is_none() && end.min(CLEAN.len()) <= free {
                        *at = Some(gap * (n - of) as u32);
                    }
                }
            }
            let last = tokens.len();
            let expected: Vec<_> = earliest
                .into_iter()
                .enumerate()
                // The stream ends one gap after its last token.
                .map(|(n, at)| at.unwrap_or(gap * (last - n) as u32))
                .collect();
            let (out, delays) = stream(window.clone(), &tokens, gap).await;
            assert_eq!(out, CLEAN);
            assert_eq!(delays, expected, "{}: {size} bytes", case.name);
        }
    }
}

/// Prints a table of leaked bytes and delays: `cargo test --test intercept patterns_leak -- --nocapture`.
#[tokio::test(start_paused = true)]
async fn patterns_leak_nothing_and_delay_at_most_one_token() {
    println!(
        "5 bytes per token; leaked: bytes of matches that were sent; delay: median for clean text, in tokens"
    );
    println!(
        "{:12} {:>6} | {:>17} | {:>17} | {:>17}",
        "pattern", "ms", "overlap 64, 250ms", "overlap, 2 s", "patterns"
    );
    let mut median_delays: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for case in cases().into_iter().map(std::sync::Arc::new) {
        let text = format!("Ask {} or {0}; then ask {0}", case.secret);
        let expected = case.masked(&text);
        let new = case.window_with_patterns();
        for gap in GAPS.into_iter().skip(1) {
            let gap = Duration::from_millis(gap);
            let long = case
                .window_without_patterns()
                .overlap(case.longest)
                .max_delay(Duration::from_secs(2));
            let mut shown = Vec::new();
            for window in [case.window_without_patterns(), long, new.clone()] {
                let (out, _) = stream(window.clone(), &tokens(&text, 5), gap).await;
                let leaked = out.len().abs_diff(expected.len());
                let (_, delays) = stream(window, &tokens(CLEAN, 5), gap).await;
                let tokens = median(&delays).as_secs_f64() / gap.as_secs_f64();
                shown.push((leaked, tokens));
            }
            let cells: Vec<_> = shown
                .iter()
                .map(|(leaked, tokens)| format!("{leaked:>3} B {tokens:>6.1} tok"))
                .collect();
            println!(
                "{:12} {:>6} | {:>17} | {:>17} | {:>17}",
                case.name,
                gap.as_millis(),
                cells[0],
                cells[1],
                cells[2]
            );
            assert_eq!(shown[2].0, 0, "{}", case.name);
            median_delays.entry(case.name).or_default().push(shown[2].1);
        }
    }
    for (name, delays) in median_delays {
        // Every letter may begin an e-mail address, so a word waits for the next token.
        let most = if name == "e-mail" { 1.0 } else { 0.0 };
        assert!(
            delays.iter().all(|&tokens| tokens <= most),
            "{name}: {delays:?}"
        );
    }
}
