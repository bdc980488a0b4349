//! The gateway's text window settings: which texts wait, leave or are replaced.

use std::sync::Arc;

use clap::Parser;
use http::{Request, Response};
use serde_json::json;
use tower_sse_proxy::{ErrorKind, SseProxyLayer};

use crate::{
    gateway_guard,
    settings::Settings,
    support::{Script, Step, is_silent, next, open, pass, respond, rest},
};

const PHRASE: &str = "project nightingale";

fn layer_with(arguments: &[&str]) -> Result<SseProxyLayer, String> {
    let arguments = ["gateway"].iter().chain(arguments);
    let settings = Settings::try_parse_from(arguments).unwrap();
    let policy = Arc::new(gateway_guard::policy(&settings)?);
    Ok(SseProxyLayer::default().policy(move |_, _| Arc::clone(&policy)))
}

fn layer(setting: &str) -> SseProxyLayer {
    layer_with(&[setting, PHRASE]).unwrap()
}

fn chat(text: &str) -> String {
    let data = json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    format!("data: {data}\n\n")
}

#[tokio::test(start_paused = true)]
async fn text_that_cannot_begin_the_phrase_leaves_at_once() {
    for setting in ["--window-deny", "--window-mask"] {
        let (mut upstream, mut body) = open(&layer(setting)).await;
        for text in ["One", " p", "roper", " word of Project", " project n"] {
            upstream.send_data(chat(text).into()).await.unwrap();
            match text {
                // These are possible beginnings of the phrase.
                " p" | " project n" => assert!(is_silent(&mut body).await, "{setting}: {text}"),
                "roper" => assert_eq!(next(&mut body).await, chat(" p") + &chat("roper")),
                _ => assert_eq!(next(&mut body).await, chat(text)),
            }
        }
    }
}

#[tokio::test]
async fn denied_phrase_cuts_the_stream_before_its_first_letter() {
    let stream = [
        chat("About "),
        chat("proj"),
        chat("ect nightin"),
        chat("gale."),
    ];
    let (out, failed) = rest(pass(&layer("--window-deny"), Script::of(stream)).await).await;
    assert_eq!((out, failed), (chat("About "), Some(ErrorKind::Blocked)));
}

#[tokio::test]
async fn masked_phrase_is_replaced_with_case_sensitive_matching() {
    let stream = [
        chat("About proj"),
        chat("ect nightin"),
        chat("gale, not Project Nightingale."),
        // The text is in JSON within JSON, with escapes.
        "data: {\"arguments\":\"{\\\"q\\\":\\\"project \\\\u006eightingale\\\"}\"}\n\n".to_owned(),
    ];
    let (out, failed) = rest(pass(&layer("--window-mask"), Script::of(stream)).await).await;
    let expected = [
        chat("About ***"),
        chat(""),
        chat(", not Project Nightingale."),
        "data: {\"arguments\":\"{\\\"q\\\":\\\"***\\\"}\"}\n\n".to_owned(),
    ];
    assert_eq!((out, failed), (expected.concat(), None));
}

#[tokio::test]
async fn held_beginning_of_the_phrase_is_dropped_when_the_upstream_breaks() {
    for setting in ["--window-deny", "--window-mask"] {
        let steps = [chat("About "), chat("project night")].map(|event| Step::Data(event.into()));
        let steps = steps.into_iter().chain([Step::Error]);
        let (out, failed) = rest(pass(&layer(setting), Script::new(steps)).await).await;
        assert_eq!((out, failed), (chat("About "), Some(ErrorKind::Upstream)));
    }
}

#[tokio::test]
async fn events_of_the_largest_size_wait_for_the_end_of_the_phrase() {
    let large = "x".repeat(1_000_000) + "project ";
    for (setting, expected, failure) in [
        ("--window-deny", String::new(), Some(ErrorKind::Blocked)),
        (
            "--window-mask",
            chat(&("x".repeat(1_000_000) + "***")) + &chat("") + &chat("."),
            None,
        ),
    ] {
        // The window has to hold the three events until it has the last one.
        let stream = [chat(&large), chat("night"), chat("ingale.")];
        let pad = format!("data: {{\"pad\":\"{}\"}}\n\n", "y".repeat(100_000));
        let stream = [&stream[0], &pad, &stream[1], &pad, &stream[2]].map(String::clone);
        let (out, failed) = rest(pass(&layer(setting), Script::of(stream)).await).await;
        assert!(out.replace(&pad, "") == expected, "{setting}");
        assert_eq!(failed, failure);
    }
}

#[test]
fn too_long_phrase_is_an_error_that_contains_the_setting() {
    let long: String = ('\u{4e00}'..='\u{9000}').cycle().take(100_000).collect();
    for (argument, variable) in [
        ("--window-deny", "SSEP_WINDOW_DENY"),
        ("--window-mask", "SSEP_WINDOW_MASK"),
    ] {
        let error = layer_with(&[argument, &long]).unwrap_err();
        assert!(
            error.starts_with(variable) && !error.contains('\n'),
            "{error}"
        );
    }
}

#[tokio::test]
async fn json_body_is_inspected_up_to_the_size_of_the_setting() {
    let body = json!({"choices": [{"message": {"content": format!("About {PHRASE}.")}}]});
    let body = body.to_string();
    let size = body.len().to_string();
    let masked = body.replace(PHRASE, "***");
    for (arguments, expected) in [
        (&["--window-mask", PHRASE][..], Ok(&body)),
        (
            &["--window-mask", PHRASE, "--inspect-json-bytes", &size],
            Ok(&masked),
        ),
        (
            &["--window-deny", PHRASE, "--inspect-json-bytes", &size],
            Err(403),
        ),
        (&["--deny", PHRASE, "--inspect-json-bytes", &size], Err(403)),
        (&["--deny", PHRASE, "--inspect-json-bytes", "50"], Err(502)),
        (
            &["--panic", PHRASE, "--inspect-json-bytes", &size],
            Err(502),
        ),
    ] {
        let layer = layer_with(arguments).unwrap();
        let response = Response::builder().header("content-type", "application/json");
        let response = response.body(Script::of([body.clone()])).unwrap();
        let response = respond(&layer, Request::new(()), response).await;
        let status = response.status().as_u16();
        let (out, _) = rest(response.into_body()).await;
        match expected {
            Ok(expected) => assert_eq!((status, &out), (200, expected)),
            Err(expected) => assert_eq!(status, expected),
        }
        assert!(expected == Ok(&body) || !out.contains(PHRASE));
    }
}
