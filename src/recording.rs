//! A stream that is kept: what is known of it beside what it has sent.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use http::{HeaderMap, HeaderName, HeaderValue, header, request, response};
use tokio::sync::OwnedMutexGuard;

use crate::{
    error::Error,
    replay::{Channel, Ending, Reader, Record, Replay, State, Token},
    resume::head_with,
    session::{Owner, SessionId},
    upstream::{Over, Progress, Sequel, coding::Plain},
};

/// Who may have a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Whose {
    pub(crate) owner: Owner,
    pub(crate) session: Option<SessionId>,
}

/// What a stream was asked for by, within the scope of this name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// Path and query.
    Path(Arc<str>, String),
    /// The key by which it is shared.
    Shared(Arc<str>, String),
}

impl Target {
    pub(crate) fn of(request: &request::Parts, replay: &Replay) -> Self {
        let scope = Arc::clone(&replay.scope);
        if let Some(share) = &replay.share
            && let Some(key) = (share.by)(request)
        {
            return Self::Shared(scope, key);
        }
        let mut target = request.uri.path().to_owned();
        let query = request.uri.query().unwrap_or_default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let name = pair.split('=').next();
            if name != replay.query.as_deref() {
                // No path has one in it.
                target += "?";
                target += pair;
            }
        }
        Self::Path(scope, target)
    }
}

/// One stream, for those who come back to it.
pub(crate) struct Recording {
    pub(crate) token: Token,
    /// By the real clock: of two streams one began first.
    pub(crate) since: Instant,
    pub(crate) whose: Whose,
    pub(crate) target: Target,
    /// The head of the first answer, as its client got it.
    fields: Box<[(HeaderName, HeaderValue)]>,
    /// Events keep the ids that they have.
    upstream_ids: bool,
    pub(crate) channel: Arc<Channel>,
    pub(crate) progress: Arc<Progress>,
    /// Of those who share it, one asks the upstream to go on, for all.
    turns: Option<Arc<Turns>>,
    /// Takes more answers of the upstream; of a type that only the service knows.
    answers: Box<dyn Any + Send + Sync>,
}

impl Recording {
    /// A stream, and what goes on with it when it has another answer.
    pub(crate) fn new<B: Send + 'static>(
        token: Token,
        (whose, target): (Whose, Target),
        progress: Progress,
        headers: &HeaderMap,
        upstream_ids: bool,
        channel: Channel,
    ) -> (Self, Waiting<B>) {
        // These are of the one answer, not of the stream.
        let of_the_answer = [header::SET_COOKIE, header::DATE];
        let fields = headers
            .iter()
            .filter(|(name, _)| !of_the_answer.contains(name));
        let fields = fields.map(|(name, value)| (name.clone(), value.clone()));
        let answers = Arc::<Next<B>>::default();
        let channel = Arc::new(channel);
        let progress = Arc::new(progress);
        let waiting = Waiting {
            channel: Arc::clone(&channel),
            progress: Arc::clone(&progress),
            more: Arc::clone(&answers),
            over: None,
            untold: None,
        };
        let turns = matches!(target, Target::Shared(..)).then(Arc::default);
        let recording = Self {
            token,
            since: Instant::now(),
            whose,
            target,
            fields: fields.collect(),
            upstream_ids,
            channel,
            progress,
            turns,
            answers: Box::new(answers),
        };
        (recording, waiting)
    }

    /// The head of an answer that goes on with it.
    pub(crate) fn head(&self) -> response::Parts {
        head_with(self.fields.iter().cloned().collect())
    }

    /// What events get for an id, if they get one.
    pub(crate) fn stamp(&self) -> Option<Token> {
        (!self.upstream_ids).then_some(self.token)
    }

    /// Waits until nobody else asks the upstream to go on.
    pub(crate) async fn turn(&self) -> Turn {
        let Some(turns) = &self.turns else {
            return Turn::default();
        };
        if let Ok(held) = Arc::clone(&turns.one).try_lock_owned() {
            return Turn::new(turns, held, false, false);
        }
        let before = turns.failed.load(Ordering::Relaxed);
        let held = Arc::clone(&turns.one).lock_owned().await;
        let failed = turns.failed.load(Ordering::Relaxed) != before;
        Turn::new(turns, held, true, failed)
    }

    /// Goes on with another answer of the upstream, if one is waited for. Given back if not.
    pub(crate) fn go_on<B: Send + 'static>(&self, answer: Plain<B>) -> Result<(), Plain<B>> {
        match self.answers.downcast_ref::<Arc<Next<B>>>() {
            Some(next) if self.channel.go_on() => {
                next.put(Some(answer));
                Ok(())
            }
            _ => Err(answer),
        }
    }

    /// The upstream has no more to go on with. Whether there is something to read all the same, or will be: what interceptors hold
    /// comes to its end.
    pub(crate) fn finish<B: 'static>(&self, reader: &Reader, last_id: &str) -> bool {
        if self.has_moved_on(reader, last_id) {
            return true;
        }
        match self.answers.downcast_ref::<Arc<Next<B>>>() {
            Some(next) if self.progress.is_held_back() && self.channel.go_on() => {
                self.progress.complete();
                next.put(None);
                true
            }
            _ => false,
        }
    }

    /// Whether something has happened to the stream since the upstream was asked for this reader to go on after this id: another
    /// answer came first, or interceptors have let go of what they held, or have not and never will.
    pub(crate) fn has_moved_on(&self, reader: &Reader, last_id: &str) -> bool {
        self.channel.state() == State::Live
            || reader.has_events()
            || self.progress.last_id().as_deref() != Some(last_id)
    }
}

