//! Clients that resume like an `EventSource`, and the checks of what they get.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    SECRET,
    gateway::PARAMETER,
    net::{Address, upto},
    plan::{self, Plan},
    reading::{Message, Reading},
    upstream::{EventData, contains_layer_id},
    world::{ClientRequest, World},
};

/// The id in a gap event for clients with the id in the query: it makes the next request start a new stream.
const RESET_ID: &str = "00000000000000000000000000000000.0.0";

/// A stream without any event or comment for this long hangs.
const STALLED: Duration = Duration::from_secs(600);

/// After the chaos phase, a client must have all events after this many responses.
const MAX_ANSWERS: usize = 2000;

/// With a small retention, a client that has to start new streams may never get all events. It stops after this many responses.
const MAX_ANSWERS_WITH_GAPS: usize = 100;

/// After this many responses without a new id, a client will never get one.
const MAX_WITHOUT_PROGRESS: usize = 30;

pub struct Client {
    pub world: Arc<World>,
    pub plan: Arc<Plan>,
    pub me: plan::Client,
    pub family: usize,
    pub gateway: Address,
    pub rng: fastrand::Rng,
    pub progress: Progress,
}

/// The events that a client has.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub last_id: Option<String>,
    /// The upstream's run of the last event.
    run: Option<usize>,
    /// The number of the last event in its run.
    number: Option<usize>,
    /// Whether the client got a gap event after its last event.
    gap: bool,
    /// Whether the client has requested a new run.
    new_run: bool,
    has_last: bool,
}

enum Next {
    /// Send the next request later.
    Retry,
    /// The response ended cleanly. An `EventSource` resumes nevertheless.
    Ended,
    /// The client stops.
    Stopped,
    Done,
}

