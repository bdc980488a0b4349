//! A window makes the same decision about a JSON body as about the stream that the API sends instead.

use std::{
    convert::Infallible,
    sync::{Arc, LazyLock, Mutex},
};

use http::{Request, Response};
use http_body_util::BodyExt;
use proptest::{collection, prelude::*, sample::Index};
use serde_json::{Value, json};
use tower::service_fn;
use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::window::{Decision, Pattern, TextSegment, TextWindow, patterns},
};

use super::{
    CARD, cut,
    families::{FAMILIES, Family, events},
    no_cards,
};
use crate::support::{Script, cases, layer, pass, respond, rest};

/// The answer of an API without streaming, beside its stream.
struct Form {
    /// The index in [`FAMILIES`].
    family: usize,
    /// The body with two texts, each in these pieces.
    body: fn(&[Vec<String>; 2]) -> Value,
    /// Reads the two texts.
    read: fn(&Value) -> [String; 2],
    /// The text of the stream for a text of the body, and back.
    to_stream: fn(&str) -> String,
    from_stream: fn(&str) -> String,
}

fn same(text: &str) -> String {
    text.to_owned()
}

fn at(body: &Value, pointers: [&str; 2]) -> [String; 2] {
    pointers.map(|pointer| body.pointer(pointer).unwrap().as_str().unwrap().to_owned())
}

fn parts(pieces: &[String]) -> Vec<Value> {
    pieces.iter().map(|text| json!({ "text": text })).collect()
}

fn joined(parts: &Value, only: impl Fn(&Value) -> bool) -> String {
    let parts = parts.as_array().unwrap().iter().filter(|part| only(part));
    parts.map(|part| part["text"].as_str().unwrap()).collect()
}

