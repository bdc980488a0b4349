//! The settings: flags, or environment variables, or the crate's defaults.

use std::{
    convert::Infallible,
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use clap::Parser;
use http::{Uri, uri::Scheme};
use tower_sse_proxy::session::SealedKey;

/// A gateway in front of an upstream that answers with event streams.
#[derive(Debug, Parser)]
pub struct Settings {
    /// Where to listen: `host:port`.
    #[arg(long, env = "SSEP_LISTEN", default_value = "127.0.0.1:18080", value_parser = listen)]
    pub listen: Listen,

    /// The upstream: `http://host:port` or `https://host`. Unset: a demo upstream inside the gateway.
    #[arg(long, env = "SSEP_UPSTREAM")]
    upstream: Option<String>,

    /// Drop every event, comment or other block in which this text occurs.
    #[arg(long, env = "SSEP_DENY", value_parser = text)]
    pub deny: Option<String>,

    /// Replace the data of every event that contains this text ...
    #[arg(long, env = "SSEP_REWRITE_FROM", value_parser = text, requires = "rewrite_to")]
    pub rewrite_from: Option<String>,

    /// ... by this one; `\r`, `\n` and `\\` in it stand for CR, LF and a backslash.
    #[arg(long, env = "SSEP_REWRITE_TO")]
    rewrite_to: Option<String>,

    /// End a stream before the first letter of this text leaves, however it is split over events, escaped or nested in JSON.
    #[arg(long, env = "SSEP_WINDOW_DENY", value_parser = text)]
    pub window_deny: Option<String>,

    /// Replace each occurrence of this text by `***`, however it is split over events, escaped or nested in JSON.
    #[arg(long, env = "SSEP_WINDOW_MASK", value_parser = text)]
    pub window_mask: Option<String>,

    /// Panic at an event that contains this text (to see what becomes of the others).
    #[arg(long, env = "SSEP_PANIC", value_parser = text)]
    pub panic: Option<String>,

    /// Never decide about an event that contains this text.
    #[arg(long, env = "SSEP_HANG", value_parser = text)]
    pub hang: Option<String>,

    /// How long an interceptor may take to decide, in milliseconds.
    #[arg(long, env = "SSEP_INTERCEPT_TIMEOUT_MS")]
    intercept_timeout_ms: Option<u64>,

    /// The largest event, and the longest line, in bytes. What is done with one event is done at once, while other streams
    /// wait for the thread.
    #[arg(long, env = "SSEP_MAX_EVENT_BYTES", default_value_t = 1 << 20)]
    pub max_event_bytes: usize,

    /// Send a comment after this silence towards the client, in milliseconds.
    #[arg(long, env = "SSEP_KEEPALIVE_MS", value_parser = clap::value_parser!(u64).range(1..))]
    keepalive_ms: Option<u64>,

    /// How many events are kept of each stream on /r and the MCP routes, for clients that resume it. Unset: 1 MiB of events,
    /// however many they are.
    #[arg(long, env = "SSEP_REPLAY_EVENTS", value_parser = at_least_one)]
    pub replay_events: Option<usize>,

    /// Memory for the logs of all recorded streams together, in bytes; 256 MiB by default.
    #[arg(long, env = "SSEP_LOG_BYTES")]
    pub log_bytes: Option<usize>,

    /// How long such a stream lives on without a client, in milliseconds.
    #[arg(long, env = "SSEP_DETACH_MS")]
    detach_ms: Option<u64>,

    /// How many streams of one owner may live on without a client; above it the oldest of that owner ends. Unset: the crate's
    /// default.
    #[arg(long, env = "SSEP_MAX_DETACHED_PER_OWNER")]
    pub max_detached_per_owner: Option<usize>,

    /// The total age of a stream on /r, /f and the MCP routes, in milliseconds, however often clients resume it. Unset: a day.
    #[arg(long, env = "SSEP_WATCHDOG_AGE_MS", default_value_t = 24 * 60 * 60 * 1000)]
    watchdog_age_ms: u64,

    /// Where sessions are kept: `memory`, or `sealed:KEYFILE`, in the ids themselves, which every gateway with the key can read.
    /// The file holds 32 bytes in hex or base64.
    #[arg(long, env = "SSEP_STORE", default_value = "memory", value_parser = store)]
    pub store: Store,

    /// The MCP routes: prefixes of paths, with commas in between.
    #[arg(long, env = "SSEP_MCP_PATHS", default_value = "/m/,/mcp", value_delimiter = ',', value_parser = path)]
    pub mcp_paths: Vec<String>,

    /// The origins that may use the MCP routes, with commas in between. Unset: http on the address that is listened on and on
    /// localhost, with the port.
    #[arg(long, env = "SSEP_ALLOWED_ORIGINS", value_delimiter = ',', value_parser = trimmed)]
    pub allowed_origins: Option<Vec<String>>,

    /// The hosts, with their ports, that MCP routes may be asked by. Unset: the address that is listened on and localhost.
    #[arg(long, env = "SSEP_ALLOWED_HOSTS", value_delimiter = ',', value_parser = trimmed)]
    pub allowed_hosts: Option<Vec<String>>,

    /// A request head must be complete within this time, in milliseconds.
    #[arg(long, env = "SSEP_HEADER_TIMEOUT_MS", default_value_t = 15_000)]
    header_timeout_ms: u64,

    /// After SIGTERM or Ctrl-C, how long streams may go on, in milliseconds.
    #[arg(long, env = "SSEP_DRAIN_MS", default_value_t = 10_000)]
    drain_ms: u64,
}

impl Settings {
    /// The upstream's origin, if one was named.
    pub fn upstream(&self) -> Result<Option<Uri>, String> {
        let Some(upstream) = &self.upstream else {
            return Ok(None);
        };
        if upstream.contains('@') {
            // Not shown: it may be a password.
            return Err("--upstream (SSEP_UPSTREAM) has credentials in it, which are not sent; leave them out".into());
        }
        let wrong = |why: &str| {
            format!(
                "--upstream (SSEP_UPSTREAM) is `{upstream}`: {why}; it takes http://host:port or https://host"
            )
        };
        let uri: Uri = upstream
            .parse()
            .map_err(|error| wrong(&format!("{error}")))?;
        if uri.scheme() != Some(&Scheme::HTTP) && uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(wrong("its scheme is not http or https"));
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(wrong("it has no host"));
        }
        // A port that is no number of 16 bits is none at all to `Uri`.
        let authority = uri.authority().map(http::uri::Authority::as_str);
        if uri.port_u16().is_none() && authority != uri.host() {
            return Err(wrong("its port is not one"));
        }
        if uri.path_and_query().is_some_and(|path| path != "/") {
            return Err(wrong("it has a path"));
        }
        Ok(Some(uri))
    }

    pub fn rewrite_to(&self) -> String {
        unescape(self.rewrite_to.as_deref().unwrap_or_default())
    }

    pub fn intercept_timeout(&self) -> Option<Duration> {
        self.intercept_timeout_ms.map(Duration::from_millis)
    }

    pub fn linger(&self) -> Option<Duration> {
        self.detach_ms.map(Duration::from_millis)
    }

    pub fn max_age(&self) -> Duration {
        Duration::from_millis(self.watchdog_age_ms)
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

/// Where to listen.
#[derive(Clone, Debug)]
pub struct Listen {
    /// As it was set.
    pub name: String,
    /// What the name stands for, IPv4 first: a client that takes `localhost` for one address takes it for that of IPv4.
    pub addresses: Vec<SocketAddr>,
}

fn listen(value: &str) -> Result<Listen, String> {
    let wrong = |error| format!("{error}; it takes host:port, such as localhost:18080");
    let addresses = value.to_socket_addrs().map_err(wrong)?;
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let name = value.to_owned();
    Ok(Listen { name, addresses })
}

/// A place for sessions.
#[derive(Clone)]
pub enum Store {
    Memory,
    Sealed {
        key: SealedKey,
        /// The key as it stands in its file, for the owners of sessions: whoever opens a session has to know them too.
        text: String,
    },
}

/// Not the key.
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
        return Err("it takes `memory` or `sealed:KEYFILE`".into());
    };
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let text = text.trim().to_owned();
    let key = text.parse().map_err(|error| format!("{file}: {error}"))?;
    Ok(Store::Sealed { key, text })
}

fn at_least_one(value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(0) => Err("it takes at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

fn trimmed(value: &str) -> Result<String, Infallible> {
    Ok(value.trim().to_owned())
}

fn path(value: &str) -> Result<String, String> {
    let value = value.trim();
    if !value.starts_with('/') {
        return Err("a path begins with a slash".into());
    }
    Ok(value.to_owned())
}

/// A text to look for. An empty one would be found everywhere.
fn text(value: &str) -> Result<String, String> {
    if value.is_empty() {
        return Err("the text is empty; leave the setting out to switch it off".into());
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
