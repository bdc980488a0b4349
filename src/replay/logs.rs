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
    use crate::replay::{Bounds, log::OVERHEAD};

    /// One that is written to at every look, if it is busy.
    struct Stream {
        channel: Channel,
        is_busy: bool,
    }

    impl Stream {
        fn write(&self, bytes: usize) -> (usize, usize) {
            let event = Bytes::from(vec![b'x'; bytes]);
            self.channel.write([(event.into(), true)], Instant::now())
        }
    }

    impl Record for Stream {
        type Whose = ();

        fn whose(&self) -> &() {
            &()
        }

        fn channel(&self) -> &Channel {
            if self.is_busy {
                self.channel.write([], Instant::now());
            }
            &self.channel
        }
    }

    fn stream(logs: &Logs<Stream>, is_busy: bool) -> Arc<Stream> {
        let channel = Channel::new(Bounds::default(), Instant::now());
        let stream = Arc::new(Stream { channel, is_busy });
        logs.insert(Token::random(), Arc::clone(&stream));
        stream
    }

    /// How many bytes each of them kept up to now.
    fn kept<const N: usize>(streams: [&Arc<Stream>; N]) -> [usize; N] {
        streams.map(|stream| stream.channel.retire())
    }

    const EVENT: usize = 100 + OVERHEAD;

    #[test]
    fn what_nobody_writes_to_goes_first() {
        let logs = Logs::new(3 * EVENT);
        let written = || {
            let stream = stream(&logs, false);
            logs.account(stream.write(100));
            stream
        };
        let (a, b, c) = (written(), written(), written());
        assert_eq!(logs.bytes(), 3 * EVENT, "there is room for three");
        let d = written();
        assert_eq!(logs.bytes(), 3 * EVENT);
        // The first had to go, the oldest of those that were alike; and nobody has written to the third and the fourth since.
        logs.account(b.write(100));
        assert_eq!(logs.bytes(), 3 * EVENT);
        assert_eq!(kept([&a, &b, &c, &d]), [0, 2 * EVENT, 0, EVENT]);
    }

    #[test]
    fn room_is_made_although_all_are_written_to_all_the_time() {
        let logs = Logs::new(0);
        let busy = [(); 5].map(|()| stream(&logs, true));
        for stream in &busy {
            stream.write(100);
        }
        logs.account((5 * EVENT, 0));
        assert_eq!(logs.bytes(), 0);
        assert_eq!(kept(busy.each_ref()), [0; 5]);
    }

    #[test]
    fn places_of_those_who_are_gone_go_when_they_are_most() {
        // So many, of which so many go, leave so many places.
        for (all, gone, places) in [
            (100, 1, 100),
            (100, 50, 100),
            (100, 51, 49),
            (64, 64, 64),
            (65, 32, 65),
            (65, 33, 32),
        ] {
            let logs = Logs::new(0);
            let tokens: Vec<_> = (0..all).map(|_| Token::random()).collect();
            for &token in &tokens {
                let channel = Channel::new(Bounds::default(), Instant::now());
                let is_busy = false;
                logs.insert(token, Arc::new(Stream { channel, is_busy }));
            }
            for &token in &tokens[..gone] {
                logs.remove(token);
            }
            assert_eq!(logs.lock().queue.len(), places, "{all} without {gone}");
            assert_eq!(logs.len(), all - gone);
        }
    }

    #[test]
    fn all_logs_show_how_many_there_are_and_how_much_they_keep() {
        let logs = Logs::new(1000);
        let one = stream(&logs, false);
        stream(&logs, false);
        logs.account(one.write(100));
        let shown = format!("Logs {{ streams: 2, bytes: {EVENT} }}");
        assert_eq!(format!("{logs:?}"), shown);
    }

    #[test]
    fn what_is_let_go_of_before_it_was_counted_takes_nothing_else_along() {
        let logs = Logs::new(500);
        let stream = |bytes| {
            let stream = stream(&logs, false);
            let change = stream.write(bytes);
            (stream, change)
        };
        let (one, uncounted) = stream(1000);
        // Others have need of room.
        logs.account((600, 0));
        let (other, change) = stream(100);
        logs.account(change);
        assert_eq!(one.channel.retire(), 0);
        assert_eq!(other.channel.retire(), change.0);
        logs.account(uncounted);
        assert_eq!(logs.bytes(), 600 + change.0);
    }
}
