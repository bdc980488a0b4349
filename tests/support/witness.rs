//! Interceptors for tests: [`Deny`] drops blocks with a secret, [`Witness`] reports every call to the test.

use std::future::pending;

use tokio::sync::mpsc;
use tower_sse_proxy::{
    ErrorKind, Event, SseProxyLayer,
    codec::Block,
    intercept::{Interceptor, MakeInterceptor, StreamEnd, StreamHead, Verdict},
};

use super::soon;

/// The text that [`Deny`] withholds from clients.
pub const SECRET: &str = "hunter2";

/// Drops every event and every other block that contains [`SECRET`].
#[derive(Clone, Copy, Debug)]
pub struct Deny;

impl Interceptor for Deny {
    fn event(&mut self, event: Event) -> Verdict {
        let found = event.data().contains(SECRET) || has_secret(&event);
        (!found).then_some(event).into()
    }

    fn block(&mut self, block: Block) -> Verdict {
        (!has_secret(&block)).then_some(block).into()
    }
}

fn has_secret(block: &Block) -> bool {
    String::from_utf8_lossy(block.as_bytes()).contains(SECRET)
}

impl Deny {
    /// Opens the interceptor for a stream. Pass this function to `SseProxyLayer::intercept`.
    pub fn opened(_: &StreamHead<'_>) -> Option<Self> {
        Some(Self)
    }
}

/// One call of a [`Witness`], or its drop.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    Event(String),
    /// The bytes of a block without data.
    Block(String),
    Complete,
    Truncated,
    Failed(ErrorKind),
    ClientGone,
    /// The interceptor was dropped.
    Dropped,
}

/// Opens an interceptor for each stream that forwards every block and sends a [`Note`] of every call.
#[derive(Clone, Debug)]
pub struct Witness(mpsc::UnboundedSender<Note>);

/// Receives the notes of a [`Witness`].
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

    /// The notes that have arrived and were not read yet. Does not wait.
    pub fn so_far(&mut self) -> Vec<Note> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }

    /// Reads notes until the interceptor is dropped.
    pub async fn until_dropped(&mut self) -> Vec<Note> {
        let mut notes = Vec::new();
        loop {
            match self.next().await {
                Note::Dropped => return notes,
                note => notes.push(note),
            }
        }
    }

    /// Reads notes until the interceptor is dropped, and returns the notes of `end` calls. A correct layer makes one such call.
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
            other => panic!("unknown StreamEnd: {other:?}"),
        });
        Verdict::Drop
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.send(Note::Dropped);
    }
}

/// An interceptor that obeys the event's data: `fail`, `panic` and `end` give that verdict, and `defer` gives a verdict that stays
/// deferred.
fn obey_data(event: Event) -> Verdict {
    match &*event.data() {
        "fail" => Verdict::fail("event says fail"),
        "panic" => panic!("event says panic"),
        "end" => Verdict::End(vec![event.into()]),
        "defer" => Verdict::defer(pending::<Result<Event, _>>()),
        _ => event.into(),
    }
}

/// A layer with the interceptor `obey_data` between two witnesses. Returns the notes of both witnesses.
pub fn witnessed_layer() -> (SseProxyLayer, [Notes; 2]) {
    let ((first, notes), (second, more)) = (witness(), witness());
    let layer = SseProxyLayer::default()
        .intercept(first)
        .intercept(obey_data)
        .intercept(second)
        .max_event_bytes(1000);
    (layer, [notes, more])
}
