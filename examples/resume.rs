//! Answers of a language model that are paid for once, whatever becomes of the connection, and a button that stops them.
//!
//! ```sh
//! cargo run --example resume
//! curl -N -X POST http://127.0.0.1:3000/chat -H 'Authorization: Bearer ann'    # interrupt it, and come back to an id:
//! curl -N -X POST http://127.0.0.1:3000/chat -H 'Authorization: Bearer ann' -H "Last-Event-ID: $ID"
//! curl -i http://127.0.0.1:3000/stop -H 'Authorization: Bearer ann' -d "$ID"
//! ```
//!
//! A stream that was stopped cannot be resumed: the second command is answered with 410 then, and the model is not asked again.

use std::{convert::Infallible, error::Error, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{
        Response,
        sse::{self, Sse},
    },
    routing::post,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio_stream::wrappers::IntervalStream;
use tower_sse_proxy::{
    SseProxyLayer,
    replay::{EventId, Replay, Retention},
};

/// Who asks, as `login` has found.
#[derive(Clone)]
struct User(String);

/// In real life: checks the token. It is outside of the layer, so who comes back is checked too.
async fn login(mut request: Request, next: Next) -> Result<Response, StatusCode> {
    let token = request.headers().get(header::AUTHORIZATION);
    let user = token
        .and_then(|token| token.to_str().ok()?.strip_prefix("Bearer "))
        .ok_or(StatusCode::UNAUTHORIZED)?;
    let user = User(user.to_owned());
    request.extensions_mut().insert(user);
    Ok(next.run(request).await)
}

/// In real life: asks the model, which costs something.
async fn chat() -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    println!("asked, and paid");
    let pace = IntervalStream::new(tokio::time::interval(Duration::from_millis(300)));
    let words = (1..=100).map(|word| format!("word {word}"));
    let events = stream::iter(words.chain(["[DONE]".to_owned()])).zip(pace);
    Sse::new(events.map(|(word, _)| Ok(sse::Event::default().data(word))))
}

/// The body is an id of any event of the stream. Whoever knows one may stop it.
async fn stop(State(layer): State<SseProxyLayer>, id: String) -> StatusCode {
    match id.parse::<EventId>() {
        Ok(id) if layer.abort(id.stream()) => StatusCode::NO_CONTENT,
        _ => StatusCode::NOT_FOUND,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let replay = Replay::default()
        .retention(Retention::default().events(500))
        .grace_period(Duration::from_secs(30));
    let layer = SseProxyLayer::default()
        .owner(|request| Some(request.extensions.get::<User>()?.0.clone()))
        .replay(replay);
    let app = Router::new()
        .route("/chat", post(chat).layer(layer.clone()))
        .route("/stop", post(stop).with_state(layer))
        .layer(middleware::from_fn(login));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