const FORMS: [Form; 10] = [
    Form {
        family: 0,
        body: |texts| {
            let choice = |n: usize| json!({"index": n, "message": {"role": "assistant", "content": texts[n].concat()}, "finish_reason": "stop"});
            json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "choices": [choice(1), choice(0)]})
        },
        read: |body| {
            at(
                body,
                ["/choices/1/message/content", "/choices/0/message/content"],
            )
        },
        to_stream: same,
        from_stream: same,
    },
    Form {
        family: 1,
        body: |texts| {
            let choice = |n: usize| json!({"message": {"content": texts[n].concat()}});
            json!({"choices": [choice(0), choice(1)]})
        },
        read: |body| {
            at(
                body,
                ["/choices/0/message/content", "/choices/1/message/content"],
            )
        },
        to_stream: same,
        from_stream: same,
    },
    Form {
        family: 2,
        body: |texts| {
            let call = |n: usize| json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": texts[n].concat()}});
            json!({"choices": [{"index": 0, "message": {"content": null, "tool_calls": [call(0), call(1)]}}]})
        },
        read: |body| {
            let call = |n| format!("/choices/0/message/tool_calls/{n}/function/arguments");
            at(body, [&call(0), &call(1)])
        },
        to_stream: same,
        from_stream: same,
    },
    Form {
        family: 3,
        body: |texts| {
            let part = |n: usize| json!({"type": "output_text", "text": texts[n].concat(), "annotations": [], "logprobs": []});
            let item =
                |n| json!({"type": "message", "id": format!("msg_{n}"), "content": [part(n)]});
            json!({"id": "resp_1", "object": "response", "output": [item(0), item(1)]})
        },
        read: |body| {
            at(
                body,
                ["/output/0/content/0/text", "/output/1/content/0/text"],
            )
        },
        to_stream: same,
        from_stream: same,
    },
    Form {
        family: 4,
        body: |texts| {
            let block = |n: usize| json!({"type": "text", "text": texts[n].concat()});
            json!({"id": "msg_1", "type": "message", "content": [block(0), block(1)], "stop_reason": "end_turn"})
        },
        read: |body| at(body, ["/content/0/text", "/content/1/text"]),
        to_stream: same,
        from_stream: same,
    },
    // A tool input is JSON text in the stream, and JSON in the body.
    Form {
        family: 5,
        body: |texts| {
            let block = |n: usize| json!({"type": "tool_use", "id": "t", "name": "f", "input": {"q": [texts[n].concat()]}});
            json!({"content": [block(0), block(1)]})
        },
        read: |body| at(body, ["/content/0/input/q/0", "/content/1/input/q/0"]),
        to_stream: |text| json!({ "q": [text] }).to_string(),
        from_stream: |text| {
            let input: Value = serde_json::from_str(text).unwrap();
            input["q"][0].as_str().unwrap().to_owned()
        },
    },
    Form {
        family: 6,
        body: |texts| {
            let candidate = |n: usize| json!({"index": n, "content": {"role": "model", "parts": parts(&texts[n])}, "finishReason": "STOP"});
            json!({"candidates": [candidate(0), candidate(1)], "modelVersion": "m"})
        },
        read: |body| [0, 1].map(|n| joined(&body["candidates"][n]["content"]["parts"], |_| true)),
        to_stream: same,
        from_stream: same,
    },
    Form {
        family: 7,
        body: |texts| {
            let mut thoughts = parts(&texts[1]);
            thoughts
                .iter_mut()
                .for_each(|part| part["thought"] = true.into());
            let parts = [thoughts, parts(&texts[0])].concat();
            json!({"candidates": [{"content": {"parts": parts}}]})
        },
        read: |body| {
            let parts = &body["candidates"][0]["content"]["parts"];
            let is_thought = |part: &Value| part["thought"] == true;
            [
                joined(parts, |part| !is_thought(part)),
                joined(parts, is_thought),
            ]
        },
        to_stream: same,
        from_stream: same,
    },
    // Without `alt=sse`, Gemini sends the events of a stream as one array.
    Form {
        family: 6,
        body: |texts| {
            let event = |n: usize, text: &String| json!({"candidates": [{"index": n, "content": {"parts": [{"text": text}]}}]});
            let pieces = [0, 1].map(|n| texts[n].iter().map(move |text| event(n, text)));
            let [first, second] = pieces;
            Value::Array(first.chain(second).collect())
        },
        read: |body| {
            let mut texts = [String::new(), String::new()];
            for event in body.as_array().unwrap() {
                let candidate = &event["candidates"][0];
                let n = candidate["index"].as_u64().unwrap() as usize;
                texts[n] += candidate["content"]["parts"][0]["text"].as_str().unwrap();
            }
            texts
        },
        to_stream: same,
        from_stream: same,
    },
    // The tokens of `logprobs` are joined in both.
    Form {
        family: 3,
        body: |texts| {
            let item = |n: usize| {
                let tokens: Vec<_> = texts[n]
                    .iter()
                    .map(|token| json!({ "token": token }))
                    .collect();
                json!({"content": [{"type": "output_text", "text": texts[n].concat(), "logprobs": tokens}]})
            };
            json!({"output": [item(0), item(1)]})
        },
        read: |body| {
            at(
                body,
                ["/output/0/content/0/text", "/output/1/content/0/text"],
            )
        },
        to_stream: same,
        from_stream: same,
    },
];

/// The result of a window: the two texts, or that it blocked them.
type Decided = Option<[String; 2]>;

async fn of_body(layer: &SseProxyLayer, form: &Form, texts: &[Vec<String>; 2]) -> Decided {
    let body = (form.body)(texts).to_string();
    let (status, body) = inspected(layer, body).await;
    let read = |body: &str| (form.read)(&serde_json::from_str(body).unwrap());
    match status {
        200 => Some(read(&body)),
        403 => None,
        other => panic!("status {other}"),
    }
}

async fn inspected(layer: &SseProxyLayer, body: impl Into<String>) -> (u16, String) {
    let response = Response::builder().header("content-type", "application/json");
    let response = response.body(Script::of([body.into()])).unwrap();
    let (head, body) = respond(layer, Request::new(()), response)
        .await
        .into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        head.status.as_u16(),
        String::from_utf8(body.into()).unwrap(),
    )
}

async fn of_stream(layer: &SseProxyLayer, form: &Form, pieces: [Vec<String>; 2]) -> Decided {
    let family: Family = FAMILIES[form.family];
    let mut stream = String::new();
    for (n, pieces) in pieces.iter().enumerate() {
        pieces
            .iter()
            .for_each(|piece| stream += &family.event(n, piece));
        stream += &family.done(n, &pieces.concat()).unwrap_or_default();
    }
    let (out, failed) = rest(pass(layer, Script::of([stream])).await).await;
    failed
        .is_none()
        .then(|| family.read(&out).map(|text| (form.from_stream)(&text)))
}

