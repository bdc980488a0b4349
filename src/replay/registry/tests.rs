//! Which events are evicted when there is no room for all.

use bytes::Bytes;
use tokio::time::Instant;

use super::*;
use crate::log::{Retention, event_log::OVERHEAD};

/// One that is written to at every look, if it is busy.
struct Stream {
    channel: SharedLog,
    is_busy: bool,
    account: Arc<Account>,
}

/// One owner may have it all.
fn logs(bytes: usize) -> LogRegistry<Stream> {
    LogRegistry::new(Quota {
        bytes,
        bytes_per_owner: Some(bytes),
        ..Quota::default()
    })
}

impl Stream {
    fn write(&self, bytes: usize) -> (usize, usize) {
        let event = Bytes::from(vec![b'x'; bytes]);
        self.channel.write([(event.into(), true)], Instant::now())
    }
}

impl Record for Stream {
    type Whose = ();
    type Owner = ();

    fn whose(&self) -> &() {
        &()
    }

    fn owner(&self) -> &() {
        &()
    }

    fn account(&self) -> &Arc<Account> {
        &self.account
    }

    fn channel(&self) -> &SharedLog {
        if self.is_busy {
            self.channel.write([], Instant::now());
        }
        &self.channel
    }
}

fn stream(logs: &LogRegistry<Stream>, is_busy: bool) -> Arc<Stream> {
    let channel = SharedLog::new(Retention::default(), Instant::now());
    let stream = Arc::new(Stream {
        channel,
        is_busy,
        account: logs.account_of(&()),
    });
    logs.insert(StreamId::random(), Arc::clone(&stream));
    stream
}

/// How many bytes each of them kept up to now.
fn kept<const N: usize>(streams: [&Arc<Stream>; N]) -> [usize; N] {
    streams.map(|stream| stream.channel.retire())
}

const EVENT: usize = 100 + OVERHEAD;

#[test]
fn what_nobody_writes_to_goes_first() {
    let logs = logs(3 * EVENT);
    let written = || {
        let stream = stream(&logs, false);
        logs.account(&stream, stream.write(100));
        stream
    };
    let (a, b, c) = (written(), written(), written());
    assert_eq!(logs.bytes(), 3 * EVENT, "there is room for three");
    let d = written();
    assert_eq!(logs.bytes(), 3 * EVENT);
    // The first had to go, the oldest of those that were alike; and nobody has written to the third and the fourth since.
    logs.account(&b, b.write(100));
    assert_eq!(logs.bytes(), 3 * EVENT);
    assert_eq!(kept([&a, &b, &c, &d]), [0, 2 * EVENT, 0, EVENT]);
}

#[test]
fn room_is_made_although_all_are_written_to_all_the_time() {
    let logs = logs(0);
    let busy = [(); 5].map(|()| stream(&logs, true));
    for stream in &busy {
        stream.write(100);
    }
    logs.account(&busy[0], (5 * EVENT, 0));
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
        let logs = logs(0);
        let tokens: Vec<_> = (0..all).map(|_| StreamId::random()).collect();
        for &token in &tokens {
            let channel = SharedLog::new(Retention::default(), Instant::now());
            let stream = Stream {
                channel,
                is_busy: false,
                account: logs.account_of(&()),
            };
            logs.insert(token, Arc::new(stream));
        }
        for &token in &tokens[..gone] {
            logs.remove(token);
        }
        assert_eq!(
            logs.lock().by_owner[&()].queue.len(),
            places,
            "{all} without {gone}"
        );
        assert_eq!(logs.len(), all - gone);
    }
}

#[test]
fn all_logs_show_how_many_there_are_and_how_much_they_keep() {
    let logs = logs(1000);
    let one = stream(&logs, false);
    stream(&logs, false);
    logs.account(&one, one.write(100));
    let shown = format!("Logs {{ streams: 2, bytes: {EVENT} }}");
    assert_eq!(format!("{logs:?}"), shown);
}

#[test]
fn what_is_let_go_of_before_it_was_counted_takes_nothing_else_along() {
    let logs = logs(500);
    let stream = |bytes| {
        let stream = stream(&logs, false);
        let change = stream.write(bytes);
        (stream, change)
    };
    let (one, uncounted) = stream(1000);
    // Others have need of room.
    logs.account(&one, (600, 0));
    let (other, change) = stream(100);
    logs.account(&other, change);
    assert_eq!(one.channel.retire(), 0);
    assert_eq!(other.channel.retire(), change.0);
    logs.account(&one, uncounted);
    assert_eq!(logs.bytes(), 600 + change.0);
}
