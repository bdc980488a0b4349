//! The upstream: sends streams of events that describe themselves, ends and breaks responses, and continues streams.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{
    BodyExt, Either, Full,
    channel::{Channel, Sender},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{sync::mpsc, time::sleep};
use tower::BoxError;

use crate::{
    SECRET,
    net::{End, Wire, upto},
    plan::{Plan, Resumes, Stream},
    world::{Run, UpstreamAnswer, World},
};

type Body = Either<Channel<Bytes, BoxError>, Full<Bytes>>;

/// The contents of an event's data.
#[derive(Clone, Debug, PartialEq)]
pub struct EventData {
    pub run: usize,
    pub number: usize,
    pub stream: usize,
    pub owner: usize,
    pub is_last: bool,
    pub done: bool,
    pub is_whole: bool,
}

impl EventData {
    pub fn read(data: &str) -> Option<Self> {
        let mut words = data.split([' ', '\n']);
        if words.next() != Some("event") {
            return None;
        }
        let mut number = || words.next()?.parse().ok();
        let (run, position, stream, owner) = (number()?, number()?, number()?, number()?);
        let flags = words.next()?;
        let length: usize = words.next()?.parse().ok()?;
        Some(Self {
            run,
            number: position,
            stream,
            owner,
            is_last: flags.contains('l'),
            done: flags.contains('d'),
            is_whole: words.next().unwrap_or_default() == "x".repeat(length),
        })
    }
}

impl Stream {
    /// Returns whether the event passes the interceptor that denies events.
    pub fn shows(&self, number: usize) -> bool {
        let denied = self.denied.is_some_and(|every| number % every == every - 1);
        !denied || number + 1 == self.events
    }

    fn write(&self, run: usize, number: usize, (stream, owner): (usize, usize)) -> String {
        let end = self.line_end;
        let is_last = number + 1 == self.events;
        let mut text = String::new();
        if self.comments && number % 5 == 2 {
            text += &format!(": a comment{end}retry: 10{end}{end}");
        }
        if self.ids {
            text += &format!("id: up-{run}-{number}{end}");
        }
        if number % 3 == 1 {
            text += &format!("event: tick{end}");
        }
        let mut flags = String::from("-");
        if is_last {
            flags.push('l');
        }
        if is_last && self.has_terminal_event {
            flags.push('d');
        }
        let length = number * 7919 % (self.size + 1);
        text += &format!("data: event {run} {number} {stream} {owner} {flags} {length}{end}");
        text += &format!("data: {}{end}", "x".repeat(length));
        if !self.shows(number) {
            text += &format!("data: {SECRET}{end}");
        }
        text += end;
        if self.comments && self.ids && number % 7 == 3 {
            // An id without data. A resume after it continues with the next event.
            text += &format!("id: up-{run}-{number}-b{end}{end}");
        }
        text
    }
}

pub async fn run(
    world: Arc<World>,
    plan: Arc<Plan>,
    mut accepted: mpsc::UnboundedReceiver<(End, Arc<Wire>)>,
    mut rng: fastrand::Rng,
) {
    while let Some((end, wire)) = accepted.recv().await {
        let (world, plan, rng) = (Arc::clone(&world), Arc::clone(&plan), rng.fork());
        let spawn = Arc::clone(&world);
        spawn.spawn("a connection of the upstream", async move {
            let service = service_fn(move |request| {
                let call = Call {
                    world: Arc::clone(&world),
                    plan: Arc::clone(&plan),
                    wire: Arc::clone(&wire),
                    rng: rng.clone(),
                };
                call.answer(request)
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(end), service)
                .await;
        });
    }
}

/// The end of a response.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// Between two blocks.
    Clean,
    /// Inside a block.
    Truncated,
    Broken,
}

struct Call {
    world: Arc<World>,
    plan: Arc<Plan>,
    wire: Arc<Wire>,
    rng: fastrand::Rng,
}

