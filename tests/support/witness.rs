//! Interceptors that deny, and interceptors that testify.

use std::future::pending;

use tokio::sync::mpsc;
use tower_sse_proxy::{
    ErrorKind, Event, SseProxyLayer,
    codec::Block,
    intercept::{Interceptor, MakeInterceptor, StreamEnd, StreamHead, Verdict},
};

use super::soon;

/// What [`Deny`] lets nobody read.
pub const SECRET: &str = "hunter2";

/// Drops every event and every other block in which the secret stands.
#[derive(Clone, Copy, Debug)]
pub struct Deny;

impl Interceptor for Deny {
    fn event(&mut self, event: Event) -> Verdict {
        let found = event.data().contains(SECRET) || stands_in(&event);
        (!found).then_some(event).into()
    }

    fn block(&mut self, block: Block) -> Verdict {
        (!stands_in(&block)).then_some(block).into()
    }
}

fn stands_in(block: &Block) -> bool {
    String::from_utf8_lossy(block.as_bytes()).contains(SECRET)
}

impl Deny {
    /// To be installed in a layer.
    pub fn opened(_: &StreamHead<'_>) -> Option<Self> {
        Some(Self)
    }
}

/// What a [`Witness`] has seen of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    Event(String),
    /// Any other block, raw.
    Block(String),
    Complete,
    Truncated,
    Failed(ErrorKind),
    ClientGone,
    /// The interceptor itself is gone.
    Dropped,
}

/// Forwards everything and notes it.
#[derive(Clone, Debug)]
pub struct Witness(mpsc::UnboundedSender<Note>);

#[derive(Debug)]
pub struct Notes(mpsc::UnboundedReceiver<Note>);

pub fn witness() -> (Witness, Notes) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Witness(sender), Notes(receiver))
}

impl Notes {
    pub async fn next(&mut self) -> Note {
        soon(self.0.recv()).await.unwrap()
    }

    /// What is noted by now.
    pub fn so_far(&mut self) -> Vec<Note> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }

    /// All that the next stream's interceptor notes from now on, until it is dropped.
    pub async fn until_dropped(&mut self) -> Vec<Note> {
        let mut notes = Vec::new();
        loop {
            match self.next().await {
                Note::Dropped => return notes,
                note => notes.push(note),
            }
        }
    }

    /// The ends that were told until the interceptor was dropped: there must be one.
    pub async fn ends(&mut self) -> Vec<Note> {
        let mut notes = self.until_dropped().await;
        notes.retain(|note| !matches!(note, Note::Event(_) | Note::Block(_)));
        notes
    }
}

impl MakeInterceptor for Witness {
    fn open(&self, _: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
        Some(Box::new(Watch(self.0.clone())))
    }
}

struct Watch(mpsc::UnboundedSender<Note>);

impl Interceptor for Watch {
    fn event(&mut self, event: Event) -> Verdict {
        let _ = self.0.send(Note::Event(event.data().into_owned()));
        event.into()
    }

    fn block(&mut self, block: Block) -> Verdict {
        let raw = String::from_utf8_lossy(block.as_bytes()).into_owned();
        let _ = self.0.send(Note::Block(raw));
        block.into()
    }

    fn end(&mut self, end: StreamEnd<'_>) -> Verdict {
        let _ = self.0.send(match end {
            StreamEnd::Complete => Note::Complete,
            StreamEnd::Truncated => Note::Truncated,
            StreamEnd::Failed(error) => Note::Failed(error.kind()),
            StreamEnd::ClientGone => Note::ClientGone,
            other => panic!("an end that is not known: {other:?}"),
        });
        Verdict::Drop
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.send(Note::Dropped);
    }
}

/// Fails at `fail`, ends the stream at `end`, and is lost in thought at `ponder`.
fn moody(event: Event) -> Verdict {
    match &*event.data() {
        "fail" => Verdict::fail("told to"),
        "panic" => panic!("told to"),
        "end" => Verdict::End(vec![event.into()]),
        "ponder" => Verdict::defer(pending::<Result<Event, _>>()),
        _ => event.into(),
    }
}

/// A layer with a witness before the moody one and one behind it.
pub fn witnessed() -> (SseProxyLayer, [Notes; 2]) {
    let ((first, notes), (second, more)) = (witness(), witness());
    let layer = SseProxyLayer::default()
        .intercept(first)
        .intercept(moody)
        .intercept(second)
        .max_event_bytes(1000);
    (layer, [notes, more])
}
