//! Each verdict has its documented effect, on its own block and stream only. Interceptors run in the order of their installation.

use std::sync::Arc;

use crate::support::{
    Note, Script, event, event_stream, layer, next, open, pass, respond, rest, through, witness,
};
use http::Request;
use tower_sse_proxy::{
    Event, Policy,
    codec::Block,
    intercept::{Interceptor, MakeInterceptor, StreamEnd, StreamHead, Verdict},
};

fn appending(letter: char) -> impl Fn(Event) -> Event + Send + Sync + 'static {
    move |mut event| {
        event.set_data(format!("{}{letter}", event.data()));
        event
    }
}

#[tokio::test]
async fn later_interceptor_sees_the_output_of_earlier_ones() {
    let layer = layer(appending('a'))
        .intercept(|event: Event| (event.data() != "xa").then_some(event))
        .intercept(appending('b'))
        .intercept(|event: Event| vec![event.clone(), event])
        .intercept(appending('c'));
    let (out, failed) = through(&layer, "data: 1\n\ndata: x\n\ndata: 2\n\n").await;
    assert_eq!(
        out,
        ["1abc", "1abc", "2abc", "2abc"]
            .map(|data| format!("data: {data}\n\n"))
            .concat()
    );
    assert_eq!(failed, None);
}

#[tokio::test]
async fn r30_each_verdict_has_its_effect() {
    let decide = |event: Event| match &*event.data() {
        "drop" | "hold" => Verdict::Drop,
        "none" => Verdict::Replace(vec![]),
        "two" => vec![Event::new("2"), Event::new("3")].into(),
        "comment" => Block::comment("c").into(),
        "later" => Verdict::defer(async { Ok(Event::new("later and edited")) }),
        "twice" => {
            Verdict::defer(async { Ok(Verdict::defer(async { Ok(vec![Event::new("t")]) })) })
        }
        "end" => Verdict::End(vec![Event::new("last words").into()]),
        _ => event.into(),
    };
    for (text, out) in [
        (
            "id: 1\ndata: x\n\ndata: y\n\n",
            "id: 1\ndata: x\n\ndata: y\n\n",
        ),
        ("id: 1\ndata: drop\n\ndata: y\n\n", "data: y\n\n"),
        ("data: none\n\ndata: y\n\n", "data: y\n\n"),
        (
            "data: two\n\ndata: y\n\n",
            "data: 2\n\ndata: 3\n\ndata: y\n\n",
        ),
        ("data: comment\n\n", ": c\n\n"),
        (
            "data: later\n\ndata: y\n\n",
            "data: later and edited\n\ndata: y\n\n",
        ),
        ("data: twice\n\ndata: y\n\n", "data: t\n\ndata: y\n\n"),
        (
            "data: x\n\ndata: end\n\ndata: y\n\n",
            "data: x\n\ndata: last words\n\n",
        ),
    ] {
        assert_eq!(through(&layer(decide), text).await, (out.into(), None));
    }
}

/// An LF that arrives after the CR that ended an event belongs to that event, and leaves only with the unchanged event.
#[tokio::test]
async fn line_feed_of_a_dropped_or_changed_event_is_removed() {
    let decide = |event: Event| match &*event.data() {
        "drop" => Verdict::Drop,
        "edit" => appending('!')(event).into(),
        "replace" => Event::new("other").into(),
        _ => event.into(),
    };
    for (data, out) in [
        ("drop", ""),
        ("edit", "data: edit!\n\n"),
        ("replace", "data: other\n\n"),
        ("forward", "data: forward\r\n\r\n"),
    ] {
        let text = format!("data: {data}\r\n\r");
        let script = Script::of([text, "\ndata: y\n\n".into()]);
        let (all, failed) = rest(pass(&layer(decide), script).await).await;
        assert_eq!((all, failed), (format!("{out}data: y\n\n"), None));
    }
}

#[tokio::test]
async fn id_moves_to_the_last_replacement() {
    let with_id = |id: &str, data: &str| {
        let mut event = Event::new(data);
        event.set_id(id).unwrap();
        event
    };
    let replace = move |event: Event| match &*event.data() {
        "two" => vec![Event::new("a"), Event::new("b")].into(),
        "later" => Verdict::defer(async { Ok(vec![Event::new("a"), Event::new("b")]) }),
        "own" => vec![with_id("9", "a"), Event::new("b")].into(),
        "none" => Verdict::Replace(vec![]),
        _ => event.into(),
    };
    for (text, out) in [
        ("id: 7\ndata: two\n\n", "data: a\n\nid: 7\ndata: b\n\n"),
        ("data: later\nid: 7\n\n", "data: a\n\nid: 7\ndata: b\n\n"),
        ("id: 7\ndata: own\n\n", "id: 9\ndata: a\n\ndata: b\n\n"),
        ("id: 7\ndata: none\n\ndata: x\n\n", "data: x\n\n"),
        ("id\ndata: two\n\n", "data: a\n\nid: \ndata: b\n\n"),
        ("data: two\n\n", "data: a\n\ndata: b\n\n"),
    ] {
        assert_eq!(through(&layer(replace), text).await.0, out);
    }
}

