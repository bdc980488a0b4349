//! The settings: each is a flag and an environment variable. Unset ones have the crate's defaults.

use std::{
    convert::Infallible,
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use clap::Parser;
use http::{Uri, uri::Scheme};
use tower_sse_proxy::{Watchdog, session::SealedKey};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A gateway for upstreams that respond with event streams.
#[derive(Debug, Parser)]
pub struct Settings {
    /// The address to listen on: `host:port`.
    #[arg(long, env = "SSEP_LISTEN", default_value = "127.0.0.1:18080", value_parser = listen)]
    pub listen: Listen,

    /// The upstream: `http://host:port` or `https://host`. Unset: the built-in demo upstream.
    #[arg(long, env = "SSEP_UPSTREAM")]
    upstream: Option<String>,

    /// Drop every event, comment or other block that contains this text.
    #[arg(long, env = "SSEP_DENY", value_parser = text)]
    pub deny: Option<String>,

    /// Replace the data of every event that contains this text ...
    #[arg(long, env = "SSEP_REWRITE_FROM", value_parser = text, requires = "rewrite_to")]
    pub rewrite_from: Option<String>,

    /// ... with this text; `\r`, `\n` and `\\` in it stand for CR, LF and a backslash.
    #[arg(long, env = "SSEP_REWRITE_TO")]
    rewrite_to: Option<String>,

    /// End a stream before the first letter of this text is sent, even if it is split over events, escaped or nested in JSON.
    #[arg(long, env = "SSEP_WINDOW_DENY", value_parser = text)]
    pub window_deny: Option<String>,

    /// Replace each occurrence of this text with `***`, even if it is split over events, escaped or nested in JSON.
    #[arg(long, env = "SSEP_WINDOW_MASK", value_parser = text)]
    pub window_mask: Option<String>,

    /// Panic at an event that contains this text (to test that other streams are not affected).
    #[arg(long, env = "SSEP_PANIC", value_parser = text)]
    pub panic: Option<String>,

    /// Never return a verdict for an event that contains this text (to test the time limit).
    #[arg(long, env = "SSEP_HANG", value_parser = text)]
    pub hang: Option<String>,

    /// Time limit for an interceptor's verdict, in milliseconds.
    #[arg(long, env = "SSEP_INTERCEPT_TIMEOUT_MS")]
    intercept_timeout_ms: Option<u64>,

    /// Maximal size of an event and of a line, in bytes. Processing an event blocks the other streams of its thread.
    #[arg(long, env = "SSEP_MAX_EVENT_BYTES", default_value_t = 1 << 20)]
    pub max_event_bytes: usize,

    /// Inspect JSON bodies up to this size, in decoded bytes, as event streams are: 403 if one is dropped or blocked, 502 if it is larger
    /// or cannot be read. Unset: they pass untouched.
    #[arg(long, env = "SSEP_INSPECT_JSON_BYTES")]
    pub inspect_json_bytes: Option<usize>,

    /// Send a comment when nothing was sent to the client for this time, in milliseconds.
    #[arg(long, env = "SSEP_KEEPALIVE_MS", value_parser = clap::value_parser!(u64).range(1..))]
    keepalive_ms: Option<u64>,

    /// Number of events to retain of each stream on /r and the MCP routes, for clients that resume it. Unset: up to 1 MiB of
    /// events.
    #[arg(long, env = "SSEP_REPLAY_EVENTS", value_parser = at_least_one)]
    pub replay_events: Option<usize>,

    /// Memory limit for the event logs of all recorded streams together, in bytes. Unset: 256 MiB.
    #[arg(long, env = "SSEP_LOG_BYTES")]
    pub log_bytes: Option<usize>,

    /// Grace period of a recorded stream without a client, in milliseconds.
    #[arg(long, env = "SSEP_DETACH_MS")]
    detach_ms: Option<u64>,

    /// Number of streams without a client per owner; above it, the oldest one of that owner ends. Unset: the crate's default.
    #[arg(long, env = "SSEP_MAX_DETACHED_PER_OWNER")]
    pub max_detached_per_owner: Option<usize>,

    /// Number of event streams with a client that are served at once; one more gets 503. Unset: no limit.
    #[arg(long, env = "SSEP_MAX_STREAMS")]
    pub max_streams: Option<usize>,

    /// Number of event streams with a client that are served to one owner at once. Unset: no limit.
    #[arg(long, env = "SSEP_MAX_STREAMS_PER_OWNER")]
    pub max_streams_per_owner: Option<usize>,

    /// End a stream without a response head after this time, in milliseconds. Unset: no limit.
    #[arg(long, env = "SSEP_WATCHDOG_HEAD_MS")]
    watchdog_head_ms: Option<u64>,

    /// End a stream without an event that has content after this time from its head on, in milliseconds. Unset: no limit.
    #[arg(long, env = "SSEP_WATCHDOG_FIRST_MS")]
    watchdog_first_ms: Option<u64>,

    /// End a stream after this time without a further event that has content, in milliseconds. Comments and pings have none.
    /// Unset: no limit.
    #[arg(long, env = "SSEP_WATCHDOG_GAP_MS")]
    watchdog_gap_ms: Option<u64>,

    /// Maximal age of a stream, in milliseconds; resuming does not extend it. Unset: a day on /r, /f and the MCP routes, no limit on
    /// others.
    #[arg(long, env = "SSEP_WATCHDOG_AGE_MS")]
    watchdog_age_ms: Option<u64>,

    /// `1`: the watchdogs report streams that exceed a limit, and do not end them.
    #[arg(long, env = "SSEP_WATCHDOG_OBSERVE", value_parser = switch, default_value = "0")]
    watchdog_observe: bool,

    /// Drop a client that takes nothing for this time, in milliseconds.
    #[arg(long, env = "SSEP_WRITE_STALL_MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    write_stall_ms: u64,

    /// Send the response head and comments if the upstream has not answered after this time, in milliseconds, to requests that accept
    /// event streams. Unset: never.
    #[arg(long, env = "SSEP_EARLY_HEAD_MS")]
    early_head_ms: Option<u64>,

    /// A second address to listen on, for the admin routes: /metrics, /streams, /drain, and the live page. Unset: none.
    #[arg(long, env = "SSEP_ADMIN_LISTEN", value_parser = listen)]
    pub admin_listen: Option<Listen>,

    /// A file, or `-` for stdout, to which the record of each ended stream is appended: one JSON object a line. Unset: none.
    #[arg(long, env = "SSEP_RECORD_LOG")]
    pub record_log: Option<String>,

    /// The name of this node in the records. Unset: none.
    #[arg(long, env = "SSEP_NODE", value_parser = text)]
    pub node: Option<String>,

    /// The session store: `memory`, or `sealed:KEYFILE`, which stores each session encrypted in its id, so that all gateways with
    /// this key can read it. The file contains 32 bytes in hex or base64.
    #[arg(long, env = "SSEP_STORE", default_value = "memory", value_parser = store)]
    pub store: Store,

    /// The MCP routes: path prefixes, separated by commas.
    #[arg(long, env = "SSEP_MCP_PATHS", default_value = "/m/,/mcp", value_delimiter = ',', value_parser = path)]
    pub mcp_paths: Vec<String>,

    /// `1`: heal an MCP session when the upstream answers 404 for it: repeat `initialize`, and requests that only read.
    #[arg(long, env = "SSEP_HEAL", value_parser = switch, default_value = "0")]
    pub heal: bool,

    /// Allowed origins of requests to MCP routes, separated by commas. Unset: http on the listen address and on localhost, with the
    /// port.
    #[arg(long, env = "SSEP_ALLOWED_ORIGINS", value_delimiter = ',', value_parser = trimmed)]
    pub allowed_origins: Option<Vec<String>>,

    /// Allowed hosts of requests to MCP routes, with ports, separated by commas. Unset: the listen address and localhost.
    #[arg(long, env = "SSEP_ALLOWED_HOSTS", value_delimiter = ',', value_parser = trimmed)]
    pub allowed_hosts: Option<Vec<String>>,

    /// Time limit for a complete request head, in milliseconds.
    #[arg(long, env = "SSEP_HEADER_TIMEOUT_MS", default_value_t = 15_000)]
    header_timeout_ms: u64,

    /// Time that running streams may continue after SIGTERM or Ctrl-C, in milliseconds.
    #[arg(long, env = "SSEP_DRAIN_MS", default_value_t = 10_000)]
    drain_ms: u64,
}

impl Settings {
    /// The upstream's origin, or `None` if the setting is unset.
    pub fn upstream(&self) -> Result<Option<Uri>, String> {
        let Some(upstream) = &self.upstream else {
            return Ok(None);
        };
        if upstream.contains('@') {
            // The message does not show the value, which may contain a password.
            return Err("--upstream (SSEP_UPSTREAM) contains credentials, which the gateway does not send; remove them".into());
        }
        let wrong = |why: &str| {
            format!(
                "--upstream (SSEP_UPSTREAM) is `{upstream}`: {why}; expected http://host:port or https://host"
            )
        };
        let uri: Uri = upstream
            .parse()
            .map_err(|error| wrong(&format!("{error}")))?;
        if uri.scheme() != Some(&Scheme::HTTP) && uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(wrong("the scheme is not http or https"));
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(wrong("the host is missing"));
        }
        // `Uri` returns no port if the port is not a 16-bit number.
        let authority = uri.authority().map(http::uri::Authority::as_str);
        if uri.port_u16().is_none() && authority != uri.host() {
            return Err(wrong("the port is invalid"));
        }
        if uri.path_and_query().is_some_and(|path| path != "/") {
            return Err(wrong("a path is not supported"));
        }
        Ok(Some(uri))
    }

    pub fn rewrite_to(&self) -> String {
        unescape(self.rewrite_to.as_deref().unwrap_or_default())
    }

    pub fn intercept_timeout(&self) -> Option<Duration> {
        self.intercept_timeout_ms.map(Duration::from_millis)
    }

    pub fn grace_period(&self) -> Option<Duration> {
        self.detach_ms.map(Duration::from_millis)
    }

    /// The maximal age of a recorded stream.
    pub fn max_age(&self) -> Duration {
        self.watchdog_age_ms.map_or(DAY, Duration::from_millis)
    }

    pub fn write_stall(&self) -> Duration {
        Duration::from_millis(self.write_stall_ms)
    }

    pub fn early_head(&self) -> Option<Duration> {
        self.early_head_ms.map(Duration::from_millis)
    }

    /// The watchdogs of the settings.
    pub fn watchdog(&self) -> Watchdog {
        let mut watchdog = Watchdog::default()
            .write_stall(self.write_stall())
            .observe_only(self.watchdog_observe);
        let limit = |limit: Option<u64>| limit.map(Duration::from_millis);
        if let Some(head) = limit(self.watchdog_head_ms) {
            watchdog = watchdog.head(head);
        }
        if let Some(first) = limit(self.watchdog_first_ms) {
            watchdog = watchdog.first_content(first);
        }
        if let Some(gap) = limit(self.watchdog_gap_ms) {
            watchdog = watchdog.content_gap(gap);
        }
        if let Some(age) = limit(self.watchdog_age_ms) {
            watchdog = watchdog.max_age(age);
        }
        watchdog
    }

    pub fn keepalive(&self) -> Option<Duration> {
        self.keepalive_ms.map(Duration::from_millis)
    }

    pub fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

/// The address to listen on.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The value of the setting.
    pub name: String,
    /// The resolved addresses, IPv4 first: a client that resolves `localhost` to one address uses IPv4.
    pub addresses: Vec<SocketAddr>,
}

