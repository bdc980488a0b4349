//! All logs of a layer: which there are, and how much they keep together.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use super::{Channel, Token};

/// What is known of a stream beside its log.
pub(crate) trait Record {
    /// Whose it is.
    type Whose: Clone + Eq + Hash;

    fn whose(&self) -> &Self::Whose;
    fn channel(&self) -> &Channel;
}

/// Finds streams by their token, and lets go of the oldest when there is no room for all.
pub(crate) struct Logs<R: Record> {
    shelf: Mutex<Shelf<R>>,
    /// Below 0 for a moment, where what was written is let go of before it was counted.
    bytes: AtomicI64,
    most: usize,
}

struct Shelf<R: Record> {
    by_token: HashMap<Token, Arc<R>>,
    by_whose: HashMap<R::Whose, HashSet<Token>>,
    /// All, each with how often it had been written to when it was put here.
    queue: VecDeque<(Token, u64)>,
}

impl<R: Record> Logs<R> {
    /// Logs that keep at most so many bytes together.
    pub(crate) fn new(most: usize) -> Self {
        let shelf = Shelf {
            by_token: HashMap::new(),
            by_whose: HashMap::new(),
            queue: VecDeque::new(),
        };
        Self {
            shelf: Mutex::new(shelf),
            bytes: AtomicI64::new(0),
            most,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shelf<R>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, token: Token, record: Arc<R>) {
        let mut shelf = self.lock();
        let whose = record.whose().clone();
        shelf.by_whose.entry(whose).or_default().insert(token);
        shelf.by_token.insert(token, record);
        shelf.queue.push_back((token, 0));
    }

    pub(crate) fn find(&self, token: Token) -> Option<Arc<R>> {
        self.lock().by_token.get(&token).cloned()
    }

    /// All streams of somebody.
    pub(crate) fn all_of(&self, whose: &R::Whose) -> Vec<Arc<R>> {
        let shelf = self.lock();
        let tokens = shelf.by_whose.get(whose).into_iter().flatten();
        let records = tokens.filter_map(|token| shelf.by_token.get(token));
        records.cloned().collect()
    }

    /// The stream is known no more.
    pub(crate) fn remove(&self, token: Token) {
        let mut shelf = self.lock();
        let Some(record) = shelf.by_token.remove(&token) else {
            return;
        };
        if let Some(tokens) = shelf.by_whose.get_mut(record.whose()) {
            tokens.remove(&token);
            if tokens.is_empty() {
                shelf.by_whose.remove(record.whose());
            }
        }
        // Its place in the queue goes when it comes to it, or when most of the queue is such places.
        if shelf.queue.len() > 64 && shelf.queue.len() > 2 * shelf.by_token.len() {
            let Shelf {
                by_token, queue, ..
            } = &mut *shelf;
            queue.retain(|(token, _)| by_token.contains_key(token));
        }
    }

    /// As [`remove`](Self::remove), and nothing more will be written to its log.
    pub(crate) fn retire(&self, token: Token, channel: &Channel) {
        self.remove(token);
        self.account((0, channel.retire()));
    }

    /// All streams of somebody are over, and known no more.
    pub(crate) fn remove_all_of(&self, whose: &R::Whose) {
        let tokens = self.lock().by_whose.get(whose).cloned();
        for token in tokens.unwrap_or_default() {
            if let Some(record) = self.find(token) {
                record.channel().abort();
            }
            self.remove(token);
        }
    }

    /// A log keeps so many bytes now, and kept so many before.
    pub(crate) fn account(&self, (now, before): (usize, usize)) {
        self.bytes
            .fetch_add(now as i64 - before as i64, Ordering::Relaxed);
        if self.bytes() > self.most {
            self.make_room();
        }
    }

    /// How many bytes all logs keep.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed).try_into().unwrap_or(0)
    }

    /// How many streams there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().by_token.len()
    }

    /// Lets go of what was written the longest time ago, roughly: logs that nothing has been written to since they were last
    /// looked at go first.
    fn make_room(&self) {
        let mut spared = self.lock().queue.len();
        let mut looked_at = 2 * spared;
        while looked_at > 0 {
            looked_at -= 1;
            let excess = self.bytes().saturating_sub(self.most);
            if excess == 0 {
                return;
            }
            let mut shelf = self.lock();
            let Some((token, writes)) = shelf.queue.pop_front() else {
                return;
            };
            let Some(record) = shelf.by_token.get(&token).cloned() else {
                continue;
            };
            let now = record.channel().writes();
            shelf.queue.push_back((token, now));
            drop(shelf);
            if now != writes && spared > 0 {
                spared -= 1;
                continue;
            }
            let freed = record.channel().shrink(excess);
            self.bytes.fetch_sub(freed as i64, Ordering::Relaxed);
        }
    }
}

impl<R: Record> fmt::Debug for Logs<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logs")
            .field("streams", &self.len())
            .field("bytes", &self.bytes())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::Instant;

    use super::*;
    use crate::replay::Bounds;

    struct Stream(Channel);

    impl Record for Stream {
        type Whose = ();

        fn whose(&self) -> &() {
            &()
        }

        fn channel(&self) -> &Channel {
            &self.0
        }
    }

    #[test]
    fn what_is_let_go_of_before_it_was_counted_takes_nothing_else_along() {
        let logs = Logs::new(500);
        let now = Instant::now();
        let stream = |bytes| {
            let stream = Arc::new(Stream(Channel::new(Bounds::default(), now)));
            logs.insert(Token::random(), Arc::clone(&stream));
            let event = Bytes::from(vec![b'x'; bytes]);
            let change = stream.0.write([(event.into(), true)], now);
            (stream, change)
        };
        let (one, uncounted) = stream(1000);
        // Others have need of room.
        logs.account((600, 0));
        let (other, change) = stream(100);
        logs.account(change);
        assert_eq!(one.0.retire(), 0);
        assert_eq!(other.0.retire(), change.0);
        logs.account(uncounted);
        assert_eq!(logs.bytes(), 600 + change.0);
    }
}
