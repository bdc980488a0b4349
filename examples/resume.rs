//! Language model responses that survive a broken connection: the client resumes the stream, and the model is called only once. A
//! second route stops a stream.
//!
//! ```sh
//! cargo run --example resume
//! curl -N -X POST http://127.0.0.1:3000/chat -H 'Authorization: Bearer ann'    # interrupt it, and resume after an id:
//! curl -N -X POST http://127.0.0.1:3000/chat -H 'Authorization: Bearer ann' -H "Last-Event-ID: $ID"
//! curl -i http://127.0.0.1:3000/stop -H 'Authorization: Bearer ann' -d "$ID"
//! ```
//!
//! A stopped stream cannot be resumed: the second command then gets 410, and the model is not called again.

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
    SseProxyLayer, Streams,
    replay::{EventId, Replay, Retention},
    streams::CloseReason,
};

/// The user that `login` has authenticated.
#[derive(Clone)]
struct User(String);

/// Stands for a check of the token. It runs outside of the layer, so it checks resume requests too.
async fn login(mut request: Request, next: Next) -> Result<Response, StatusCode> {
    let token = request.headers().get(header::AUTHORIZATION);
    let user = token
        .and_then(|token| token.to_str().ok()?.strip_prefix("Bearer "))
        .ok_or(StatusCode::UNAUTHORIZED)?;
    let user = User(user.to_owned());
    request.extensions_mut().insert(user);
    Ok(next.run(request).await)
}

/// Stands for a call of a model, which costs money.
async fn chat() -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    println!("model called");
    let pace = IntervalStream::new(tokio::time::interval(Duration::from_millis(300)));
    let words = (1..=100).map(|word| format!("word {word}"));
    let events = stream::iter(words.chain(["[DONE]".to_owned()])).zip(pace);
    Sse::new(events.map(|(word, _)| Ok(sse::Event::default().data(word))))
}

/// Stops a stream. The request body is the id of any event of the stream. Any user who knows an id may stop the stream.
async fn stop(State(streams): State<Streams>, id: String) -> StatusCode {
    match id.parse::<EventId>() {
        Ok(id) if streams.close(id.stream(), CloseReason::Cancelled) > 0 => StatusCode::NO_CONTENT,
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
        .route("/stop", post(stop).with_state(layer.streams()))
        .layer(middleware::from_fn(login));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