#[derive(Default)]
struct Turns {
    one: Arc<tokio::sync::Mutex<()>>,
    /// How often the upstream was asked in vain.
    failed: AtomicU64,
}

/// It is its holder's turn to ask the upstream to go on, until this is dropped.
#[derive(Default)]
pub(crate) struct Turn {
    turns: Option<(Arc<Turns>, OwnedMutexGuard<()>)>,
    /// Somebody else has had a turn before.
    pub(crate) waited: bool,
    /// In vain.
    pub(crate) failed: bool,
}

impl Turn {
    fn new(turns: &Arc<Turns>, held: OwnedMutexGuard<()>, waited: bool, failed: bool) -> Self {
        Self {
            turns: Some((Arc::clone(turns), held)),
            waited,
            failed,
        }
    }

    /// The upstream was asked in vain: those who have waited need not ask it again at once.
    pub(crate) fn fail(&self) {
        if let Some((turns, _)) = &self.turns {
            turns.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A place for what follows, and who waits for it. (A channel would take more room than the rest of a stream.)
struct Next<B>(Mutex<(Option<Follows<B>>, Option<Waker>)>);

/// Another answer, or the news that there is none.
type Follows<B> = Option<Plain<B>>;

impl<B> Next<B> {
    fn put(&self, answer: Follows<B>) {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        place.0 = Some(answer);
        let waker = place.1.take();
        drop(place);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Follows<B>> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, waker) = &mut *place;
        if let Some(answer) = answer.take() {
            return Poll::Ready(answer);
        }
        *waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<B> Default for Next<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl Record for Recording {
    type Whose = Whose;

    fn whose(&self) -> &Whose {
        &self.whose
    }

    fn channel(&self) -> &Channel {
        &self.channel
    }
}

/// Waits for a client to come back, by whose request the upstream is asked to go on.
pub(crate) struct Waiting<B> {
    channel: Arc<Channel>,
    progress: Arc<Progress>,
    more: Arc<Next<B>>,
    over: Option<Over>,
    /// What readers are to be told of it.
    untold: Option<Ending>,
}

impl<B> Waiting<B> {
    fn tell(&mut self) {
        if let Some(ending) = self.untold.take() {
            self.channel.suspend(ending);
        }
    }
}

impl<B: Send> Sequel<B> for Waiting<B> {
    fn handle_over(&mut self, over: Over) -> Result<(), Over> {
        if !self.progress.wait() {
            return Err(match over {
                // All was sent before, and an end is an end.
                Over::Broken(_) if self.progress.is_complete() => Over::Clean(None),
                over => over,
            });
        }
        let (over, ending) = match over {
            Over::Clean(trailers) => (Over::Clean(trailers.clone()), Ending::Clean(trailers)),
            Over::Broken(error) => {
                let error = Arc::new(error);
                (Over::Broken(Error::shared(&error)), Ending::Broken(error))
            }
        };
        self.over = Some(over);
        self.untold = Some(ending);
        Ok(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Plain<B>, Over>> {
        self.tell();
        let Some(answer) = ready!(self.more.poll_take(cx)) else {
            self.progress.give_up();
            // However its last answer ended: that was all.
            return Poll::Ready(Err(match self.over.take() {
                Some(Over::Clean(trailers)) => Over::Clean(trailers),
                _ => Over::Clean(None),
            }));
        };
        self.progress.begin_again();
        self.over = None;
        Poll::Ready(Ok(answer))
    }

    fn give_up(&mut self) -> Option<Over> {
        self.tell();
        if !self.channel.stop_waiting() {
            // An answer is on its way.
            return None;
        }
        self.progress.give_up();
        self.over.take()
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("whose", &self.whose)
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}
