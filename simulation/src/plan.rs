//! The random plan of a run: settings of the layer, upstream streams, clients, networks and failures.

use std::time::Duration;

use tower_sse_proxy::replay::{Retention, StartAt};

use crate::net::LinkSettings;

#[derive(Clone, Debug)]
pub struct Plan {
    pub chaos: Duration,
    /// The retention is larger than any stream and longer than any run, so that a client must never get a gap.
    pub is_roomy: bool,
    pub retention: Retention,
    pub max_replay_bytes: usize,
    pub grace_period: Duration,
    pub max_detached_bytes: u64,
    pub max_age: Option<Duration>,
    pub detaches: bool,
    pub gap_status: bool,
    pub priming_event: bool,
    pub by_query: bool,
    pub authorize: Option<Duration>,
    pub keep_alive: bool,
    pub hold: bool,
    pub defer: bool,
    pub strip_comments: bool,
    pub upstream_restarts: Vec<Restart>,
    pub gateway_crashes: Vec<Restart>,
    pub streams: Vec<Stream>,
    pub clients: Vec<Client>,
    pub to_upstream: LinkProfile,
    pub thieves: bool,
    /// Where a client joins a shared stream. `None` disables sharing.
    pub share_from: Option<StartAt>,
    /// Whether the layer reconnects when the upstream connection breaks.
    pub reconnects: bool,
    /// Whether the layer resumes at the upstream after a clean end.
    pub continue_after_end: bool,
}

#[derive(Clone, Debug)]
pub struct Restart {
    pub at: Duration,
    pub down_for: Duration,
    pub forgets: bool,
}

#[derive(Clone, Debug)]
pub struct Stream {
    pub events: usize,
    pub ids: bool,
    pub resumes: Resumes,
    /// The most new events before a response ends early, so that the client has to poll again.
    pub polls_after: Option<usize>,
    /// Whether the last event says that the stream is complete.
    pub has_terminal_event: bool,
    pub size: usize,
    pub pace: Duration,
    /// One of this many events is denied.
    pub denied: Option<usize>,
    /// One of this many responses is cut.
    pub cut: usize,
    pub line_end: &'static str,
    pub comments: bool,
    pub unfinished: bool,
    pub head_delay: Duration,
}

/// Where the upstream's response to a resume starts.
#[derive(Clone, Copy, Debug)]
pub enum Resumes {
    After,
    Overlapping,
    FromTheStart,
}

#[derive(Clone, Debug)]
pub struct Client {
    pub stream: usize,
    pub owner: usize,
    pub is_get: bool,
    pub starts_at: Duration,
    pub retry: Duration,
    /// The longest pause between two reads.
    pub slow: Option<Duration>,
    /// The longest time until the client disconnects, during the chaos phase.
    pub max_stay: Duration,
    /// The number of responses after which the client stops.
    pub stops_after: Option<usize>,
    pub link_profile: LinkProfile,
    /// Whether the client sends one more request when it has all events.
    pub resumes_when_complete: bool,
    /// Whether the client opens a second connection in the middle of a stream.
    pub mirrors: bool,
}

/// The behavior of all connections of one kind.
#[derive(Clone, Debug)]
pub struct LinkProfile {
    pub delay: Duration,
    pub notice: Duration,
    pub buffer: usize,
    pub packet: usize,
    /// One of this many connections breaks.
    pub breaks: usize,
}

impl LinkProfile {
    fn new(rng: &mut fastrand::Rng) -> Self {
        Self {
            delay: ms(pick(rng, &[0, 1, 30, 400])),
            notice: ms(pick(rng, &[0, 50, 3000, 60_000])),
            buffer: pick(rng, &[4000, 16_000, 64_000]),
            packet: pick(rng, &[7, 100, 1400, 64_000]),
            breaks: pick(rng, &[1, 2, 3, 1000]),
        }
    }

    /// Without delays and failures.
    pub fn reliable() -> Self {
        Self {
            delay: Duration::ZERO,
            notice: Duration::ZERO,
            buffer: 64_000,
            packet: 64_000,
            breaks: 1,
        }
    }