fn listen(value: &str) -> Result<Listen, String> {
    let wrong = |error| format!("{error}; expected host:port, such as localhost:18080");
    let addresses = value.to_socket_addrs().map_err(wrong)?;
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let name = value.to_owned();
    Ok(Listen { name, addresses })
}

/// The session store.
#[derive(Clone)]
pub enum Store {
    Memory,
    Sealed {
        key: SealedKey,
        /// The text of the key file, from which the owner key is derived: gateways that share sessions must compute equal owners.
        text: String,
    },
}

/// Does not show the key.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Store::Memory => "memory",
            Store::Sealed { .. } => "sealed",
        })
    }
}

fn store(value: &str) -> Result<Store, String> {
    if value == "memory" {
        return Ok(Store::Memory);
    }
    let Some(file) = value.strip_prefix("sealed:") else {
        return Err("expected `memory` or `sealed:KEYFILE`".into());
    };
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let text = text.trim().to_owned();
    let key = text.parse().map_err(|error| format!("{file}: {error}"))?;
    Ok(Store::Sealed { key, text })
}

fn at_least_one(value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(0) => Err("expected at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("expected `1` or `0`".into()),
    }
}

fn trimmed(value: &str) -> Result<String, Infallible> {
    Ok(value.trim().to_owned())
}

fn path(value: &str) -> Result<String, String> {
    let value = value.trim();
    if !value.starts_with('/') {
        return Err("a path must begin with a slash".into());
    }
    Ok(value.to_owned())
}

/// Parses a text to search for. Rejects the empty text, which every event contains.
fn text(value: &str) -> Result<String, String> {
    if value.is_empty() {
        return Err("the text is empty; leave the setting unset to disable it".into());
    }
    Ok(value.to_owned())
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let stands_for = match (c, chars.peek()) {
            ('\\', Some('r')) => '\r',
            ('\\', Some('n')) => '\n',
            ('\\', Some('\\')) => '\\',
            _ => {
                plain.push(c);
                continue;
            }
        };
        chars.next();
        plain.push(stands_for);
    }
    plain
}
