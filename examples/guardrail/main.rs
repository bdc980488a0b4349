//! A guardrail for language model responses: it masks card numbers and e-mail addresses, and blocks a phrase, in the streams and the
//! JSON bodies of four APIs.
//!
//! ```sh
//! cargo run --example guardrail
//! ```
//!
//! The upstream is a mock inside the program: it responds with the text of the request, a few letters per event. The guardrail is a
//! layer around it.

mod ending;
mod guard;
mod mock;

use std::{
    error::Error,
    io::{self, Write},
    net::SocketAddr,
};

use clap::Parser;
use tokio::net::TcpListener;

#[derive(Debug, Parser)]
struct Settings {
    /// The address with the guardrail.
    #[arg(long, env = "GUARDRAIL_LISTEN", default_value = "127.0.0.1:18081")]
    listen: SocketAddr,

    /// The address of the mock without the guardrail.
    #[arg(long, env = "GUARDRAIL_MOCK_LISTEN", default_value = "127.0.0.1:0")]
    mock_listen: SocketAddr,

    /// The phrase that ends a response.
    #[arg(long, env = "GUARDRAIL_BLOCK", default_value = "project nightingale")]
    block: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let settings = Settings::parse();
    let guard = guard::layer(&settings.block)?;
    let open = TcpListener::bind(settings.mock_listen).await?;
    let guarded = TcpListener::bind(settings.listen).await?;
    print_commands(guarded.local_addr()?, open.local_addr()?);

    let app = mock::router();
    tokio::try_join!(
        axum::serve(open, app.clone()).into_future(),
        axum::serve(guarded, app.layer(guard)).into_future(),
    )?;
    Ok(())
}

fn print_commands(guarded: SocketAddr, open: SocketAddr) {
    let ask = |path: &str, body: &str| {
        format!(
            "  curl -N 'http://{guarded}{path}' -H 'content-type: application/json' \\\n       -d '{body}'\n"
        )
    };
    let chat = r#"{"stream":true,"messages":[{"role":"user","content":"Pay with 4111 1111 1111 1111, or ask bob@example.com."}]}"#;
    let whole = chat.replace(r#""stream":true"#, r#""stream":false"#);
    let messages = r#"{"stream":true,"messages":[{"role":"user","content":"Tell me about project nightingale."}]}"#;
    let gemini = r#"{"contents":[{"parts":[{"text":"Pay with 5500-0000-0000-0004, please."}]}]}"#;
    // Writing fails if stdout is closed.
    let _ = write!(
        io::stdout(),
        "Try in another terminal (without the guardrail: {open}):\n{}{}{}{}",
        ask("/v1/chat/completions", chat),
        ask("/v1/chat/completions", &whole),
        ask("/v1/messages", messages),
        ask("/v1beta/models/mock:streamGenerateContent?alt=sse", gemini),
    );
}