impl Call {
    async fn answer(mut self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (parts, body) = request.into_parts();
        // The connection broke inside the request.
        if body.collect().await.is_err() {
            return Ok(status(StatusCode::BAD_REQUEST));
        }
        for (name, value) in &parts.headers {
            if contains_layer_id(&String::from_utf8_lossy(value.as_bytes())) {
                self.world.fault(format!(
                    "an id of the layer reaches the upstream, in {name}"
                ));
            }
        }
        if contains_layer_id(&parts.uri.to_string()) {
            self.world
                .fault("an id of the layer reaches the upstream, in the URI");
        }
        let number = |name: &str| -> usize {
            let value = parts.headers[name].to_str().expect("a number");
            value.parse().expect("a number")
        };
        let request = number("x-request");
        let last_id = parts.headers.get("last-event-id");
        let last_id = last_id.map(|id| id.to_str().expect("text").to_owned());
        let target = self.find_run(request, last_id.as_deref());
        let delay = self.plan.streams[self.world.state().requests[request].stream].head_delay;
        sleep(upto(&mut self.rng, delay)).await;
        let Some((run, from)) = target else {
            return Ok(status(StatusCode::NOT_FOUND));
        };
        if self.world.is_chaotic() && self.rng.usize(0..12) == 0 {
            self.record_end(run, None);
            return Ok(status(StatusCode::SERVICE_UNAVAILABLE));
        }
        let stream = self.world.state().runs[run].stream;
        if last_id.is_some() && from.is_none() {
            self.record_end(run, None);
            return Ok(status(StatusCode::NO_CONTENT));
        }
        let (feed, body) = Channel::new(1);
        let world = Arc::clone(&self.world);
        let answer = self.answer_count(run) - 1;
        let plan = self.plan.streams[stream].clone();
        world.spawn(
            "the upstream",
            self.feed(plan, run, answer, from.unwrap_or(0), feed),
        );
        let mut response = Response::new(Either::Left(body));
        let mime = header::HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, mime);
        Ok(response)
    }

    fn answer_count(&self, run: usize) -> usize {
        self.world.state().runs[run].answers.len()
    }

    /// Finds or creates the run for a request. Returns it and the number of the first event to send, if any is left. Returns `None`
    /// if the run is unknown.
    fn find_run(
        &mut self,
        request: usize,
        last_id: Option<&str>,
    ) -> Option<(usize, Option<usize>)> {
        let mut state = self.world.state();
        state.counts.upstream_requests += 1;
        let client = &mut state.requests[request];
        client.upstream += 1;
        let client = client.clone();
        let mut faults = Vec::new();
        let again = client.upstream > 1;
        if again && !(self.plan.reconnects && client.is_get && last_id.is_some()) {
            faults.push(format!("request {request} reaches the upstream twice"));
        }
        if client.is_thief {
            faults.push(format!(
                "request {request} has an id of another client, and reaches the upstream"
            ));
        }
        let stream = &self.plan.streams[client.stream];
        let answer = UpstreamAnswer {
            request,
            wire: Arc::clone(&self.wire),
            has_head: false,
            ended: false,
        };
        let active: Vec<usize> = client
            .active_answers
            .iter()
            .filter(|(run, answer)| {
                // A continuation may be a new stream of the layer, which is not shared.
                *answer == 0 && state.runs[*run].answers[*answer].is_active()
            })
            .map(|(run, _)| *run)
            .collect();
        let target = match last_id.map(read_id) {
            None => {
                if client.has_id {
                    // With `continue_after_end`, a request at the clean end of a stream without ids and terminal event is forwarded
                    // without an id. No other resume is.
                    let may = client.after.is_none_or(|(run, number)| {
                        let run = &state.runs[run];
                        let has_all = (number + 1..run.sent).all(|number| !stream.shows(number));
                        let is_over = stream.ids
                            || stream.has_terminal_event
                            || !self.plan.continue_after_end;
                        !is_over && run.by_get && run.ended_cleanly && has_all
                    });
                    if !(may && client.is_get) {
                        let after = client.after;
                        faults.push(format!(
                            "request {request}, after {after:?}, starts a new run"
                        ));
                    }
                }
                // No client can join a stream without any retained event, or a stream for which it has waited in vain.
                if self.plan.share_from.is_some()
                    && self.plan.max_replay_bytes > 100_000
                    && !self.world.is_chaotic()
                    && let Some(run) = active.first()
                {
                    faults.push(format!("request {request} does not share run {run}"));
                }
                state.runs.push(Run {
                    stream: client.stream,
                    owner: client.owner,
                    family: client.family,
                    sent: 0,
                    seen: false,
                    answers: vec![answer],
                    ended_cleanly: false,
                    truncated: false,
                    by_get: client.is_get,
                    broken: false,
                    forgotten: false,
                });
                Some((state.runs.len() - 1, Some(0)))
            }
            Some(None) => {
                faults.push(format!("the id {last_id:?} is not of the upstream"));
                None
            }
            Some(Some((run, last))) => {
                state.counts.upstream_resumes += 1;
                if client.is_behind && !again {
                    faults.push(format!(
                        "request {request} reaches the upstream for events in the log, of run {run}"
                    ));
                }
                let found = &mut state.runs[run];
                if !(client.is_get && found.by_get) {
                    faults.push(format!(
                        "request {request} continues run {run}, and one of them is no GET"
                    ));
                }
                // The gateway may not have seen the end.
                let arrived = found.answers.iter().all(|answer| !answer.wire.is_dead());
                if found.ended_cleanly && arrived && !self.plan.continue_after_end {
                    faults.push(format!(
                        "request {request} continues run {run}, which has ended"
                    ));
                }
                let is_own = found.owner == client.owner
                    && found.stream == client.stream
                    && (found.family == client.family || self.plan.share_from.is_some());
                if !is_own {
                    faults.push(format!(
                        "request {request} continues run {run} of another client"
                    ));
                }
                if !again && client.after.is_some_and(|(after, _)| after != run) {
                    faults.push(format!("request {request} continues another run, {run}"));
                }
                if last >= found.sent {
                    faults.push(format!(
                        "request {request} continues after event {last}, which was not sent"
                    ));
                }
                if found.forgotten {
                    None
                } else {
                    found.answers.push(answer);
                    let from = match stream.resumes {
                        _ if last + 1 >= stream.events => None,
                        Resumes::After => Some(last + 1),
                        Resumes::Overlapping => Some(self.rng.usize(0..=last + 1)),
                        Resumes::FromTheStart => Some(0),
                    };
                    Some((run, from))
                }
            }
        };
        drop(state);
        self.world
            .note(|| format!("the upstream gets request {request}, after {last_id:?}: {target:?}"));
        faults.into_iter().for_each(|fault| self.world.fault(fault));
        target
    }

    /// Records the end of a response.
    fn record_end(&self, run: usize, end: Option<Ending>) {
        let mut state = self.world.state();
        let wire = &self.wire;
        let run = &mut state.runs[run];
        for answer in &mut run.answers {
            if Arc::ptr_eq(&answer.wire, wire) {
                answer.ended = true;
            }
        }
        match end {
            Some(Ending::Clean) => run.ended_cleanly = true,
            Some(Ending::Truncated) => run.truncated = true,
            Some(Ending::Broken) => run.broken = true,
            None => {}
        }
    }

    async fn feed(
        mut self,
        stream: Stream,
        run: usize,
        answer: usize,
        from: usize,
        mut feed: Sender<Bytes, BoxError>,
    ) {
        let owner = self.world.state().runs[run].owner;
        let stream_and_owner = (self.world.state().runs[run].stream, owner);
        let chaos = self.world.is_chaotic();
        let cut_at = (chaos && self.rng.usize(0..stream.cut) == 0)
            .then(|| self.rng.usize(0..=stream.events));
        let mut events_left = stream.polls_after.map(|most| self.rng.usize(0..=most));
        let sent_before = self.world.state().runs[run].sent;
        let mut is_cut = false;
        for number in from..stream.events {
            let text = stream.write(run, number, stream_and_owner);
            // The cut part must not look like a complete event.
            let whole = text.rfind("data: x").or(text.rfind("data: "));
            let whole = whole.unwrap_or(text.len());
            let half = self.rng.usize(0..whole);
            if cut_at == Some(number) {
                let _ = self.send(&mut feed, &text[..half]).await;
                is_cut = true;
                break;
            }
            if number >= sent_before && events_left == Some(0) {
                let mut ending = Ending::Clean;
                if stream.unfinished {
                    // Without a trailing line break, which could end an event.
                    let half = text[..half].trim_end_matches(['\r', '\n']);
                    let _ = self.send(&mut feed, half).await;
                    // The part may consist of whole blocks.
                    let is_whole = half.is_empty() || half.ends_with(stream.line_end);
                    if !is_whole {
                        ending = Ending::Truncated;
                    }
                }
                self.end(run, answer, feed, ending);
                return;
            }
            if number >= sent_before {
                self.world.note(|| format!("run {run} sends {number}"));
            }
            events_left = events_left
                .map(|events_left| events_left.saturating_sub(usize::from(number >= sent_before)));
            {
                let mut state = self.world.state();
                let sent = &mut state.runs[run].sent;
                *sent = (*sent).max(number + 1);
            }
            let cut = if self.rng.usize(0..3) == 0 { half } else { 0 };
            let (one, other) = text.split_at(cut);
            for part in [one, other].into_iter().filter(|part| !part.is_empty()) {
                if !self.send(&mut feed, part).await {
                    self.world
                        .note(|| format!("run {run} is dropped, after event {number}"));
                    self.record_end(run, Some(Ending::Broken));
                    return;
                }
                if !one.is_empty() {
                    sleep(upto(&mut self.rng, stream.pace)).await;
                }
            }
            sleep(upto(&mut self.rng, stream.pace)).await;
        }
        sleep(upto(&mut self.rng, stream.pace * 3)).await;
        if is_cut || cut_at == Some(stream.events) {
            self.world.note(|| format!("run {run} is cut"));
            self.world.count(|counts| counts.upstream_cuts += 1);
            self.record_end(run, Some(Ending::Broken));
            feed.abort("the connection breaks".into());
            return;
        }
        self.end(run, answer, feed, Ending::Clean);
    }

    async fn send(&self, feed: &mut Sender<Bytes, BoxError>, text: &str) -> bool {
        feed.send_data(Bytes::copy_from_slice(text.as_bytes()))
            .await
            .is_ok()
    }

    fn end(&self, run: usize, answer: usize, feed: Sender<Bytes, BoxError>, ending: Ending) {
        self.world
            .note(|| format!("run {run} ends its response {answer}: {ending:?}"));
        self.world.count(|counts| counts.clean_ends += 1);
        self.record_end(run, Some(ending));
        drop(feed);
    }
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::default()));
    *response.status_mut() = status;
    response
}

fn read_id(id: &str) -> Option<(usize, usize)> {
    let mut parts = id.strip_prefix("up-")?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Returns whether the text contains an id in the form of the layer's ids.
pub fn contains_layer_id(text: &str) -> bool {
    let words = text.split(|letter: char| !letter.is_ascii_hexdigit() && letter != '.');
    words.into_iter().any(|word| {
        let mut parts = word.split('.');
        parts.next().is_some_and(|token| token.len() == 32)
            && parts.next().is_some_and(|epoch| !epoch.is_empty())
            && parts.next().is_some()
    })
}
