//! A stream that is kept: what is known of it beside what it has sent.

use std::{
    any::Any,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, header, request};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    error::Error,
    replay::{Channel, Ending, Reader, Record, Replay, State, Token},
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
    pub(crate) since: Instant,
    pub(crate) whose: Whose,
    pub(crate) target: Target,
    /// The head of the first answer, as its client got it.
    pub(crate) headers: HeaderMap,
    /// Events keep the ids that they have.
    upstream_ids: bool,
    pub(crate) channel: Arc<Channel>,
    pub(crate) progress: Arc<Progress>,
    /// Takes more answers of the upstream; of a type that only the service knows.
    answers: Box<dyn Any + Send + Sync>,
}

impl Recording {
    /// A stream, and what goes on with it when it has another answer.
    pub(crate) fn new<B: Send + 'static>(
        token: Token,
        (whose, target): (Whose, Target),
        mut headers: HeaderMap,
        upstream_ids: bool,
        channel: Channel,
    ) -> (Self, Waiting<B>) {
        // These are of the one answer, not of the stream.
        for name in [header::SET_COOKIE, header::DATE] {
            headers.remove(name);
        }
        let (answers, more) = mpsc::unbounded_channel::<Plain<B>>();
        let channel = Arc::new(channel);
        let progress = Arc::<Progress>::default();
        let waiting = Waiting {
            channel: Arc::clone(&channel),
            progress: Arc::clone(&progress),
            more,
            over: None,
            untold: None,
        };
        let recording = Self {
            token,
            since: Instant::now(),
            whose,
            target,
            headers,
            upstream_ids,
            channel,
            progress,
            answers: Box::new(answers),
        };
        (recording, waiting)
    }

    /// What events get for an id, if they get one.
    pub(crate) fn stamp(&self) -> Option<Token> {
        (!self.upstream_ids).then_some(self.token)
    }

    /// Goes on with another answer of the upstream, if one is waited for. Given back if not.
    pub(crate) fn go_on<B: Send + 'static>(&self, answer: Plain<B>) -> Result<(), Plain<B>> {
        match self
            .answers
            .downcast_ref::<mpsc::UnboundedSender<Plain<B>>>()
        {
            Some(answers) if self.channel.go_on() => answers.send(answer).map_err(|back| back.0),
            _ => Err(answer),
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
    more: mpsc::UnboundedReceiver<Plain<B>>,
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
            return Err(over);
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
        match self.more.poll_recv(cx) {
            Poll::Ready(Some(answer)) => {
                self.progress.begin_again();
                self.over = None;
                Poll::Ready(Ok(answer))
            }
            // Who would send more is gone: the stream is known no more.
            Poll::Ready(None) => Poll::Ready(Err(self.give_up().unwrap_or(Over::Clean(None)))),
            Poll::Pending => Poll::Pending,
        }
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