/// Closes a connection when it is dropped.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    pub async fn run(mut self) -> Progress {
        sleep(self.me.starts_at).await;
        let (mut answers, mut after_chaos, mut without_progress) = (0, 0, 0);
        // At this time each end has noticed broken connections, and all hosts are up.
        let calm = self.world.chaos + Duration::from_secs(120);
        loop {
            answers += 1;
            let max_answers = self.me.stops_after.unwrap_or(match self.plan.is_roomy {
                true => usize::MAX,
                // Without a limit, the client could start new streams without any delay, so that the clock stands still.
                false => 1000,
            });
            if answers > max_answers {
                break;
            }
            if self.world.begun.elapsed() > calm {
                after_chaos += 1;
                if without_progress > MAX_WITHOUT_PROGRESS {
                    // This is correct for streams that end before any event reaches the client.
                    if self.plan.is_roomy || !self.plan.hold && self.plan.max_age.is_none() {
                        self.fault("resumes without end and without progress");
                    }
                    break;
                }
                // A client that disconnects before the first event may never finish.
                let may_stop = !self.plan.is_roomy
                    || self.plan.hold && self.progress.last_id.is_none()
                    // A `POST` cannot continue an upstream response that ends early.
                    || !self.me.is_get && self.plan.streams[self.me.stream].polls_after.is_some();
                if may_stop && after_chaos > MAX_ANSWERS_WITH_GAPS {
                    break;
                }
                if after_chaos > MAX_ANSWERS {
                    self.fault("does not have all events after many responses");
                    break;
                }
            }
            let before = self.progress.last_id.clone();
            let over = self.answer().await;
            without_progress = match self.progress.last_id == before && before.is_some() {
                true => without_progress + 1,
                false => 0,
            };
            match over {
                Next::Ended if self.progress.has_last => break,
                // A real client does not repeat a `POST` without new events.
                Next::Ended if !self.me.is_get && without_progress > 3 => break,
                Next::Retry | Next::Ended => {
                    sleep(Duration::from_millis(5) + upto(&mut self.rng, self.me.retry)).await
                }
                Next::Stopped => break,
                Next::Done => {
                    self.world.count(|counts| counts.done += 1);
                    if !std::mem::take(&mut self.me.resumes_when_complete) {
                        break;
                    }
                }
            }
        }
        self.progress
    }

    fn fault(&self, what: &str) {
        let (family, progress) = (self.family, &self.progress);
        self.world
            .fault(format!("client {family} {what}; {progress:?}"));
    }

    /// Sends one request and reads the response.
    async fn answer(&mut self) -> Next {
        let chaos = self.world.is_chaotic();
        let leave_at = chaos.then(|| Instant::now() + upto(&mut self.rng, self.me.max_stay));
        let link_settings = self.me.link_profile.settings(&mut self.rng, chaos);
        let connected = self
            .gateway
            .connect(&self.world, link_settings, self.rng.fork());
        let Ok(end) = connected.await else {
            // The host is down. Clients wait before they try again.
            sleep(Duration::from_secs(1)).await;
            return Next::Retry;
        };
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(end)).await;
        let Ok((mut sender, connection)) = handshake else {
            return Next::Retry;
        };
        let connection = self.world.spawn("a connection of a client", async move {
            let _ = connection.await;
        });
        let _connection = Connection(connection);

        let request = self.request(self.progress.last_id.clone(), false);
        let number = self.world.state().requests.len() - 1;
        self.progress.new_run |= self.progress.last_id.is_none();
        self.world.note(|| {
            let (family, progress) = (self.family, &self.progress);
            format!("client {family} sends request {number} {progress:?}")
        });
        let response = match with_deadline(leave_at, sender.send_request(request)).await {
            Some(Ok(response)) => response,
            Some(Err(_)) => return Next::Retry,
            None if leave_at.is_some() => return Next::Retry,
            None => {
                self.fault("gets no response");
                return Next::Stopped;
            }
        };
        let status = response.status();
        self.world
            .note(|| format!("client {} gets {status}", self.family));
        match status {
            StatusCode::OK => self.read(response.into_body(), leave_at).await,
            StatusCode::NO_CONTENT => {
                if !self.progress.has_last && !self.progress.gap && !self.has_all_of_an_end() {
                    self.fault("gets 204, and does not have all events");
                }
                Next::Done
            }
            StatusCode::GONE | StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
                let Some(Ok(body)) = with_deadline(leave_at, response.into_body().collect()).await
                else {
                    return Next::Retry;
                };
                let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                match text.trim().rsplit_once(": ") {
                    Some((_, reason)) => self.handle_gap(reason),
                    None if status == StatusCode::NOT_FOUND => {}
                    None => self.fault(&format!("gets {status} with the body {text}")),
                }
                if self.progress.last_id.is_none() {
                    self.fault(&format!("gets {status} to a request without an id"));
                }
                self.world.count(|counts| counts.statuses += 1);
                self.progress = Progress::default();
                Next::Retry
            }
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE if chaos => Next::Retry,
            // Failures at the end of the chaos phase.
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE
                if self.world.begun.elapsed() < self.world.chaos + STALLED =>
            {
                Next::Retry
            }
            other => {
                self.fault(&format!("gets {other}"));
                Next::Stopped
            }
        }
    }

    fn request(&mut self, last_id: Option<String>, is_thief: bool) -> Request<Full<Bytes>> {
        let mut state = self.world.state();
        let number = state.requests.len();
        let after = self.progress.run.zip(self.progress.number);
        let runs = state.runs.iter().enumerate();
        let own_runs = runs.filter(|(_, run)| {
            run.seen && (run.owner, run.stream) == (self.me.owner, self.me.stream)
        });
        let active_answers = own_runs.flat_map(|(number, run)| {
            let answers = run.answers.iter().enumerate();
            let active_answers = answers.filter(|(_, answer)| answer.is_active());
            active_answers.map(move |(answer, _)| (number, answer))
        });
        let active_answers = active_answers.collect();
        let position = last_id.as_deref().and_then(split_id);
        let is_behind = position.is_some_and(|(stream_id, number)| {
            state
                .heads
                .get(stream_id)
                .is_some_and(|head| *head > number)
        });
        state.counts.requests += 1;
        state.counts.resumed += u64::from(last_id.is_some());
        state.requests.push(ClientRequest {
            family: self.family,
            owner: self.me.owner,
            stream: self.me.stream,
            is_get: self.me.is_get,
            has_id: last_id.is_some(),
            after,
            is_behind,
            active_answers,
            upstream: 0,
            is_thief,
        });
        drop(state);
        let mut path = format!("/{}", self.me.stream);
        let mut request = Request::builder()
            .method(if self.me.is_get {
                Method::GET
            } else {
                Method::POST
            })
            .header("host", "gateway")
            .header("authorization", format!("owner {}", self.me.owner))
            .header("x-request", number);
        match last_id {
            Some(id) if self.plan.by_query && self.rng.bool() => {
                path += &format!("?{PARAMETER}={id}");
            }
            Some(id) => request = request.header("last-event-id", id),
            None => {}
        }
        let body = match self.me.is_get {
            true => Full::default(),
            false => Full::from("{}"),
        };
        request.uri(path).body(body).expect("a request")
    }

    async fn read(&mut self, mut body: Incoming, leave_at: Option<Instant>) -> Next {
        let mut reading = Reading::default();
        let mut is_first = true;
        let mut was_reset = false;
        loop {
            if let Some(pause) = self.me.slow.filter(|_| self.world.is_chaotic()) {
                sleep(upto(&mut self.rng, pause)).await;
            }
            let frame = match with_deadline(leave_at, body.frame()).await {
                Some(Some(Ok(frame))) => frame,
                Some(None) => return Next::Ended,
                Some(Some(Err(_))) => return Next::Retry,
                None if leave_at.is_some() => {
                    self.world
                        .note(|| format!("client {} disconnects", self.family));
                    return Next::Retry;
                }
                None => {
                    self.fault("waits for data in vain");
                    return Next::Stopped;
                }
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            self.world
                .note(|| format!("client {} reads {}", self.family, data.escape_ascii()));
            for message in reading.push(&data) {
                if was_reset {
                    self.fault("gets more after a reset of its id");
                }
                if let Some(over) = self.handle(&message, is_first) {
                    return over;
                }
                was_reset = message.id.as_deref() == Some("");
                is_first = false;
            }
            if reading.has_seen(SECRET) {
                self.fault("gets a denied text");
            }
            self.mirror();
        }
    }

    fn handle(&mut self, message: &Message, is_first: bool) -> Option<Next> {
        self.world.note(|| {
            let (family, id) = (self.family, &message.id);
            let data: String = message.data.chars().take(30).collect();
            format!("client {family} gets {data:?} {id:?}")
        });
        if message.event == "gap" {
            if !is_first {
                self.fault("gets a gap event in the middle of a response");
            }
            let reason = message.data.split('"').nth(3).unwrap_or_default();
            self.handle_gap(reason);
            match message.id.as_deref() {
                Some("" | RESET_ID) => self.progress = Progress::default(),
                _ if reason != "evicted" => {
                    self.fault("gets a gap event of a lost stream without a reset of its id");
                }
                Some(id) => self.handle_id(id),
                None => {}
            }
            self.progress.gap = true;
            return None;
        }
        let event = EventData::read(&message.data);
        match &message.id {
            Some(id) if contains_layer_id(id) => self.handle_id(id),
            Some(id) => self.fault(&format!("gets an id that is not of the layer: {id}")),
            None if event.is_some() => self.fault("gets an event without an id"),
            None => {}
        }
        let Some(event) = event else {
            if !message.data.is_empty() {
                let data = message.data.clone();
                self.fault(&format!(
                    "gets data that the upstream did not send: {data:?}"
                ));
            }
            return None;
        };
        self.handle_event(&event);
        self.progress.has_last.then_some(Next::Done)
    }

    /// Checks that the ids of one stream only grow.
    fn handle_id(&mut self, id: &str) {
        let (last, now) = (
            self.progress.last_id.as_deref().and_then(split_id),
            split_id(id),
        );
        if let (Some((last_stream, last)), Some((stream_id, now))) = (last, now)
            && last_stream == stream_id
            && last >= now
        {
            self.fault(&format!("gets id {now}"));
        }
        if let Some((stream_id, now)) = now {
            let mut state = self.world.state();
            let head = state.heads.entry(stream_id.to_owned()).or_default();
            *head = now.max(*head);
        }
        self.progress.last_id = Some(id.to_owned());
        let known = (self.me.owner, self.me.stream, id.to_owned());
        self.world.state().known.insert(self.family, known);
    }

    fn handle_event(&mut self, event: &EventData) {
        self.world.count(|counts| counts.events += 1);
        let run = self.world.state().runs.get_mut(event.run).map(|run| {
            run.seen = true;
            run.clone()
        });
        let Some(run) = run else {
            return self.fault("gets an event of an unknown run");
        };
        let stream = &self.plan.streams[self.me.stream];
        let is_own = run.owner == self.me.owner
            && event.owner == self.me.owner
            && event.stream == self.me.stream
            && (run.family == self.family || self.plan.share_from.is_some());
        if !is_own {
            self.fault(&format!("gets an event of another client: {event:?}"));
        }
        if !event.is_whole {
            self.fault(&format!("gets a part of an event: {event:?}"));
        }
        if !stream.shows(event.number) {
            self.fault(&format!("gets a denied event: {event:?}"));
        }
        if self.progress.run != Some(event.run) {
            let last = self
                .progress
                .run
                .map(|last| self.world.state().runs[last].clone());
            let is_over = last.is_none_or(|last| {
                let behind = self.progress.number.map_or(0, |number| number + 1);
                let has_all = (behind..last.sent).all(|number| !stream.shows(number));
                let is_over =
                    stream.ids || stream.has_terminal_event || !self.plan.continue_after_end;
                !is_over && last.ended_cleanly && has_all
            });
            if !(self.progress.new_run || is_over) {
                self.fault(&format!(
                    "gets another run before the end of its own: {event:?}"
                ));
            }
            self.progress.run = Some(event.run);
            self.progress.number = None;
            // A client that joins a running stream has not missed the earlier events.
            self.progress.gap |= self.plan.share_from.is_some();
        }
        let next = self.progress.number.map_or(0, |number| number + 1);
        if event.number < next {
            self.fault(&format!("gets an event again: {event:?}"));
        }
        let missed = (next..event.number).any(|number| stream.shows(number));
        if missed && !self.progress.gap {
            self.fault(&format!("misses events without a gap event: {event:?}"));
        }
        self.progress.number = Some(event.number);
        self.progress.gap = false;
        self.progress.new_run = false;
        self.progress.has_last = event.is_last;
    }

    /// Returns whether the upstream has ended the run, as far as the layer knows, and the client has all its events.
    fn has_all_of_an_end(&self) -> bool {
        let stream = &self.plan.streams[self.me.stream];
        let Some(run) = self.progress.run else {
            // The client has only the priming event.
            return self.plan.priming_event && !self.plan.continue_after_end;
        };
        let run = self.world.state().runs[run].clone();
        let behind = self.progress.number.map_or(0, |number| number + 1);
        let has_all = (behind..run.sent).all(|number| !stream.shows(number));
        let is_over = !self.plan.continue_after_end || !run.by_get;
        run.ended_cleanly && is_over && has_all
    }

    /// Checks that a reported gap is possible.
    fn handle_gap(&mut self, reason: &str) {
        let stream = &self.plan.streams[self.me.stream];
        let run = self
            .progress
            .run
            .map(|run| self.world.state().runs[run].clone());
        let possible = match reason {
            "evicted" => !self.plan.is_roomy,
            "unknown" => !self.plan.is_roomy,
            "failed" => {
                let broke = run.as_ref().is_none_or(|run| {
                    // The rest of a truncated event is missing if the layer does not resume at the upstream.
                    let is_dead = run.answers.iter().any(|answer| answer.wire.is_dead());
                    run.broken || run.truncated || is_dead
                });
                // Only a `GET` resumes at the upstream, and only a stream that was opened with a `GET`.
                let by_get = self.me.is_get && run.is_none_or(|run| run.by_get);
                let could_continue = by_get && stream.ids && self.progress.number.is_some();
                let has_all = self.progress.has_last && stream.has_terminal_event;
                (broke || self.plan.max_age.is_some()) && !could_continue && !has_all
            }
            _ => false,
        };
        if !possible {
            self.fault(&format!("gets an impossible gap: {reason}"));
        }
        self.world.count(|counts| match reason {
            "evicted" => counts.evicted += 1,
            "unknown" => counts.unknown += 1,
            _ => counts.failed += 1,
        });
    }

    /// Opens a second connection that resumes after the last event of the first.
    fn mirror(&mut self) {
        if !self.me.mirrors || self.progress.number.is_none() || self.rng.usize(0..5) > 0 {
            return;
        }
        self.me.mirrors = false;
        self.world.count(|counts| counts.mirrors += 1);
        let mut me = self.me.clone();
        me.starts_at = Duration::ZERO;
        let mirror = Client {
            world: Arc::clone(&self.world),
            plan: Arc::clone(&self.plan),
            me,
            family: self.family,
            gateway: self.gateway.clone(),
            rng: self.rng.fork(),
            progress: self.progress.clone(),
        };
        self.world.count(|counts| counts.second_readers += 1);
        let world = Arc::clone(&self.world);
        self.world.spawn("a second connection", async move {
            mirror.run().await;
            world.count(|counts| counts.second_readers -= 1);
        });
    }

    /// Uses ids of other owners during the chaos phase.
    pub async fn steal(mut self) {
        while self.world.is_chaotic() {
            sleep(upto(&mut self.rng, Duration::from_secs(20))).await;
            let known = self.world.state().known.clone();
            let known = known
                .into_values()
                .filter(|(owner, ..)| *owner != self.me.owner);
            let known: Vec<_> = known.collect();
            if known.is_empty() {
                continue;
            }
            let (_, stream, id) = plan::pick(&mut self.rng, &known);
            self.me.stream = stream;
            self.world.count(|counts| counts.thieves += 1);
            self.expect_unknown(id).await;
        }
    }

    /// Resumes with an id of another owner or an expired stream, and checks that the id is unknown.
    pub async fn expect_unknown(&mut self, id: String) {
        let calm = plan::LinkProfile::reliable();
        let link_settings = calm.settings(&mut self.rng, false);
        let connected = self
            .gateway
            .connect(&self.world, link_settings, self.rng.fork());
        let Ok(end) = connected.await else { return };
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(end)).await;
        let Ok((mut sender, connection)) = handshake else {
            return;
        };
        let connection = self
            .world
            .spawn("a connection with a foreign id", async move {
                let _ = connection.await;
            });
        let _connection = Connection(connection);
        let request = self.request(Some(id), true);
        let until = Some(Instant::now() + STALLED);
        let response = match with_deadline(until, sender.send_request(request)).await {
            Some(Ok(response)) => response,
            // The gateway has stopped.
            Some(Err(_)) => return,
            None => return self.fault("gets no response to a foreign id"),
        };
        let status = response.status();
        let Some(body) = with_deadline(until, response.into_body().collect()).await else {
            return self.fault("gets a response without end to a foreign id");
        };
        let Ok(body) = body else { return };
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let is_unknown = match (self.plan.gap_status, self.me.is_get) {
            (true, _) => status == StatusCode::BAD_REQUEST && text.ends_with(": unknown\n"),
            (false, false) => status == StatusCode::GONE && text.ends_with(": unknown\n"),
            (false, true) => {
                let gap =
                    |id| format!("event: gap\nid: {id}\ndata: {{\"reason\":\"unknown\"}}\n\n");
                status == StatusCode::OK && ["", RESET_ID].iter().any(|id| text == gap(id))
            }
        };
        if !is_unknown {
            self.fault(&format!("gets {status} to a foreign id: {text:?}"));
        }
    }
}

/// Splits an event id into its stream (with the epoch) and its number.
fn split_id(id: &str) -> Option<(&str, u64)> {
    let (stream, number) = id.rsplit_once('.')?;
    Some((stream, number.parse().ok()?))
}

/// Waits for a future until the deadline, or until the stream must be considered hanging.
async fn with_deadline<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    let deadline = deadline.unwrap_or_else(|| Instant::now() + STALLED);
    timeout_at(deadline, future).await.ok()
}
