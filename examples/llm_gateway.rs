//! A gateway for model APIs, to start from: it guards answers in both shapes, lets clients resume and stop them, and limits and measures
//! all of it.
//!
//! ```sh
//! cargo run --example llm_gateway # with a mock as the upstream; prints commands to try
//! OPENAI_UPSTREAM=https://api.openai.com ANTHROPIC_UPSTREAM=https://api.anthropic.com cargo run --example llm_gateway
//! ```
//!
//! Clients use `http://127.0.0.1:3000/openai/v1` and `http://127.0.0.1:3000/anthropic` as base URLs, with their own API keys.

mod forward;
#[path = "gateway/metrics.rs"]
mod metrics;
#[path = "guardrail/mock.rs"]
mod mock;

use std::{env, error::Error, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract, http::StatusCode, routing};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::{net::TcpListener, signal};
use tower_sse_proxy::{
    KeepAlive, Policy, SseProxyLayer, Streams, Watchdog,
    intercept::window::{Pattern, PatternError, TextWindow, patterns},
    observe::{DURATION_BUCKETS, Metrics, StreamRecord},
    replay::{EventId, Replay, Retention},
    streams::CloseReason,
};

use forward::Forward;

const MIB: usize = 1 << 20;
const MINUTE: Duration = Duration::from_secs(60);

/// Shown at the start.
const TRY: &str = r#"Try in another terminal, also with "stream":false and without X-Resumable:
  curl -N http://127.0.0.1:3000/openai/v1/chat/completions -H 'authorization: Bearer ann' -H 'x-resumable: 1' -H 'content-type: application/json' \
    -d '{"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Pay with 4111 1111 1111 1111, or ask bob@example.com."}]}'
  curl -i -X DELETE http://127.0.0.1:3000/streams/ID # stops the answer that has an event with this id
  curl http://127.0.0.1:3001/metrics"#;

/// What happens to each answer, as a stream or as a JSON body.
fn guarded() -> Result<Policy, PatternError> {
    let card = Pattern::card_number().mask("[card]");
    let masks = patterns([card, Pattern::email().mask("[e-mail]")])?;
    // An upstream that hangs would keep its client and its connection forever.
    let watchdog = Watchdog::default()
        .head(2 * MINUTE)
        .first_content(5 * MINUTE)
        .content_gap(2 * MINUTE)
        .max_age(60 * MINUTE);
    Ok(Policy::default()
        .intercept(TextWindow::new(masks))
        .inspect_json(4 * MIB) // with `"stream": false`, the same answer is one JSON body
        .watchdog(watchdog)
        .max_event_bytes(MIB)
        // Proxies between here and the client close silent connections, often after 60 s.
        .keep_alive(KeepAlive::new(MINUTE / 4)))
}

/// Clients that can resume send `X-Resumable` with each request. The model continues for two minutes without them. For other clients,
/// such as the SDKs, that would be paid for in vain, and some fail at the priming event, which has an id and no data.
fn resumable(policy: Policy) -> Policy {
    let retention = Retention::default().bytes(4 * MIB).age(10 * MINUTE);
    let replay = Replay::default().retention(retention);
    // The priming event has the id to resume or stop with before the model says anything.
    policy.replay(replay.grace_period(2 * MINUTE).priming_event(None))
}

fn layer() -> Result<SseProxyLayer, PatternError> {
    let guarded = guarded()?;
    // The label in logs and metrics is a constant, because clients choose paths.
    let [openai, anthropic] = ["openai", "anthropic"].map(|route| {
        let policy = guarded.clone().route(route);
        (Arc::new(policy.clone()), Arc::new(resumable(policy)))
    });
    Ok(SseProxyLayer::default()
        // An owner is an API key, in `Authorization` or `X-Api-Key`. Only the owner of a stream can resume it.
        .max_streams_per_owner(20)
        .observe(Metrics::new())
        .on_close(log)
        .policy(move |request, _| {
            let api = request.extensions.get::<extract::NestedPath>();
            let is_anthropic = api.is_some_and(|api| api.as_str() == "/anthropic");
            let (plain, resumable) = if is_anthropic { &anthropic } else { &openai };
            let can_resume = request.headers.contains_key("x-resumable");
            Arc::clone(if can_resume { resumable } else { plain })
        }))
}

/// One line for each stream that has ended. It has no text of the answer, no path and no key.
fn log(record: &StreamRecord) {
    let model = record.model.as_ref();
    let usage = model.map(|model| model.usage).unwrap_or_default();
    tracing::info!(
        route = record.route.as_deref(),
        outcome = record.outcome.as_str(),
        model = model.and_then(|model| model.model.as_deref()),
        input_tokens = usage.input,
        output_tokens = usage.output,
        duration = ?record.duration,
        "answer ended"
    );
}

/// The stop button: `id` is the id of any event of the stream. It cancels the request to the model. Only a client that has received the
/// stream knows such an id, which has 128 random bits.
fn stop(streams: &Streams, id: &str) -> StatusCode {
    match id.parse::<EventId>() {
        Ok(id) if streams.close(id.stream(), CloseReason::Cancelled) > 0 => StatusCode::NO_CONTENT,
        _ => StatusCode::NOT_FOUND,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    tracing_subscriber::fmt().init();
    let mock = TcpListener::bind("127.0.0.1:0").await?;
    let mock_url = format!("http://{}", mock.local_addr()?);
    tokio::spawn(axum::serve(mock, mock::router()).into_future());
    let upstream = |name| Forward::to(&env::var(name).unwrap_or_else(|_| mock_url.clone()));

    let layer = layer()?;
    let streams = layer.streams(); // after the last setter
    let of_stop = streams.clone();
    let stop = async move |extract::Path(id): extract::Path<String>| stop(&of_stop, &id);
    let app = Router::new()
        .nest_service("/openai", upstream("OPENAI_UPSTREAM")?.behind(&layer))
        .nest_service("/anthropic", upstream("ANTHROPIC_UPSTREAM")?.behind(&layer))
        .route("/streams/{id}", routing::delete(stop));

    // A listener of its own, so that clients do not read the metrics.
    let exporter = PrometheusBuilder::new().set_buckets(&DURATION_BUCKETS)?;
    let render = metrics::render(exporter.install_recorder()?);
    let admin = Router::new().route("/metrics", routing::get(async move || render()));
    let admin_listener = TcpListener::bind("127.0.0.1:3001").await?;
    tokio::spawn(axum::serve(admin_listener, admin).into_future());

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("{TRY}");
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = signal::ctrl_c() => {} }
        // The server takes no new connections, and waits for all answers. After half a minute, this ends those that still run.
        tokio::spawn(streams.drain(MINUTE / 2));
    });
    Ok(server.await?)
}
