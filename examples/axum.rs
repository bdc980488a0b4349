//! An axum application with a layer that masks card numbers in its event streams.
//!
//! ```sh
//! cargo run --example axum
//! curl -N http://127.0.0.1:3000/chat      # tokens, with the card number masked
//! curl -N http://127.0.0.1:3000/raw/chat  # the same without the layer
//! ```

use std::{convert::Infallible, error::Error, time::Duration};

use axum::{
    Router,
    response::sse::{self, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio_stream::wrappers::IntervalStream;
use tower_sse_proxy::{Event, KeepAlive, SseProxyLayer};

async fn chat() -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let words = "Sure, the number is 4111-1111-1111-1111 , have fun.".split(' ');
    let pace = IntervalStream::new(tokio::time::interval(Duration::from_millis(200)));
    let events = stream::iter(words).zip(pace);
    Sse::new(events.map(|(word, _)| Ok(sse::Event::default().data(word))))
}

/// Masks the digits of an event with 13 or more digits, the length of a card number. (A number that is split over several events
/// needs a text window; see the example `guardrail`.)
fn mask_cards(mut event: Event) -> Event {
    let digits = event.data().chars().filter(char::is_ascii_digit).count();
    if digits >= 13 {
        let masked: String = event
            .data()
            .chars()
            .map(|c| if c.is_ascii_digit() { '*' } else { c })
            .collect();
        event.set_data(masked);
    }
    event
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let layer = SseProxyLayer::default()
        .intercept(mask_cards)
        .keep_alive(KeepAlive::new(Duration::from_secs(15)));
    let app = Router::new()
        .route("/chat", get(chat).layer(layer))
        .route("/raw/chat", get(chat));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
