//! Clients that come back like an `EventSource`, and what they may and may not get to see.

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
    upstream::{Told, has_our_id},
    world::{Asked, World},
};

/// The id of who is to begin anew, where its address named the event.
const ANEW: &str = "00000000000000000000000000000000.0.0";

/// Nothing that is alive is silent for so long.
const STALLED: Duration = Duration::from_secs(600);

/// After so many answers, without anything that goes wrong, a client will not come to an end.
const ANSWERS: usize = 2000;

/// Where little is kept, who has to begin anew may never have all, and tries no longer than that.
const ANSWERS_AT_MOST: usize = 100;

/// Who is told so often what it knows will be told so for ever.
const THE_SAME: usize = 30;

pub struct Client {
    pub world: Arc<World>,
    pub plan: Arc<Plan>,
    pub me: plan::Client,
    pub family: usize,
    pub gateway: Address,
    pub rng: fastrand::Rng,
    pub has: Has,
}

/// What a client has, and what it has been told.
#[derive(Clone, Debug, Default)]
pub struct Has {
    pub last_id: Option<String>,
    run: Option<usize>,
    /// The last event of the run.
    number: Option<usize>,
    /// It was told of a gap.
    gap: bool,
    /// It has asked for a new run.
    anew: bool,
    is_last: bool,
}

enum Over {
    /// Come back later.
    Again,
    /// It ended as it should. An `EventSource` comes back all the same.
    Ended,
    /// It wants no more.
    Left,
    Done,
}