/// The id must be sent even if the last replacement is a comment: a client that is cut off afterwards resumes from that id.
#[tokio::test]
async fn id_is_sent_if_the_last_replacement_is_a_comment() {
    let replace = |event: Event| vec![event_without_id(event).into(), Block::comment("noted")];
    let (out, _) = through(&layer(replace), "id: 7\ndata: x\n\n").await;
    assert!(out.contains("id: 7\n"), "{out:?}");
}

fn event_without_id(mut event: Event) -> Event {
    event.remove_id();
    event
}

#[tokio::test]
async fn each_stream_has_separate_interceptor_state() {
    let numbering = |_: &StreamHead<'_>| {
        let mut count = 0;
        Some(move |mut event: Event| {
            count += 1;
            event.set_data(format!("{count}. {}", event.data()));
            event
        })
    };
    let layer = layer(numbering);
    let ((mut one, mut first), (mut two, mut second)) = (open(&layer).await, open(&layer).await);
    for n in 1..4 {
        for (upstream, body) in [(&mut one, &mut first), (&mut two, &mut second)] {
            upstream.send_data(event("x")).await.unwrap();
            assert_eq!(next(body).await, format!("data: {n}. x\n\n"));
        }
    }
}

/// Opens an interceptor only for streams with a certain path and status.
struct ForPathAndStatus;

impl MakeInterceptor for ForPathAndStatus {
    fn open(&self, head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
        let chosen = head.request.uri.path() == "/chosen" && head.response.status == 200;
        chosen.then(|| Box::new(appending('!')) as _)
    }
}

#[tokio::test]
async fn interceptor_selects_streams_and_policy_selects_requests() {
    let strict = Arc::new(Policy::default().intercept(|_: Event| Verdict::Drop));
    // If the function chooses no other policy, the layer's default policy applies, whatever the order of the builder calls.
    let layer = layer(ForPathAndStatus).policy(move |request, default| {
        let is_strict = request.headers.contains_key("x-strict");
        if is_strict {
            Arc::clone(&strict)
        } else {
            default
        }
    });
    for (path, strict, status, out) in [
        ("/chosen", false, 200, "data: 1!\n\n"),
        ("/chosen", false, 500, "data: 1\n\n"),
        ("/other", false, 200, "data: 1\n\n"),
        ("/chosen", true, 200, ""),
    ] {
        let mut request = Request::get(path);
        if strict {
            request = request.header("x-strict", "");
        }
        let mut response = event_stream(Script::of(["data: 1\n\n"]));
        *response.status_mut() = status.try_into().unwrap();
        let response = respond(&layer, request.body(()).unwrap(), response).await;
        assert_eq!(rest(response.into_body()).await, (out.into(), None));
    }
}

#[tokio::test]
async fn stripped_comments_do_not_reach_interceptors() {
    let (witness, mut notes) = witness();
    let layer = layer(witness).strip_comments(true);
    let text = ": a\n: b\n\ndata: 1\n: c\nid: 2\n\n:\r\n";
    assert_eq!(
        through(&layer, text).await,
        ("\ndata: 1\nid: 2\n\n".into(), None)
    );
    let seen = [
        Note::Block("\n".into()),
        Note::Event("1".into()),
        Note::Complete,
    ];
    assert_eq!(notes.until_dropped().await, seen);
}

/// Holds every event, ends the stream at the event `end`, and returns the held events from `end`.
#[derive(Default)]
struct HoldsUntilEnd(Vec<Block>);

impl Interceptor for HoldsUntilEnd {
    fn event(&mut self, event: Event) -> Verdict {
        if event.data() == "end" {
            return Verdict::end([Event::new("last word")]);
        }
        self.0.push(event.into());
        Verdict::Hold
    }

    fn end(&mut self, _end: StreamEnd<'_>) -> Verdict {
        std::mem::take(&mut self.0).into()
    }
}

#[tokio::test]
async fn interceptor_that_ends_the_stream_gets_no_end_call() {
    let layer = layer(|_: &StreamHead<'_>| Some(HoldsUntilEnd::default()));
    let out = through(&layer, "data: held\n\ndata: end\n\ndata: more\n\n").await;
    assert_eq!(out, ("data: last word\n\n".into(), None));
}

#[tokio::test]
async fn boxed_interceptors_can_be_installed() {
    let choose = |head: &StreamHead<'_>| -> Option<Box<dyn Interceptor>> {
        match head.request.uri.path() {
            "/" => Some(Box::new(appending('!'))),
            _ => Some(Box::new(HoldsUntilEnd::default())),
        }
    };
    let boxed: Box<dyn MakeInterceptor> = Box::new(choose);
    let out = through(&layer(boxed), "data: 1\n\n").await;
    assert_eq!(out, ("data: 1!\n\n".into(), None));
}
