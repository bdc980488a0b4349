//! Requests that ride on one stream: who asks the service, and who waits for what comes of it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    recording::{Recording, Target, Whose},
    replay::{Join, Reader},
    resume::Rejoin,
};

type Key = (Whose, Target);

/// All streams of a layer that others may join, and all calls that may become one.
#[derive(Default)]
pub(crate) struct Shared {
    flights: Mutex<Flights>,
}

#[derive(Default)]
struct Flights {
    by_key: HashMap<Key, Flight>,
    /// How many calls there were.
    calls: u64,
}

enum Flight {
    /// The service has been asked, and these wait for its answer. It is to be asked for as long as anybody has an interest in it.
    Asking {
        call: u64,
        waiting: Vec<oneshot::Sender<Rejoin>>,
        interest: mpsc::WeakSender<()>,
    },
    Open(Arc<Recording>),
}

/// What a request does.
pub(crate) enum Boarding {
    /// It joins a stream that is there.
    Open(Rejoin),
    /// It waits for one. If it gets none, there is nothing that it could share.
    Wait(oneshot::Receiver<Rejoin>, Interest),
    /// It asks the service.
    Lead(Ticket, Interest, Nobody),
}

/// Somebody wants to have what the service was asked for.
#[derive(Clone)]
pub(crate) struct Interest {
    _sender: mpsc::Sender<()>,
}

/// Resolves when nobody wants it any more.
pub(crate) struct Nobody(mpsc::Receiver<()>);

/// To tell those who wait what came of it, if only by dropping this.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    call: u64,
    key: Option<Key>,
    join: Join,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn board(self: &Arc<Self>, key: Key, join: Join) -> Boarding {
        let mut flights = self.lock();
        match flights.by_key.get_mut(&key) {
            Some(Flight::Open(recording)) => {
                if let Some(rejoin) = joined(recording, join) {
                    return Boarding::Open(rejoin);
                }
            }
            Some(Flight::Asking {
                waiting, interest, ..
            }) => {
                if let Some(sender) = interest.upgrade() {
                    let (told, wait) = oneshot::channel();
                    waiting.retain(|waiting| !waiting.is_closed());
                    waiting.push(told);
                    return Boarding::Wait(wait, Interest { _sender: sender });
                }
            }
            None => {}
        }
        let (sender, nobody) = mpsc::channel(1);
        flights.calls += 1;
        let call = flights.calls;
        let flight = Flight::Asking {
            call,
            waiting: Vec::new(),
            interest: sender.downgrade(),
        };
        flights.by_key.insert(key.clone(), flight);
        let ticket = Ticket {
            shared: Arc::clone(self),
            call,
            key: Some(key),
            join,
        };
        Boarding::Lead(ticket, Interest { _sender: sender }, Nobody(nobody))
    }

    /// The stream is over: nobody can join it.
    pub(crate) fn remove(&self, recording: &Arc<Recording>) {
        let key = (recording.whose.clone(), recording.target.clone());
        let mut flights = self.lock();
        let open = flights.by_key.get(&key);
        if matches!(open, Some(Flight::Open(open)) if Arc::ptr_eq(open, recording)) {
            flights.by_key.remove(&key);
        }
    }
}

fn joined(recording: &Arc<Recording>, join: Join) -> Option<Rejoin> {
    let seat = recording.channel.join_live(join)?;
    Some(Rejoin {
        head: recording.head(),
        reader: Some(Reader::seated(Arc::clone(&recording.channel), seat)),
        first: None,
    })
}

impl Flights {
    /// Those who wait for this call; there are none if it was given up and somebody else has called since.
    fn take(&mut self, key: &Key, call: u64) -> Option<Vec<oneshot::Sender<Rejoin>>> {
        match self.by_key.get_mut(key) {
            Some(Flight::Asking {
                call: asking,
                waiting,
                ..
            }) if *asking == call => {
                let waiting = std::mem::take(waiting);
                self.by_key.remove(key);
                Some(waiting)
            }
            _ => None,
        }
    }
}

impl Ticket {
    /// The service has answered with a stream, for those who wait and those who come later.
    pub(crate) fn land(mut self, recording: &Arc<Recording>) {
        let Some(key) = self.key.take() else { return };
        // What opened a session of its own is nobody else's.
        let is_it = (&recording.whose, &recording.target) == (&key.0, &key.1);
        let mut flights = self.shared.lock();
        let Some(waiting) = flights.take(&key, self.call) else {
            return;
        };
        if !is_it {
            return;
        }
        flights
            .by_key
            .insert(key, Flight::Open(Arc::clone(recording)));
        drop(flights);
        for waiting in waiting {
            if let Some(rejoin) = joined(recording, self.join) {
                let _ = waiting.send(rejoin);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            drop(self.shared.lock().take(&key, self.call));
        }
    }
}

impl Nobody {
    pub(crate) async fn wants_it(mut self) {
        // Nothing is ever sent.
        self.0.recv().await;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