/// Made once: patterns take a while.
static WINDOWS: LazyLock<[SseProxyLayer; 3]> = LazyLock::new(|| {
    let all = patterns([
        Pattern::phrase("secret plan").ignore_case().block(),
        Pattern::card_number().mask("[card]"),
        Pattern::email().mask("[e-mail]"),
    ]);
    let judge = |segment: &TextSegment| match segment.text.contains("secret plan") {
        true => Decision::Block,
        false => no_cards(segment),
    };
    let asked = service_fn(move |segment: TextSegment| async move {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(judge(&segment))
    });
    [
        TextWindow::new(all.unwrap()),
        TextWindow::new(judge).overlap(40),
        TextWindow::service(asked).overlap(40),
    ]
    .map(|window| layer(window).inspect_json(1 << 20))
});

fn paused() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap()
}

/// A text with matches and with beginnings of matches.
fn text(plain: &'static str) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => plain.prop_map(|text| text),
        2 => Just(format!("{CARD};")),
        1 => Just("4111 1111".to_owned()),
        1 => Just("bob@example.com, ".to_owned()),
        1 => Just("Secret plan".to_owned()),
        1 => Just("secret pla".to_owned()),
    ];
    collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat() + ".")
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn body_and_stream_get_the_same_decision(
        form in 0..FORMS.len(),
        texts in [text("[a-zA-Z \u{e4}\u{65e5}]{0,20}"), text("[a-z \u{1f600}]{0,9}")],
        escaped in text("[a-z\"\\\\\n/]{0,6}"),
        cuts in [collection::vec(any::<Index>(), 0..12), collection::vec(any::<Index>(), 0..12)],
    ) {
        let form = &FORMS[form];
        let [first, mut second] = texts;
        // A mask in JSON in a string may make it invalid, so the text of a tool input has no escapes.
        if (form.to_stream)("x") == "x" {
            second += &escaped;
        }
        let texts = [first, second];
        let pieces = [0, 1].map(|n| cut(&texts[n], &cuts[n]));
        let streamed = [0, 1].map(|n| cut(&(form.to_stream)(&texts[n]), &cuts[n]));
        for layer in &*WINDOWS {
            let (body, stream) = paused().block_on(async {
                let body = of_body(layer, form, &pieces).await;
                (body, of_stream(layer, form, streamed.clone()).await)
            });
            prop_assert_eq!(body, stream);
        }
    }

    #[test]
    fn any_document_gets_the_decision_of_an_event_with_it(document in document()) {
        let text = document.to_string();
        for layer in &*WINDOWS {
            let ((status, body), (out, failed)) = paused().block_on(async {
                let event = Event::new(&text).raw();
                (inspected(layer, text.clone()).await, rest(pass(layer, Script::of([event])).await).await)
            });
            prop_assert_eq!(status, if failed.is_some() { 403 } else { 200 });
            if failed.is_none() {
                prop_assert_eq!(&[body], &*events(&out));
            }
        }
    }
}

fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Value::from),
        Just(Value::Null),
        text("[a-z\"\\\\\n \u{e4}]{0,6}").prop_map(Value::from),
        text("[a-z]{0,3}").prop_map(|text| Value::from(json!([text]).to_string())),
    ];
    leaf.prop_recursive(5, 30, 5, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            collection::btree_map("[a-z\"]{0,5}", inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

#[tokio::test]
async fn text_of_a_body_has_the_channel_of_the_stream() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    for form in &FORMS[..8] {
        let channels_of = |noted: &Arc<Mutex<Vec<_>>>| {
            let noted: Vec<TextSegment> = std::mem::take(&mut noted.lock().unwrap());
            let of = noted
                .into_iter()
                .filter(|segment| segment.text.contains("needle"));
            let mut of: Vec<_> = of
                .map(|segment| (segment.channel, segment.complete))
                .collect();
            of.sort();
            of.dedup();
            of
        };
        let note = Arc::clone(&seen);
        let judge = move |segment: &TextSegment| {
            note.lock().unwrap().push(segment.clone());
            Decision::Pass
        };
        let layer = layer(TextWindow::new(judge)).inspect_json(1 << 20);
        let pieces = ["needle", "needle too"].map(|text| vec![text.to_owned()]);
        of_stream(
            &layer,
            form,
            pieces.clone().map(|text| vec![(form.to_stream)(&text[0])]),
        )
        .await;
        let streamed = channels_of(&seen);
        of_body(&layer, form, &pieces).await;
        let whole = channels_of(&seen);
        assert!(whole.iter().all(|(_, complete)| *complete));
        if form.family == 5 {
            assert!(whole.iter().all(|(channel, _)| channel.is_none()));
            continue;
        }
        let names = |of: Vec<(Option<String>, bool)>| -> Vec<_> {
            // The other channel of a text of the Responses API, and the text that it repeats at its end.
            let names = of.into_iter().filter_map(|(name, _)| name);
            let mut names: Vec<_> = names.filter(|name| !name.contains(" item ")).collect();
            names.dedup();
            names
        };
        assert_eq!(
            names(whole),
            names(streamed),
            "{}",
            FAMILIES[form.family].name
        );
    }
}

#[tokio::test]
async fn body_that_readers_may_read_differently_is_answered_with_502() {
    let [layer, ..] = &*WINDOWS;
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    for unreadable in [
        r#"{"a":1,"a":2}"#.to_owned(),
        r#"{"x":[{"a":1,"\u0061":2}]}"#.to_owned(),
        nested(33),
        nested(5000),
    ] {
        assert_eq!(inspected(layer, unreadable).await.0, 502);
    }
    // Not JSON: judged as text.
    for (body, expected) in [
        (
            "{\"a\":NaN,\"s\":\"bob@example.com\"}",
            Some("{\"a\":NaN,\"s\":\"[e-mail]\"}"),
        ),
        (
            "{\"a\":NaN,\"s\":\"\\u0062ob@example.com\"}",
            Some("{\"a\":NaN,\"s\":\"[e-mail]\"}"),
        ),
        ("[1] [\"secret plan\"]", None),
        ("{\"a\":NaN,\"s\":\"\\u0073ecret plan\"}", None),
    ] {
        let (status, body) = inspected(layer, body).await;
        match expected {
            Some(expected) => assert_eq!((status, &*body), (200, expected)),
            None => assert_eq!(status, 403),
        }
    }
    assert_eq!(inspected(layer, nested(32)).await, (200, nested(32)));
}

/// Results of MCP tools, a batch of them, and errors.
#[tokio::test]
async fn every_string_of_a_message_is_masked() {
    let [layer, ..] = &*WINDOWS;
    for form in [
        r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"@"}],"isError":false}}"#,
        r#"{"jsonrpc":"2.0","id":"a","result":{"structuredContent":{"rows":[[1,2.50,"@"]]},"content":[]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"contents":[{"uri":"f:///x","resource":{"text":"@"}}]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"@","data":{"n":18446744073709551617}}}"#,
        r#"[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","id":2,"result":{"content":[{"text":"@"}]}}]"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"text":"{\"a\":\"@\"}"}]}}"#,
        r#"{"detail":"@","status":500}"#,
    ] {
        let with = |text: &str| form.replace('@', text);
        assert_eq!(
            inspected(layer, with("bob@example.com")).await,
            (200, with("[e-mail]"))
        );
        assert_eq!(inspected(layer, with("bob")).await, (200, with("bob")));
        assert_eq!(inspected(layer, with("secret plan")).await.0, 403);
    }
    // A name is not a value.
    let name = r#"{"bob@example.com":1}"#;
    assert_eq!(inspected(layer, name).await, (200, name.to_owned()));
}

#[tokio::test]
async fn body_may_have_more_content_blocks_than_a_stream_has_channels() {
    let [layer, ..] = &*WINDOWS;
    let block = |text: &str| format!(r#"{{"type":"text","text":"{text}"}}"#);
    let body = |last: &str| {
        let blocks = [vec![block("x"); 3000], vec![block(last)]].concat();
        format!(r#"{{"content":[{}]}}"#, blocks.join(","))
    };
    let masked = inspected(layer, body("bob@example.com")).await;
    assert_eq!(masked, (200, body("[e-mail]")));
}
