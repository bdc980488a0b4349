//! A gateway for upstreams that respond with event streams.
//!
//! ```sh
//! cargo run --example gateway                                   # with the built-in demo upstream
//! cargo run --example gateway -- --upstream https://example.com # in front of a real upstream
//! ```
//!
//! Every setting is a flag and an environment variable; `--help` lists them.

mod admin;
mod chat;
#[path = "../forward/connector.rs"]
mod connector;
mod demo;
mod guard;
mod half_close;
#[path = "../forward/http_rules.rs"]
mod http_rules;
mod mcp;
mod metrics;
mod path;
mod proxy;
mod record_log;
mod relay;
mod routes;
mod server;
mod settings;
mod socket;
mod stall;
mod text;
mod ticker;
mod totals;
mod tunnel;

use std::{error::Error, process::ExitCode, sync::Arc};

use clap::Parser;
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{Layer, util::option_layer};
use tower_sse_proxy::observe::{DURATION_BUCKETS, Metrics};

use crate::{
    admin::Admin, proxy::Upstream, record_log::RecordLog, settings::Settings, totals::Totals,
};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // If stderr is closed, reporting the failed write on stderr would panic.
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

/// The message of a settings error in one line, without clap's usage text.
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
    let mut policy = guard::policy(&settings)?;
    // Before the public listener: a client that can reach that one can reach this one.
    let admin_listener = match &settings.admin_listen {
        Some(address) => Some(server::bind(address, "--admin-listen, SSEP_ADMIN_LISTEN")?),
        None => None,
    };
    let listener = server::bind(&settings.listen, "--listen, SSEP_LISTEN")?;
    let listen = listener.local_addr()?;
    let upstream = match upstream {
        Some(upstream) => upstream,
        None => {
            let upstream = demo::start(listen).await?;
            demo::print_commands(listen);
            policy = demo::guard(policy)?;
            upstream
        }
    };
    tracing::info!("listening on {listen}, in front of {upstream}");
    let layer = routes::layer(policy, &settings, listen, &upstream)?;
    let totals = Totals::default();
    let exporter = PrometheusBuilder::new()
        .set_buckets(&DURATION_BUCKETS)?
        .install_recorder()?;
    // Before the record log: whoever has read a record finds it counted.
    let mut layer = layer.observe(Metrics::new()).observe(totals.clone());
    if let Some(path) = &settings.record_log {
        let log = RecordLog::open(path, settings.node.clone());
        let log = log.map_err(|error| {
            format!("cannot write to {path} (--record-log, SSEP_RECORD_LOG): {error}")
        })?;
        layer = layer.observe(log);
    }
    let streams = layer.streams();
    if let Some(listener) = admin_listener {
        tracing::info!("admin routes on http://{}/", listener.local_addr()?);
        let admin = Admin {
            streams: streams.clone(),
            totals,
            metrics: Arc::new(metrics::render(exporter)),
            drain: settings.drain(),
        };
        tokio::spawn(admin::serve(listener, admin));
    }
    let heal = option_layer(mcp::healing(&settings));
    let service = layer.layer(heal.layer(Upstream::new(&upstream)?));
    server::serve(listener, service, streams, &settings).await?;
    Ok(())
}
