//! A gateway in front of an upstream that answers with event streams.
//!
//! ```sh
//! cargo run --example gateway                                   # with a demo upstream of its own
//! cargo run --example gateway -- --upstream https://example.com # in front of a real one
//! ```
//!
//! Every setting is a flag and an environment variable; `--help` lists them.

mod demo;
mod guard;
mod half_close;
mod line;
mod mcp;
mod path;
mod proxy;
mod routes;
mod server;
mod settings;
mod socket;
mod stall;
mod text;
mod ticker;
mod tunnel;

use std::{error::Error, process::ExitCode};

use clap::Parser;
use tower::Layer;
use tower_sse_proxy::{KeepAlive, Policy, codec::OversizedEvent};

use crate::{proxy::Upstream, settings::Settings};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // Whoever reads the log may be gone; to complain of that on stderr would panic.
        .log_internal_errors(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SSEP_LOG")
                .unwrap_or_else(|_| "warn,gateway=info".into()),
        )
        .init();
    let ended = match Settings::try_parse() {
        Ok(settings) => run(settings).await,
        Err(help) if !help.use_stderr() => help.exit(),
        Err(error) => Err(in_one_line(&error).into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is wrong with the settings, without the advice below it.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim);
    let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line}; --help lists the settings")
}

async fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    let upstream = settings.upstream()?;
    let policy = policy(&settings)?;
    let listener = server::bind(&settings.listen)?;
    let listen = listener.local_addr()?;
    let upstream = match upstream {
        Some(upstream) => upstream,
        None => {
            let upstream = demo::start(listen).await?;
            demo::print_what_to_try(listen);
            upstream
        }
    };
    tracing::info!("listening on {listen}, in front of {upstream}");
    let layer = routes::layer(policy, &settings, listen, &upstream)?;
    let service = layer.layer(Upstream::new(&upstream)?);
    server::serve(listener, service, &settings).await?;
    Ok(())
}

/// What is done with every event stream.
fn policy(settings: &Settings) -> Result<Policy, String> {
    // Streams are read even if nothing else is set, so that each frame ends between two blocks.
    let policy = Policy::default()
        .oversized_event(OversizedEvent::Fail)
        .max_event_bytes(settings.max_event_bytes);
    let mut policy = guard::install(policy, settings)?;
    if let Some(interval) = settings.keepalive() {
        policy = policy.keep_alive(KeepAlive::new(interval));
    }
    Ok(policy)
}
