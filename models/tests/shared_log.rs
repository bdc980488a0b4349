//! Model checks of one log with a writer and readers, in all thread interleavings: readers get each event once and in order, or
//! learn that they lag, and no thread waits forever. loom reports a deadlock as a failure.

use std::{
    env,
    process::Command,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use loom::{future::block_on, model::Builder, thread};
use tower_sse_proxy::replay::model::{Found, Read, Stream};

/// Runs `check` in all interleavings with at most `preemptions` preemptions for each thread. With three threads,
/// more preemptions give too many interleavings.
///
/// Runs it in a child process, because the unwinding after a deadlock may abort the whole test binary.
fn model(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    const CHILD: &str = "MODEL_CHILD_PROCESS";
    if env::var_os(CHILD).is_some() {
        let mut model = Builder::new();
        model.preemption_bound = Some(preemptions);
        model.max_branches = 10_000;
        return model.check(check);
    }
    let test = std::thread::current().name().unwrap().to_owned();
    let child = Command::new(env::current_exe().unwrap())
        .args([&test, "--exact", "--nocapture"])
        .envs([(CHILD, "1"), ("RUST_BACKTRACE", "0")])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{output}");
}

#[test]
fn single_reader_gets_all_events_of_a_waiting_writer() {
    model(4, move || {
        let stream = Stream::new(1);
        let mut reader = stream.read(stream.oldest());
        let writer = thread::spawn(move || {
            assert!(block_on(stream.write_until(3)));
            stream.complete();
        });
        assert_eq!(block_on(reader.rest()), (vec![0, 1, 2], Read::End));
        writer.join().unwrap();
    });
}

#[test]
fn reader_that_resumes_during_a_write_misses_nothing() {
    model(6, || {
        let stream = Stream::with(8, 1);
        let writer = {
            let stream = stream.clone();
            thread::spawn(move || {
                stream.write(1);
                stream.write(1);
                stream.complete();
            })
        };
        let (Found::At(at) | Found::Ended(at)) = stream.after(0) else {
            panic!("the log has all events");
        };
        let mut reader = stream.read(at);
        assert_eq!(block_on(reader.rest()), (vec![1, 2], Read::End));
        writer.join().unwrap();
    });
}

#[test]
fn reader_that_resumes_during_eviction_gets_all_events_or_lags() {
    model(6, || {
        let stream = Stream::with(2, 2);
        let writer = {
            let stream = stream.clone();
            thread::spawn(move || {
                // The writer does not wait, because there may be no reader yet.
                stream.write(1);
                stream.write(1);
                stream.complete();
            })
        };
        match stream.after(0) {
            Found::At(at) | Found::Ended(at) => match block_on(stream.read(at).rest()) {
                (all, Read::End) => assert_eq!(all, [1, 2, 3]),
                (some, end) => {
                    assert_eq!(end, Read::Lagged);
                    assert!([1, 2, 3].starts_with(&some), "{some:?}");
                }
            },
            found => assert_eq!(found, Found::Gap),
        }
        writer.join().unwrap();
    });
}

#[test]
fn writer_continues_when_the_last_reader_disconnects() {
    model(6, || {
        let stream = Stream::new(1);
        let reader = stream.read(stream.oldest());
        let disconnect = thread::spawn(move || drop(reader));
        assert!(block_on(stream.write_until(3)));
        disconnect.join().unwrap();
    });
}

#[test]
fn lagging_reader_learns_it_and_does_not_delay_the_other() {
    model(2, || {
        let stream = Stream::new(1);
        let mut one = stream.read(stream.oldest());
        let mut other = stream.read(stream.oldest());
        let writer = {
            let stream = stream.clone();
            thread::spawn(move || {
                assert!(block_on(stream.write_until(2)));
                stream.complete();
            })
        };
        let other = thread::spawn(move || {
            let rest = block_on(other.rest());
            // Returns the reader, so that it stays connected until both have ended.
            (rest, other)
        });
        let one = block_on(one.rest());
        let (other, _reader) = other.join().unwrap();
        let rests = [one, other];
        for (some, end) in &rests {
            match end {
                Read::End => assert_eq!(*some, [0, 1]),
                end => {
                    assert_eq!(*end, Read::Lagged);
                    assert!([0, 1].starts_with(some), "{some:?}");
                }
            }
        }
        let lagged = rests.iter().filter(|(_, end)| *end == Read::Lagged);
        assert!(lagged.count() < 2, "both readers lag: {rests:?}");
        writer.join().unwrap();
    });
}

#[test]
fn writer_waits_for_the_slow_reader_when_the_fast_one_disconnects() {
    model(3, || {
        let stream = Stream::new(2);
        let mut ahead = stream.read(stream.oldest());
        let mut behind = stream.read(stream.oldest());
        stream.write(2);
        let Poll::Ready(read) = ahead.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("the stream has two events");
        };
        assert_eq!(read, Read::Numbers(vec![0, 1]));
        let disconnect = thread::spawn(move || drop(ahead));
        let writer = {
            let stream = stream.clone();
            thread::spawn(move || {
                assert!(block_on(stream.write_until(5)));
                stream.complete();
            })
        };
        disconnect.join().unwrap();
        // The remaining reader is the fastest now, so the writer waits for it.
        let (some, end) = block_on(behind.rest());
        match end {
            Read::End => assert_eq!(some, [0, 1, 2, 3, 4]),
            end => assert_eq!((some, end), (vec![], Read::Lagged)),
        }
        drop(behind);
        writer.join().unwrap();
    });
}

