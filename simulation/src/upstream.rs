//! The upstream: sends streams of events that say what they are, ends and breaks them, and goes on with them.

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
    world::{Run, Sending, World},
};

type Body = Either<Channel<Bytes, BoxError>, Full<Bytes>>;

/// What an event says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub run: usize,
    pub number: usize,
    pub stream: usize,
    pub owner: usize,
    pub is_last: bool,
    pub done: bool,
    pub is_whole: bool,
}

impl Told {
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
    /// Whether a client may see this event.
    pub fn shows(&self, number: usize) -> bool {
        let denied = self.denied.is_some_and(|every| number % every == every - 1);
        !denied || number + 1 == self.events
    }

    fn write(&self, run: usize, number: usize, (stream, owner): (usize, usize)) -> String {
        let end = self.line_end;
        let is_last = number + 1 == self.events;
        let mut text = String::new();
        if self.asides && number % 5 == 2 {
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
        if is_last && self.says_done {
            flags.push('d');
        }
        let length = number * 7919 % (self.size + 1);
        text += &format!("data: event {run} {number} {stream} {owner} {flags} {length}{end}");
        text += &format!("data: {}{end}", "x".repeat(length));
        if !self.shows(number) {
            text += &format!("data: {SECRET}{end}");
        }
        text += end;
        if self.asides && self.ids && number % 7 == 3 {
            // An id alone. What comes after it is what comes after the event.
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

/// How an answer ended.
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
        // It broke in the middle of the request: nobody has asked.
        if body.collect().await.is_err() {
            return Ok(status(StatusCode::BAD_REQUEST));
        }
        for (name, value) in &parts.headers {
            if has_our_id(&String::from_utf8_lossy(value.as_bytes())) {
                self.world
                    .fault(format!("an id of ours is at the upstream, in {name}"));
            }
        }
        if has_our_id(&parts.uri.to_string()) {
            self.world
                .fault("an id of ours is at the upstream, in the URI");
        }
        let number = |name: &str| -> usize {
            let value = parts.headers[name].to_str().expect("a number");
            value.parse().expect("a number")
        };
        let request = number("x-request");
        let last_id = parts.headers.get("last-event-id");
        let last_id = last_id.map(|id| id.to_str().expect("text").to_owned());
        let begun = self.begin(request, last_id.as_deref());
        let delay = self.plan.streams[self.world.state().requests[request].stream].head_delay;
        sleep(upto(&mut self.rng, delay)).await;
        let Some((run, from)) = begun else {
            return Ok(status(StatusCode::NOT_FOUND));
        };
        if self.world.is_chaotic() && self.rng.usize(0..12) == 0 {
            self.over(run, None);
            return Ok(status(StatusCode::SERVICE_UNAVAILABLE));
        }
        let stream = self.world.state().runs[run].stream;
        if last_id.is_some() && from.is_none() {
            self.over(run, None);
            return Ok(status(StatusCode::NO_CONTENT));
        }
        let (feed, body) = Channel::new(1);
        let world = Arc::clone(&self.world);
        let sending = self.sendings(run) - 1;
        let plan = self.plan.streams[stream].clone();
        world.spawn(
            "the upstream",
            self.feed(plan, run, sending, from.unwrap_or(0), feed),
        );
        let mut response = Response::new(Either::Left(body));
        let mime = header::HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, mime);
        Ok(response)
    }

    fn sendings(&self, run: usize) -> usize {
        self.world.state().runs[run].answers.len()
    }

    /// The run that is asked for and where to begin, if there is such a run; nowhere if there is nothing left.
    fn begin(&mut self, request: usize, last_id: Option<&str>) -> Option<(usize, Option<usize>)> {
        let mut state = self.world.state();
        state.counts.asked += 1;
        let asked = &mut state.requests[request];
        asked.upstream += 1;
        let asked = asked.clone();
        let mut faults = Vec::new();
        let again = asked.upstream > 1;
        if again && !(self.plan.reconnects && asked.is_get && last_id.is_some()) {
            faults.push(format!("request {request} asks the upstream twice"));
        }
        if asked.is_thief {
            faults.push(format!(
                "request {request} has another's id, and asks the upstream"
            ));
        }
        let stream = &self.plan.streams[asked.stream];
        let sending = Sending {
            request,
            wire: Arc::clone(&self.wire),
            begun: false,
            over: false,
        };
        let busy: Vec<usize> = asked
            .under_way
            .iter()
            .filter(|(run, answer)| {
                // What goes on with a stream may be another one for the layer, and is not shared.
                *answer == 0 && state.runs[*run].answers[*answer].is_under_way()
            })
            .map(|(run, _)| *run)
            .collect();
        let begun = match last_id.map(read_id) {
            None => {
                if asked.has_id {
                    // By a setting what ended without having said that it was done is asked for as by a new client, and nothing
                    // else is.
                    let may = asked.after.is_none_or(|(run, number)| {
                        let run = &state.runs[run];
                        let has_all = (number + 1..run.sent).all(|number| !stream.shows(number));
                        let is_over = stream.ids || stream.says_done || !self.plan.continues;
                        !is_over && run.by_get && run.ended_cleanly && has_all
                    });
                    if !(may && asked.is_get) {
                        let after = asked.after;
                        faults.push(format!("request {request}, after {after:?}, begins anew"));
                    }
                }
                // A stream of which nothing can be kept cannot be joined, nor one of somebody who had waited for an answer that
                // was none.
                if self.plan.shares.is_some()
                    && self.plan.all_bytes > 100_000
                    && !self.world.is_chaotic()
                    && let Some(run) = busy.first()
                {
                    faults.push(format!("request {request} does not share run {run}"));
                }
                state.runs.push(Run {
                    stream: asked.stream,
                    owner: asked.owner,
                    family: asked.family,
                    sent: 0,
                    seen: false,
                    answers: vec![sending],
                    ended_cleanly: false,
                    truncated: false,
                    by_get: asked.is_get,
                    broken: false,
                    forgotten: false,
                });
                Some((state.runs.len() - 1, Some(0)))
            }
            Some(None) => {
                faults.push(format!("the upstream gave no id {last_id:?}"));
                None
            }
            Some(Some((run, last))) => {
                state.counts.asked_to_go_on += 1;
                if asked.is_behind && !again {
                    faults.push(format!(
                        "request {request} asks for what is kept, of run {run}"
                    ));
                }
                let known = &mut state.runs[run];
                if !(asked.is_get && known.by_get) {
                    faults.push(format!(
                        "request {request} continues run {run}, and one of them is no GET"
                    ));
                }
                // The gateway may not have got to see the end.
                let arrived = known.answers.iter().all(|answer| !answer.wire.is_dead());
                if known.ended_cleanly && arrived && !self.plan.continues {
                    faults.push(format!(
                        "request {request} continues run {run}, which has ended"
                    ));
                }
                let is_mine = known.owner == asked.owner
                    && known.stream == asked.stream
                    && (known.family == asked.family || self.plan.shares.is_some());
                if !is_mine {
                    faults.push(format!(
                        "request {request} goes on with run {run}, another's"
                    ));
                }
                if !again && asked.after.is_some_and(|(after, _)| after != run) {
                    faults.push(format!("request {request} goes on with another run, {run}"));
                }
                if last >= known.sent {
                    faults.push(format!(
                        "request {request} goes on after {last}, not sent yet"
                    ));
                }
                if known.forgotten {
                    None
                } else {
                    known.answers.push(sending);
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
        self.world.note(|| {
            format!("the upstream is asked by request {request}, after {last_id:?}: {begun:?}")
        });
        faults.into_iter().for_each(|fault| self.world.fault(fault));
        begun
    }

    /// An answer is over: as it should be, or not.
    fn over(&self, run: usize, end: Option<Ending>) {
        let mut state = self.world.state();
        let wire = &self.wire;
        let run = &mut state.runs[run];
        for answer in &mut run.answers {
            if Arc::ptr_eq(&answer.wire, wire) {
                answer.over = true;
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
        sending: usize,
        from: usize,
        mut feed: Sender<Bytes, BoxError>,
    ) {
        let owner = self.world.state().runs[run].owner;
        let place = (self.world.state().runs[run].stream, owner);
        let chaos = self.world.is_chaotic();
        let cut_at = (chaos && self.rng.usize(0..stream.cut) == 0)
            .then(|| self.rng.usize(0..=stream.events));
        let mut left = stream.polls_after.map(|most| self.rng.usize(0..=most));
        let already = self.world.state().runs[run].sent;
        let mut was_left = false;
        for number in from..stream.events {
            let text = stream.write(run, number, place);
            // Not so much that it could be taken for all of it.
            let whole = text.rfind("data: x").or(text.rfind("data: "));
            let whole = whole.unwrap_or(text.len());
            let half = self.rng.usize(0..whole);
            if cut_at == Some(number) {
                let _ = self.send(&mut feed, &text[..half]).await;
                was_left = true;
                break;
            }
            if number >= already && left == Some(0) {
                let mut ending = Ending::Clean;
                if stream.unfinished {
                    // Not a line break: that could be the end of an event.
                    let half = text[..half].trim_end_matches(['\r', '\n']);
                    let _ = self.send(&mut feed, half).await;
                    // It may begin with whole blocks.
                    let is_whole = half.is_empty() || half.ends_with(stream.line_end);
                    if !is_whole {
                        ending = Ending::Truncated;
                    }
                }
                self.end(run, sending, feed, ending);
                return;
            }
            if number >= already {
                self.world.note(|| format!("run {run} sends {number}"));
            }
            left = left.map(|left| left.saturating_sub(usize::from(number >= already)));
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
                        .note(|| format!("run {run} is let go of, after {number}"));
                    self.over(run, Some(Ending::Broken));
                    return;
                }
                if !one.is_empty() {
                    sleep(upto(&mut self.rng, stream.pace)).await;
                }
            }
            sleep(upto(&mut self.rng, stream.pace)).await;
        }
        sleep(upto(&mut self.rng, stream.pace * 3)).await;
        if was_left || cut_at == Some(stream.events) {
            self.world.note(|| format!("run {run} is cut"));
            self.world.count(|counts| counts.upstream_cuts += 1);
            self.over(run, Some(Ending::Broken));
            feed.abort("the upstream breaks off".into());
            return;
        }
        self.end(run, sending, feed, Ending::Clean);
    }

    async fn send(&self, feed: &mut Sender<Bytes, BoxError>, text: &str) -> bool {
        feed.send_data(Bytes::copy_from_slice(text.as_bytes()))
            .await
            .is_ok()
    }

    fn end(&self, run: usize, sending: usize, feed: Sender<Bytes, BoxError>, ending: Ending) {
        self.world
            .note(|| format!("run {run} ends its answer {sending}: {ending:?}"));
        self.world.count(|counts| counts.clean_ends += 1);
        self.over(run, Some(ending));
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

/// Whether an id as the layer gives it is anywhere in this text.
pub fn has_our_id(text: &str) -> bool {
    let words = text.split(|letter: char| !letter.is_ascii_hexdigit() && letter != '.');
    words.into_iter().any(|word| {
        let mut parts = word.split('.');
        parts.next().is_some_and(|token| token.len() == 32)
            && parts.next().is_some_and(|epoch| !epoch.is_empty())
            && parts.next().is_some()
    })
}