    pub fn settings(&self, rng: &mut fastrand::Rng, chaos: bool) -> LinkSettings {
        let breaks = chaos && rng.usize(0..self.breaks) == 0;
        let limit = |rng: &mut fastrand::Rng, most: u64| {
            let most = [most / 30 + 2, most / 4 + 2, most][rng.usize(0..3)];
            Some(rng.u64(1..=most))
        };
        let breaks_after = match (breaks, rng.usize(0..6)) {
            (false, _) => [None; 2],
            // Breaks inside the request.
            (true, 0) => [limit(rng, 400), None],
            (true, _) => [None, limit(rng, 20_000)],
        };
        LinkSettings {
            delay: self.delay,
            notice: self.notice,
            buffer: self.buffer,
            packet: self.packet,
            breaks_after,
        }
    }
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

pub fn pick<T: Clone>(rng: &mut fastrand::Rng, values: &[T]) -> T {
    values[rng.usize(0..values.len())].clone()
}

fn maybe(rng: &mut fastrand::Rng, one_in: usize) -> bool {
    rng.usize(0..one_in) == 0
}

pub const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Plan {
    pub fn new(rng: &mut fastrand::Rng) -> Self {
        let chaos = Duration::from_secs(rng.u64(5..90));
        let is_roomy = rng.bool();
        let restarts = |rng: &mut fastrand::Rng, most: usize| -> Vec<Restart> {
            let number = rng.usize(0..=most);
            let mut all: Vec<_> = (0..number)
                .map(|_| Restart {
                    at: chaos.mul_f64(rng.f64()),
                    down_for: ms(rng.u64(0..8000)),
                    forgets: maybe(rng, 2),
                })
                .collect();
            all.sort_by_key(|restart| restart.at);
            all
        };
        let streams: Vec<_> = (0..rng.usize(1..4))
            .map(|_| {
                let ids = rng.usize(0..3) > 0;
                Stream {
                    events: pick(rng, &[3, 20, 60, 150]),
                    ids,
                    resumes: pick(
                        rng,
                        &[Resumes::After, Resumes::Overlapping, Resumes::FromTheStart],
                    ),
                    polls_after: (ids && rng.bool()).then(|| rng.usize(1..20)),
                    has_terminal_event: maybe(rng, 2),
                    size: pick(rng, &[0, 30, 300, 3000]),
                    pace: ms(pick(rng, &[0, 5, 100, 1000])),
                    denied: maybe(rng, 2).then(|| rng.usize(2..6)),
                    cut: pick(rng, &[1, 2, 4, 1000]),
                    line_end: pick(rng, &["\n", "\n", "\r\n", "\r"]),
                    comments: maybe(rng, 2),
                    unfinished: maybe(rng, 3),
                    head_delay: ms(pick(rng, &[0, 10, 500, 5000])),
                }
            })
            .collect();
        let clients = (0..rng.usize(1..6))
            .map(|_| Client {
                stream: rng.usize(0..streams.len()),
                owner: rng.usize(0..3),
                is_get: rng.usize(0..3) > 0,
                starts_at: ms(rng.u64(0..3000)),
                retry: ms(pick(rng, &[0, 10, 500, 3000])),
                slow: maybe(rng, 3).then(|| ms(pick(rng, &[20, 500, 3000]))),
                max_stay: ms(pick(rng, &[20, 500, 5000, 60_000])),
                stops_after: maybe(rng, 5).then(|| rng.usize(1..4)),
                link_profile: LinkProfile::new(rng),
                resumes_when_complete: rng.bool(),
                mirrors: maybe(rng, 3),
            })
            .collect();
        let seconds = |rng: &mut fastrand::Rng, most: u64| Duration::from_secs(rng.u64(1..most));
        let (retention, grace_period) = if is_roomy {
            let retention = Retention::default().events(100_000).bytes(1 << 30);
            (retention.age(A_DAY), A_DAY)
        } else {
            let retention = Retention::default()
                .events(pick(rng, &[0, 1, 2, 5, 30, 1000]))
                .bytes(pick(rng, &[0, 500, 5000, 100_000, 1 << 20]))
                .age(pick(rng, &[1, 10, 60, 600]).into_seconds());
            (retention, seconds(rng, 60))
        };
        Self {
            chaos,
            is_roomy,
            retention,
            max_replay_bytes: match is_roomy || rng.bool() {
                true => 1 << 30,
                false => pick(rng, &[0, 2000, 50_000]),
            },
            grace_period,
            max_detached_bytes: match is_roomy || rng.bool() {
                true => 1 << 30,
                false => rng.u64(0..50_000),
            },
            max_age: (!is_roomy && maybe(rng, 4)).then(|| seconds(rng, 60)),
            detaches: is_roomy || !maybe(rng, 4),
            gap_status: maybe(rng, 4),
            priming_event: maybe(rng, 3),
            by_query: maybe(rng, 3),
            authorize: maybe(rng, 3).then(|| ms(pick(rng, &[0, 20, 700]))),
            keep_alive: maybe(rng, 2),
            hold: maybe(rng, 3),
            defer: maybe(rng, 3),
            strip_comments: maybe(rng, 3),
            upstream_restarts: restarts(rng, 3),
            gateway_crashes: match is_roomy {
                true => Vec::new(),
                false => restarts(rng, 1),
            },
            streams,
            clients,
            to_upstream: LinkProfile::new(rng),
            thieves: rng.bool(),
            share_from: maybe(rng, 4).then(|| pick(rng, &[StartAt::Live, StartAt::Oldest])),
            reconnects: maybe(rng, 4),
            continue_after_end: rng.bool(),
        }
    }
}

trait Seconds {
    fn into_seconds(self) -> Duration;
}

impl Seconds for u64 {
    fn into_seconds(self) -> Duration {
        Duration::from_secs(self)
    }
}