#[test]
fn closed_stream_ends_its_writer_and_its_reader() {
    model(6, || {
        let stream = Stream::new(1);
        let mut reader = stream.read(stream.oldest());
        let writer = {
            let stream = stream.clone();
            thread::spawn(move || {
                // The writer waits for a reader that does not read.
                assert!(!block_on(stream.write_until(2)));
                stream.fail();
            })
        };
        stream.abort();
        let (some, end) = block_on(reader.rest());
        assert!([0].starts_with(&some), "{some:?}");
        assert_eq!(end, Read::Aborted);
        writer.join().unwrap();
    });
}

#[test]
fn shrunk_log_gives_its_reader_all_events_or_lag() {
    model(6, || {
        let stream = Stream::with(8, 2);
        let mut reader = stream.read(stream.oldest());
        let other = {
            let stream = stream.clone();
            thread::spawn(move || {
                stream.evict();
                stream.write(1);
                stream.evict();
                stream.complete();
            })
        };
        match block_on(reader.rest()) {
            (all, Read::End) => assert_eq!(all, [0, 1, 2]),
            (some, end) => {
                assert_eq!(end, Read::Lagged);
                assert!([0, 1].starts_with(&some), "{some:?}");
            }
        }
        other.join().unwrap();
    });
}

#[test]
fn one_of_two_resuming_clients_continues_the_stream_and_both_read_it() {
    model(6, || {
        let stream = Stream::with(8, 1);
        stream.suspend();
        let resume = |stream: Stream| {
            move || match stream.after(0) {
                Found::Suspended(at) => {
                    let mut reader = stream.read(at);
                    let first = stream.resume();
                    if first {
                        stream.write(1);
                        stream.complete();
                    }
                    // The other client may have read to the end before the event was written.
                    match block_on(reader.rest()) {
                        (all, Read::End) if first => assert_eq!(all, [1]),
                        (all, end) => {
                            assert_eq!(end, Read::End);
                            assert!([1].starts_with(&all), "{all:?}");
                        }
                    }
                    first
                }
                Found::At(at) | Found::Ended(at) => {
                    assert_eq!(block_on(stream.read(at).rest()), (vec![1], Read::End));
                    false
                }
                Found::Gap => panic!("the log has all events"),
            }
        };
        let other = thread::spawn(resume(stream.clone()));
        let one = resume(stream)();
        assert!(one ^ other.join().unwrap());
    });
}

/// A waker that polls at once when it is woken, as some executors do.
struct PollOnWake(Stream);

impl Wake for PollOnWake {
    fn wake(self: Arc<Self>) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = self.0.poll_demand(&mut cx);
    }
}

#[test]
fn waker_may_poll_the_stream_inside_wake() {
    type Operation = fn(&Stream);
    const OPERATIONS: [Operation; 4] = [
        Stream::abort,
        Stream::complete,
        |stream| drop(stream.read(stream.oldest())),
        |stream| {
            let _ = stream
                .read(stream.oldest())
                .poll(&mut Context::from_waker(Waker::noop()));
        },
    ];
    model(6, || {
        for operation in OPERATIONS {
            let stream = Stream::with(1, 1);
            let waker = Waker::from(Arc::new(PollOnWake(stream.clone())));
            let mut cx = Context::from_waker(&waker);
            let Found::At(tail) = stream.after(0) else {
                panic!("the log has the event");
            };
            let mut reader = stream.read(tail);
            assert_eq!(reader.poll(&mut cx), Poll::Pending);
            let _ = stream.poll_demand(&mut cx);
            operation(&stream);
            stream.write(1);
            // Dropped, because the stream and its waker own each other.
            drop(reader);
            stream.abort();
        }
    });
}

#[test]
fn reader_that_joins_before_others_have_read_delays_no_reader() {
    model(2, || {
        let stream = Stream::with(1, 1);
        let mut behind = stream.read(stream.oldest());
        let writer = {
            let stream = stream.clone();
            thread::spawn(move || {
                // The writer waits for a reader.
                assert!(block_on(stream.write_until(3)));
                stream.complete();
            })
        };
        let join = {
            let stream = stream.clone();
            thread::spawn(move || {
                let Some(mut ahead) = stream.read_live() else {
                    return;
                };
                let (some, end) = block_on(ahead.rest());
                assert!(
                    [0, 1, 2].ends_with(&some) || end == Read::Lagged,
                    "{some:?}"
                );
            })
        };
        let (some, end) = block_on(behind.rest());
        assert!([0, 1, 2].starts_with(&some), "{some:?}");
        assert!(end == Read::Lagged || (end == Read::End && some.len() == 3));
        drop(behind);
        join.join().unwrap();
        writer.join().unwrap();
    });
}