/// Closes a connection when it is let go of.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    pub async fn run(mut self) -> Has {
        sleep(self.me.begins).await;
        let (mut answers, mut in_peace, mut the_same) = (0, 0, 0);
        // By then whoever has lost a connection knows, and what went down is up.
        let peace = self.world.chaos + Duration::from_secs(120);
        loop {
            answers += 1;
            let most = self.me.leaves_after.unwrap_or(match self.plan.is_roomy {
                true => usize::MAX,
                // It would begin anew a thousand times, and no time pass.
                false => 1000,
            });
            if answers > most {
                break;
            }
            if self.world.begun.elapsed() > peace {
                in_peace += 1;
                if the_same > THE_SAME {
                    // So it is where a stream was given up while nobody was there, or may not last until something new comes.
                    if self.plan.is_roomy || !self.plan.hold && self.plan.lifetime.is_none() {
                        self.fault("comes back for ever");
                    }
                    break;
                }
                // Nor may who never stays until an event comes.
                let may_fail = !self.plan.is_roomy
                    || self.plan.hold && self.has.last_id.is_none()
                    // Nor may who sends a `POST` to an upstream that never answers it in one go.
                    || !self.me.is_get && self.plan.streams[self.me.stream].polls_after.is_some();
                if may_fail && in_peace > ANSWERS_AT_MOST {
                    break;
                }
                if in_peace > ANSWERS {
                    self.fault("never comes to an end");
                    break;
                }
            }
            let before = self.has.last_id.clone();
            let over = self.answer().await;
            the_same = match self.has.last_id == before && before.is_some() {
                true => the_same + 1,
                false => 0,
            };
            match over {
                Over::Ended if self.has.is_last => break,
                // Nobody sends a `POST` once more for nothing.
                Over::Ended if !self.me.is_get && the_same > 3 => break,
                Over::Again | Over::Ended => {
                    sleep(Duration::from_millis(5) + upto(&mut self.rng, self.me.retry)).await
                }
                Over::Left => break,
                Over::Done => {
                    self.world.count(|counts| counts.done += 1);
                    if !std::mem::take(&mut self.me.comes_back) {
                        break;
                    }
                }
            }
        }
        self.has
    }

    fn fault(&self, what: &str) {
        let (family, has) = (self.family, &self.has);
        self.world.fault(format!("client {family} {what}; {has:?}"));
    }

    /// One request and its answer.
    async fn answer(&mut self) -> Over {
        let chaos = self.world.is_chaotic();
        let leaves = chaos.then(|| Instant::now() + upto(&mut self.rng, self.me.patience));
        let weather = self.me.roughness.weather(&mut self.rng, chaos);
        let connected = self.gateway.connect(&self.world, weather, self.rng.fork());
        let Ok(end) = connected.await else {
            // Nobody is there. No client comes back at once then.
            sleep(Duration::from_secs(1)).await;
            return Over::Again;
        };
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(end)).await;
        let Ok((mut sender, connection)) = handshake else {
            return Over::Again;
        };
        let connection = self.world.spawn("a connection of a client", async move {
            let _ = connection.await;
        });
        let _connection = Connection(connection);

        let request = self.request(self.has.last_id.clone(), false);
        let number = self.world.state().requests.len() - 1;
        self.has.anew |= self.has.last_id.is_none();
        self.world.note(|| {
            let (family, has) = (self.family, &self.has);
            format!("client {family} sends request {number} {has:?}")
        });
        let response = match before(leaves, sender.send_request(request)).await {
            Some(Ok(response)) => response,
            Some(Err(_)) => return Over::Again,
            None if leaves.is_some() => return Over::Again,
            None => {
                self.fault("gets no answer");
                return Over::Left;
            }
        };
        let status = response.status();
        self.world
            .note(|| format!("client {} gets {status}", self.family));
        match status {
            StatusCode::OK => self.read(response.into_body(), leaves).await,
            StatusCode::NO_CONTENT => {
                if !self.has.is_last && !self.has.gap && !self.has_all_of_an_end() {
                    self.fault("is told that there is no more, and does not have all");
                }
                Over::Done
            }
            StatusCode::GONE | StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
                let Some(Ok(body)) = before(leaves, response.into_body().collect()).await else {
                    return Over::Again;
                };
                let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                match text.trim().rsplit_once(": ") {
                    Some((_, reason)) => self.handle_gap(reason),
                    None if status == StatusCode::NOT_FOUND => {}
                    None => self.fault(&format!("gets {status}: {text}")),
                }
                if self.has.last_id.is_none() {
                    self.fault(&format!("gets {status} without having named an event"));
                }
                self.world.count(|counts| counts.statuses += 1);
                self.has = Has::default();
                Over::Again
            }
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE if chaos => Over::Again,
            // What was under way when the chaos ended.
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE
                if self.world.begun.elapsed() < self.world.chaos + STALLED =>
            {
                Over::Again
            }
            other => {
                self.fault(&format!("gets {other}"));
                Over::Left
            }
        }
    }

    fn request(&mut self, last_id: Option<String>, is_thief: bool) -> Request<Full<Bytes>> {
        let mut state = self.world.state();
        let number = state.requests.len();
        let after = self.has.run.zip(self.has.number);
        let runs = state.runs.iter().enumerate();
        let mine = runs.filter(|(_, run)| {
            run.seen && (run.owner, run.stream) == (self.me.owner, self.me.stream)
        });
        let under_way = mine.flat_map(|(number, run)| {
            let answers = run.answers.iter().enumerate();
            let under_way = answers.filter(|(_, answer)| answer.is_under_way());
            under_way.map(move |(answer, _)| (number, answer))
        });
        let under_way = under_way.collect();
        let place = last_id.as_deref().and_then(split);
        let is_behind = place.is_some_and(|(token, number)| {
            state.heads.get(token).is_some_and(|head| *head > number)
        });
        state.counts.requests += 1;
        state.counts.resumed += u64::from(last_id.is_some());
        state.requests.push(Asked {
            family: self.family,
            owner: self.me.owner,
            stream: self.me.stream,
            is_get: self.me.is_get,
            has_id: last_id.is_some(),
            after,
            is_behind,
            under_way,
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

    async fn read(&mut self, mut body: Incoming, leaves: Option<Instant>) -> Over {
        let mut reading = Reading::default();
        let mut is_first = true;
        let mut was_reset = false;
        loop {
            if let Some(pause) = self.me.slow.filter(|_| self.world.is_chaotic()) {
                sleep(upto(&mut self.rng, pause)).await;
            }
            let frame = match before(leaves, body.frame()).await {
                Some(Some(Ok(frame))) => frame,
                Some(None) => return Over::Ended,
                Some(Some(Err(_))) => return Over::Again,
                None if leaves.is_some() => {
                    self.world.note(|| format!("client {} leaves", self.family));
                    return Over::Again;
                }
                None => {
                    self.fault("reads, and nothing comes");
                    return Over::Left;
                }
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            self.world
                .note(|| format!("client {} reads {}", self.family, data.escape_ascii()));
            for message in reading.push(&data) {
                if was_reset {
                    self.fault("gets more after its id was reset");
                }
                if let Some(over) = self.handle(&message, is_first) {
                    return over;
                }
                was_reset = message.id.as_deref() == Some("");
                is_first = false;
            }
            if reading.has_seen(SECRET) {
                self.fault("gets to see what was denied");
            }
            self.mirror();
        }
    }

    fn handle(&mut self, message: &Message, is_first: bool) -> Option<Over> {
        self.world.note(|| {
            let (family, id) = (self.family, &message.id);
            let data: String = message.data.chars().take(30).collect();
            format!("client {family} gets {data:?} {id:?}")
        });
        if message.event == "gap" {
            if !is_first {
                self.fault("is told of a gap in the middle of an answer");
            }
            let reason = message.data.split('"').nth(3).unwrap_or_default();
            self.handle_gap(reason);
            match message.id.as_deref() {
                Some("" | ANEW) => self.has = Has::default(),
                _ if reason != "evicted" => {
                    self.fault("is told of the loss of a stream, and keeps its id");
                }
                Some(id) => self.handle_id(id),
                None => {}
            }
            self.has.gap = true;
            return None;
        }
        let told = Told::read(&message.data);
        match &message.id {
            Some(id) if has_our_id(id) => self.handle_id(id),
            Some(id) => self.fault(&format!("gets an id that is not ours: {id}")),
            None if told.is_some() => self.fault("gets an event without an id"),
            None => {}
        }
        let Some(told) = told else {
            if !message.data.is_empty() {
                let data = message.data.clone();
                self.fault(&format!("gets what nobody sent: {data:?}"));
            }
            return None;
        };
        self.handle_event(&told);
        self.has.is_last.then_some(Over::Done)
    }

    /// Of one stream, ids only grow.
    fn handle_id(&mut self, id: &str) {
        let (last, now) = (self.has.last_id.as_deref().and_then(split), split(id));
        if let (Some((last_token, last)), Some((token, now))) = (last, now)
            && last_token == token
            && last >= now
        {
            self.fault(&format!("gets id {now}"));
        }
        if let Some((token, now)) = now {
            let mut state = self.world.state();
            let head = state.heads.entry(token.to_owned()).or_default();
            *head = now.max(*head);
        }
        self.has.last_id = Some(id.to_owned());
        let known = (self.me.owner, self.me.stream, id.to_owned());
        self.world.state().known.insert(self.family, known);
    }

    fn handle_event(&mut self, told: &Told) {
        self.world.count(|counts| counts.events += 1);
        let run = self.world.state().runs.get_mut(told.run).map(|run| {
            run.seen = true;
            run.clone()
        });
        let Some(run) = run else {
            return self.fault("gets an event of no run");
        };
        let stream = &self.plan.streams[self.me.stream];
        let is_mine = run.owner == self.me.owner
            && told.owner == self.me.owner
            && told.stream == self.me.stream
            && (run.family == self.family || self.plan.shares.is_some());
        if !is_mine {
            self.fault(&format!("gets an event of another's: {told:?}"));
        }
        if !told.is_whole {
            self.fault(&format!("gets a part of an event: {told:?}"));
        }
        if !stream.shows(told.number) {
            self.fault(&format!("gets an event that was denied: {told:?}"));
        }
        if self.has.run != Some(told.run) {
            let last = self
                .has
                .run
                .map(|last| self.world.state().runs[last].clone());
            let is_over = last.is_none_or(|last| {
                let behind = self.has.number.map_or(0, |number| number + 1);
                let has_all = (behind..last.sent).all(|number| !stream.shows(number));
                let is_over = stream.ids || stream.says_done || !self.plan.continues;
                !is_over && last.ended_cleanly && has_all
            });
            if !(self.has.anew || is_over) {
                self.fault(&format!("gets another run in the middle of one: {told:?}"));
            }
            self.has.run = Some(told.run);
            self.has.number = None;
            // Who joins a stream that others have begun has not missed what was before.
            self.has.gap |= self.plan.shares.is_some();
        }
        let next = self.has.number.map_or(0, |number| number + 1);
        if told.number < next {
            self.fault(&format!("gets an event again: {told:?}"));
        }
        let missed = (next..told.number).any(|number| stream.shows(number));
        if missed && !self.has.gap {
            self.fault(&format!("misses events and was not told: {told:?}"));
        }
        self.has.number = Some(told.number);
        self.has.gap = false;
        self.has.anew = false;
        self.has.is_last = told.is_last;
    }

    /// Whether the upstream ended its answer, for good as far as the layer knows, and all of it is here.
    fn has_all_of_an_end(&self) -> bool {
        let stream = &self.plan.streams[self.me.stream];
        let Some(run) = self.has.run else {
            // It has the id that each stream begins with.
            return self.plan.prime && !self.plan.continues;
        };
        let run = self.world.state().runs[run].clone();
        let behind = self.has.number.map_or(0, |number| number + 1);
        let has_all = (behind..run.sent).all(|number| !stream.shows(number));
        let is_over = !self.plan.continues || !run.by_get;
        run.ended_cleanly && is_over && has_all
    }

    /// A gap is told of where there is one, and nowhere else.
    fn handle_gap(&mut self, reason: &str) {
        let stream = &self.plan.streams[self.me.stream];
        let run = self.has.run.map(|run| self.world.state().runs[run].clone());
        let may = match reason {
            "evicted" => !self.plan.is_roomy,
            "unknown" => !self.plan.is_roomy,
            "failed" => {
                let broke = run.as_ref().is_none_or(|run| {
                    // Where it is not asked for again, what was cut off inside an event is missing.
                    let is_dead = run.answers.iter().any(|answer| answer.wire.is_dead());
                    run.broken || run.truncated || is_dead
                });
                // Only a `GET` is forwarded to continue a stream, and only one that a `GET` has opened.
                let by_get = self.me.is_get && run.is_none_or(|run| run.by_get);
                let could_go_on = by_get && stream.ids && self.has.number.is_some();
                let has_all = self.has.is_last && stream.says_done;
                (broke || self.plan.lifetime.is_some()) && !could_go_on && !has_all
            }
            _ => false,
        };
        if !may {
            self.fault(&format!("is told of a gap that cannot be: {reason}"));
        }
        self.world.count(|counts| match reason {
            "evicted" => counts.evicted += 1,
            "unknown" => counts.unknown += 1,
            _ => counts.failed += 1,
        });
    }

    /// Opens a second connection where the first one is.
    fn mirror(&mut self) {
        if !self.me.mirrors || self.has.number.is_none() || self.rng.usize(0..5) > 0 {
            return;
        }
        self.me.mirrors = false;
        self.world.count(|counts| counts.mirrors += 1);
        let mut me = self.me.clone();
        me.begins = Duration::ZERO;
        let mirror = Client {
            world: Arc::clone(&self.world),
            plan: Arc::clone(&self.plan),
            me,
            family: self.family,
            gateway: self.gateway.clone(),
            rng: self.rng.fork(),
            has: self.has.clone(),
        };
        self.world.count(|counts| counts.second_readers += 1);
        let world = Arc::clone(&self.world);
        self.world.spawn("a mirror", async move {
            mirror.run().await;
            world.count(|counts| counts.second_readers -= 1);
        });
    }

    /// Takes the ids of others, while there are any to take.
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
            self.ask_in_vain(id).await;
        }
    }

    /// Asks for what somebody else has, or what is long gone. Whoever asks is told nothing.
    pub async fn ask_in_vain(&mut self, id: String) {
        let calm = plan::Roughness::calm();
        let weather = calm.weather(&mut self.rng, false);
        let connected = self.gateway.connect(&self.world, weather, self.rng.fork());
        let Ok(end) = connected.await else { return };
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(end)).await;
        let Ok((mut sender, connection)) = handshake else {
            return;
        };
        let connection = self.world.spawn("a connection of a thief", async move {
            let _ = connection.await;
        });
        let _connection = Connection(connection);
        let request = self.request(Some(id), true);
        let until = Some(Instant::now() + STALLED);
        let response = match before(until, sender.send_request(request)).await {
            Some(Ok(response)) => response,
            // The gateway went down.
            Some(Err(_)) => return,
            None => return self.fault("asks in vain and gets no answer"),
        };
        let status = response.status();
        let Some(body) = before(until, response.into_body().collect()).await else {
            return self.fault("asks in vain and the answer does not end");
        };
        let Ok(body) = body else { return };
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let told = match (self.plan.gap_status, self.me.is_get) {
            (true, _) => status == StatusCode::BAD_REQUEST && text.ends_with(": unknown\n"),
            (false, false) => status == StatusCode::GONE && text.ends_with(": unknown\n"),
            (false, true) => {
                let gap =
                    |id| format!("event: gap\nid: {id}\ndata: {{\"reason\":\"unknown\"}}\n\n");
                status == StatusCode::OK && ["", ANEW].iter().any(|id| text == gap(id))
            }
        };
        if !told {
            self.fault(&format!("asks in vain and gets {status}: {text:?}"));
        }
    }
}

/// The stream of an id, and the place in it.
fn split(id: &str) -> Option<(&str, u64)> {
    let (stream, number) = id.rsplit_once('.')?;
    Some((stream, number.parse().ok()?))
}

/// What comes of it, unless it takes too long.
async fn before<F: Future>(leaves: Option<Instant>, what: F) -> Option<F::Output> {
    let until = leaves.unwrap_or_else(|| Instant::now() + STALLED);
    timeout_at(until, what).await.ok()
}
