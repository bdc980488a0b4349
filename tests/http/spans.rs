//! The `tracing` span of an observed stream.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use crate::support::{
    Script, Step,
    origin::{get, settle},
    pass, rest, staged, subscribe, through,
};
use http_body_util::BodyExt;
use tower_sse_proxy::{Event, SseProxyLayer, replay::Replay};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

/// The layer's spans that have closed, and the spans in which `event in` was logged.
#[derive(Clone, Default)]
struct Spans {
    closed: Arc<Mutex<Vec<Fields>>>,
    open: Arc<Mutex<usize>>,
    logged_in: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Default)]
struct Fields(BTreeMap<&'static str, String>);

fn spans() -> (Spans, DefaultGuard) {
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    (spans, subscribe(subscriber))
}

impl Spans {
    /// The outcome of the one span that has closed since the last call, if it has the fields of [`layer`].
    fn closed(&self) -> String {
        assert_eq!(*self.open.lock().unwrap(), 0);
        let mut closed = std::mem::take(&mut *self.closed.lock().unwrap());
        assert_eq!(closed.len(), 1);
        let Fields(mut fields) = closed.remove(0);
        assert_eq!((&*fields["route"], &*fields["method"]), ("/chat", "GET"));
        fields.remove("outcome").unwrap()
    }

    fn open(&self) -> usize {
        *self.open.lock().unwrap()
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target() == "tower_sse_proxy" {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            context.span(id).unwrap().extensions_mut().insert(fields);
            *self.open.lock().unwrap() += 1;
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        if event.metadata().target() == "test" {
            let span = context.event_span(event);
            let name = span.map_or("none", |span| span.name());
            self.logged_in.lock().unwrap().push(name.to_owned());
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        if let Some(fields) = span.extensions().get::<Fields>() {
            self.closed.lock().unwrap().push(fields.clone());
            *self.open.lock().unwrap() -= 1;
        }
    }
}

/// A layer whose interceptor logs each event.
fn layer() -> SseProxyLayer {
    SseProxyLayer::default()
        .route("/chat")
        .intercept(|event: Event| {
            tracing::info!(target: "test", "event");
            event
        })
}

#[tokio::test(start_paused = true)]
async fn span_opens_with_the_stream_and_closes_with_its_outcome() {
    let (spans, _guard) = spans();
    let layer = layer().on_close(|_| {});
    through(&layer, "data: 1\n\n").await;
    assert_eq!(spans.closed(), "completed");
    rest(pass(&layer, Script::of(["data: 1\n\n"]).then(Step::Error)).await).await;
    assert_eq!(spans.closed(), "upstream_error");
    let mut body = pass(&layer, Script::of(["data: 1\n\n"]).then(Step::Never)).await;
    body.frame().await.unwrap().unwrap();
    assert_eq!(spans.open(), 1);
    drop(body);
    assert_eq!(spans.closed(), "client_left");
    let logged_in = spans.logged_in.lock().unwrap();
    assert_eq!(*logged_in, ["event_stream"; 3]);
}

#[tokio::test(start_paused = true)]
async fn span_of_a_recorded_stream_closes_before_its_log_is_dropped() {
    let (spans, _guard) = spans();
    let layer = layer().on_close(|_| {}).replay(Replay::default());
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    client.events(1).await;
    assert_eq!(spans.open(), 1);
    feed.end();
    client.rest().await;
    settle().await;
    assert!(layer.streams().retained_bytes() > 0);
    assert_eq!(spans.closed(), "completed");
    assert_eq!(*spans.logged_in.lock().unwrap(), ["event_stream"]);
}

#[tokio::test(start_paused = true)]
async fn stream_without_an_observer_has_no_span() {
    let (spans, _guard) = spans();
    through(&layer(), "data: 1\n\n").await;
    assert!(spans.closed.lock().unwrap().is_empty());
    assert_eq!(*spans.logged_in.lock().unwrap(), ["none"]);
}
