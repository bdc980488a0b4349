//! What a seed comes to.

use std::time::Duration;

use tower_sse_proxy::replay::{Retention, StartAt};

use crate::net::Weather;

#[derive(Clone, Debug)]
pub struct Plan {
    pub chaos: Duration,
    /// All is kept, and for longer than anything lasts: then no gap is an excuse.
    pub is_roomy: bool,
    pub bounds: Retention,
    pub all_bytes: usize,
    pub linger: Duration,
    pub detached_bytes: u64,
    pub lifetime: Option<Duration>,
    pub is_detached: bool,
    pub gap_status: bool,
    pub prime: bool,
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
    pub to_upstream: Roughness,
    pub thieves: bool,
    /// Requests of one owner for one stream ride on one of the upstream, and begin there if this is set.
    pub shares: Option<StartAt>,
    /// An upstream that breaks off is asked to go on.
    pub reconnects: bool,
    /// The upstream is asked again after a clean end.
    pub continues: bool,
}

#[derive(Clone, Debug)]
pub struct Restart {
    pub at: Duration,
    pub lasts: Duration,
    pub forgets: bool,
}

#[derive(Clone, Debug)]
pub struct Stream {
    pub events: usize,
    pub ids: bool,
    pub resumes: Resumes,
    /// Ends an answer after up to so many events, to go on in another one.
    pub polls_after: Option<usize>,
    /// Says at its end that it is complete.
    pub says_done: bool,
    pub size: usize,
    pub pace: Duration,
    /// One in so many events is denied.
    pub denied: Option<usize>,
    /// One in so many answers is cut.
    pub cut: usize,
    pub line_end: &'static str,
    pub asides: bool,
    pub unfinished: bool,
    pub head_delay: Duration,
}

/// What comes again when the upstream is asked to go on.
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
    pub begins: Duration,
    pub retry: Duration,
    /// Reads with pauses of up to so long.
    pub slow: Option<Duration>,
    /// Stays for up to so long, while there is chaos.
    pub patience: Duration,
    /// Leaves for good after so many answers.
    pub leaves_after: Option<usize>,
    pub roughness: Roughness,
    /// Comes back once more when it has all.
    pub comes_back: bool,
    /// Opens a second connection in the middle.
    pub mirrors: bool,
}

/// What connections of one kind are like.
#[derive(Clone, Debug)]
pub struct Roughness {
    pub delay: Duration,
    pub notice: Duration,
    pub room: usize,
    pub packet: usize,
    /// One in so many breaks.
    pub breaks: usize,
}

impl Roughness {
    fn new(rng: &mut fastrand::Rng) -> Self {
        Self {
            delay: ms(pick(rng, &[0, 1, 30, 400])),
            notice: ms(pick(rng, &[0, 50, 3000, 60_000])),
            room: pick(rng, &[4000, 16_000, 64_000]),
            packet: pick(rng, &[7, 100, 1400, 64_000]),
            breaks: pick(rng, &[1, 2, 3, 1000]),
        }
    }

    /// Nothing goes wrong.
    pub fn calm() -> Self {
        Self {
            delay: Duration::ZERO,
            notice: Duration::ZERO,
            room: 64_000,
            packet: 64_000,
            breaks: 1,
        }
    }

    pub fn weather(&self, rng: &mut fastrand::Rng, chaos: bool) -> Weather {
        let breaks = chaos && rng.usize(0..self.breaks) == 0;
        let limit = |rng: &mut fastrand::Rng, most: u64| {
            let most = [most / 30 + 2, most / 4 + 2, most][rng.usize(0..3)];
            Some(rng.u64(1..=most))
        };
        let breaks_after = match (breaks, rng.usize(0..6)) {
            (false, _) => [None; 2],
            // In the middle of the request.
            (true, 0) => [limit(rng, 400), None],
            (true, _) => [None, limit(rng, 20_000)],
        };
        Weather {
            delay: self.delay,
            notice: self.notice,
            room: self.room,
            packet: self.packet,
            breaks_after,
        }
    }
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

pub fn pick<T: Clone>(rng: &mut fastrand::Rng, of: &[T]) -> T {
    of[rng.usize(0..of.len())].clone()
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
                    lasts: ms(rng.u64(0..8000)),
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
                    says_done: maybe(rng, 2),
                    size: pick(rng, &[0, 30, 300, 3000]),
                    pace: ms(pick(rng, &[0, 5, 100, 1000])),
                    denied: maybe(rng, 2).then(|| rng.usize(2..6)),
                    cut: pick(rng, &[1, 2, 4, 1000]),
                    line_end: pick(rng, &["\n", "\n", "\r\n", "\r"]),
                    asides: maybe(rng, 2),
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
                begins: ms(rng.u64(0..3000)),
                retry: ms(pick(rng, &[0, 10, 500, 3000])),
                slow: maybe(rng, 3).then(|| ms(pick(rng, &[20, 500, 3000]))),
                patience: ms(pick(rng, &[20, 500, 5000, 60_000])),
                leaves_after: maybe(rng, 5).then(|| rng.usize(1..4)),
                roughness: Roughness::new(rng),
                comes_back: rng.bool(),
                mirrors: maybe(rng, 3),
            })
            .collect();
        let seconds = |rng: &mut fastrand::Rng, most: u64| Duration::from_secs(rng.u64(1..most));
        let (bounds, linger) = if is_roomy {
            let bounds = Retention::default().events(100_000).bytes(1 << 30);
            (bounds.age(A_DAY), A_DAY)
        } else {
            let bounds = Retention::default()
                .events(pick(rng, &[0, 1, 2, 5, 30, 1000]))
                .bytes(pick(rng, &[0, 500, 5000, 100_000, 1 << 20]))
                .age(pick(rng, &[1, 10, 60, 600]).into_seconds());
            (bounds, seconds(rng, 60))
        };
        Self {
            chaos,
            is_roomy,
            bounds,
            all_bytes: match is_roomy || rng.bool() {
                true => 1 << 30,
                false => pick(rng, &[0, 2000, 50_000]),
            },
            linger,
            detached_bytes: match is_roomy || rng.bool() {
                true => 1 << 30,
                false => rng.u64(0..50_000),
            },
            lifetime: (!is_roomy && maybe(rng, 4)).then(|| seconds(rng, 60)),
            is_detached: is_roomy || !maybe(rng, 4),
            gap_status: maybe(rng, 4),
            prime: maybe(rng, 3),
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
            to_upstream: Roughness::new(rng),
            thieves: rng.bool(),
            shares: maybe(rng, 4).then(|| pick(rng, &[StartAt::Live, StartAt::Oldest])),
            reconnects: maybe(rng, 4),
            continues: rng.bool(),
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
