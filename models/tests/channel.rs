//! Whoever reads and whoever writes, in every order: nothing is missed, nothing comes twice, and nobody sleeps who has something to
//! do. (loom takes a model in which nobody can go on for a failure.)

use std::{
    env,
    process::Command,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use loom::{future::block_on, model::Builder, thread};
use tower_sse_proxy::replay::model::{Found, Read, Stream};

/// Runs it in every order in which no thread is interrupted more often than that: three threads have too many orders for more.
///
/// In a process of its own: where loom finds that nobody can go on, what it unwinds may abort all of the tests.
fn model(interruptions: usize, what: impl Fn() + Send + Sync + 'static) {
    const ALONE: &str = "A_MODEL_ALONE";
    if env::var_os(ALONE).is_some() {
        let mut model = Builder::new();
        model.preemption_bound = Some(interruptions);
        model.max_branches = 10_000;
        return model.check(what);
    }
    let test = std::thread::current().name().unwrap().to_owned();
    let alone = Command::new(env::current_exe().unwrap())
        .args([&test, "--exact", "--nocapture"])
        .envs([(ALONE, "1"), ("RUST_BACKTRACE", "0")])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&alone.stderr);
    assert!(alone.status.success(), "{told}");
}

#[test]
fn a_reader_gets_everything_from_a_writer_that_heeds_it() {
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
fn who_comes_back_in_the_middle_of_a_write_misses_nothing() {
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
            panic!("all is kept");
        };
        let mut reader = stream.read(at);
        assert_eq!(block_on(reader.rest()), (vec![1, 2], Read::End));
        writer.join().unwrap();
    });
}

#[test]
fn who_comes_back_to_what_is_let_go_has_it_all_or_is_told() {
    model(6, || {
        let stream = Stream::with(2, 2);
        let writer = {
            let stream = stream.clone();
            thread::spawn(move || {
                // Nobody may be there yet to heed.
                stream.write(1);
                stream.write(1);
                stream.complete();
            })
        };
        match stream.after(0) {
            Found::At(at) | Found::Ended(at) => match block_on(stream.read(at).rest()) {
                (all, Read::End) => assert_eq!(all, [1, 2, 3]),
                (some, over) => {
                    assert_eq!(over, Read::Lagged);
                    assert!([1, 2, 3].starts_with(&some), "{some:?}");
                }
            },
            found => assert_eq!(found, Found::Gap),
        }
        writer.join().unwrap();
    });
}

#[test]
fn a_writer_goes_on_when_the_last_reader_leaves() {
    model(6, || {
        let stream = Stream::new(1);
        let reader = stream.read(stream.oldest());
        let leaves = thread::spawn(move || drop(reader));
        assert!(block_on(stream.write_until(3)));
        leaves.join().unwrap();
    });
}

#[test]
fn a_reader_that_is_left_behind_holds_nobody_back_and_is_told() {
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
            // It keeps its seat until both are done.
            (rest, other)
        });
        let one = block_on(one.rest());
        let (other, _seat) = other.join().unwrap();
        let rests = [one, other];
        for (some, over) in &rests {
            match over {
                Read::End => assert_eq!(*some, [0, 1]),
                over => {
                    assert_eq!(*over, Read::Lagged);
                    assert!([0, 1].starts_with(some), "{some:?}");
                }
            }
        }
        let told = rests.iter().filter(|(_, over)| *over == Read::Lagged);
        assert!(told.count() < 2, "one of them was ahead: {rests:?}");
        writer.join().unwrap();
    });
}

#[test]
fn when_the_reader_leaves_that_is_ahead_the_writer_waits_for_the_other() {
    model(3, || {
        let stream = Stream::new(2);
        let mut ahead = stream.read(stream.oldest());
        let mut behind = stream.read(stream.oldest());
        stream.write(2);
        let Poll::Ready(read) = ahead.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("two were written");
        };
        assert_eq!(read, Read::Numbers(vec![0, 1]));
        let leaves = thread::spawn(move || drop(ahead));
        let writer = {
            let stream = stream.clone();
            thread::spawn(move || {
                assert!(block_on(stream.write_until(5)));
                stream.complete();
            })
        };
        leaves.join().unwrap();
        // From now on it is the one that has read the most, and it has as much time as it wants.
        let (some, over) = block_on(behind.rest());
        match over {
            Read::End => assert_eq!(some, [0, 1, 2, 3, 4]),
            over => assert_eq!((some, over), (vec![], Read::Lagged)),
        }
        drop(behind);
        writer.join().unwrap();
    });
}

#[test]
fn a_stream_that_is_cut_is_over_for_its_writer_and_its_reader() {
    model(6, || {
        let stream = Stream::new(1);
        let mut reader = stream.read(stream.oldest());
        let writer = {
            let stream = stream.clone();
            thread::spawn(move || {
                // It waits for a reader that does not read.
                assert!(!block_on(stream.write_until(2)));
                stream.fail();
            })
        };
        stream.abort();
        let (some, over) = block_on(reader.rest());
        assert!([0].starts_with(&some), "{some:?}");
        assert_eq!(over, Read::Aborted);
        writer.join().unwrap();
    });
}

#[test]
fn room_is_made_for_others_and_nobody_passes_over_it_in_silence() {
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
            (some, over) => {
                assert_eq!(over, Read::Lagged);
                assert!([0, 1].starts_with(&some), "{some:?}");
            }
        }
        other.join().unwrap();
    });
}

#[test]
fn of_two_who_have_the_stream_go_on_one_does_and_both_read_it() {
    model(6, || {
        let stream = Stream::with(8, 1);
        stream.suspend();
        let come_back = |stream: Stream| {
            move || match stream.after(0) {
                Found::Suspended(at) => {
                    let mut reader = stream.read(at);
                    let first = stream.resume();
                    if first {
                        stream.write(1);
                        stream.complete();
                    }
                    // The other one may have looked before there was anything to wait for.
                    match block_on(reader.rest()) {
                        (all, Read::End) if first => assert_eq!(all, [1]),
                        (all, over) => {
                            assert_eq!(over, Read::End);
                            assert!([1].starts_with(&all), "{all:?}");
                        }
                    }
                    first
                }
                Found::At(at) | Found::Ended(at) => {
                    assert_eq!(block_on(stream.read(at).rest()), (vec![1], Read::End));
                    false
                }
                Found::Gap => panic!("all is kept"),
            }
        };
        let other = thread::spawn(come_back(stream.clone()));
        let one = come_back(stream)();
        assert!(one ^ other.join().unwrap());
    });
}

/// A task that runs at once when it is woken, as some executors do it.
struct AtOnce(Stream);

impl Wake for AtOnce {
    fn wake(self: Arc<Self>) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = self.0.poll_demand(&mut cx);
    }
}

#[test]
fn who_is_woken_may_come_for_it_at_once() {
    type What = fn(&Stream);
    const WHAT: [What; 4] = [
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
        for what in WHAT {
            let stream = Stream::with(1, 1);
            let waker = Waker::from(Arc::new(AtOnce(stream.clone())));
            let mut cx = Context::from_waker(&waker);
            let Found::At(tail) = stream.after(0) else {
                panic!("it is kept");
            };
            let mut waits = stream.read(tail);
            assert_eq!(waits.poll(&mut cx), Poll::Pending);
            let _ = stream.poll_demand(&mut cx);
            what(&stream);
            stream.write(1);
            // A stream that is kept by its own waker would be kept for ever.
            drop(waits);
            stream.abort();
        }
    });
}

#[test]
fn who_joins_ahead_of_one_who_has_not_read_stalls_nobody() {
    model(2, || {
        let stream = Stream::with(1, 1);
        let mut behind = stream.read(stream.oldest());
        let writer = {
            let stream = stream.clone();
            thread::spawn(move || {
                // It waits for somebody to read.
                assert!(block_on(stream.write_until(3)));
                stream.complete();
            })
        };
        let joins = {
            let stream = stream.clone();
            thread::spawn(move || {
                let Some(mut ahead) = stream.read_live() else {
                    return;
                };
                let (some, over) = block_on(ahead.rest());
                assert!(
                    [0, 1, 2].ends_with(&some) || over == Read::Lagged,
                    "{some:?}"
                );
            })
        };
        let (some, over) = block_on(behind.rest());
        assert!([0, 1, 2].starts_with(&some), "{some:?}");
        assert!(over == Read::Lagged || (over == Read::End && some.len() == 3));
        drop(behind);
        joins.join().unwrap();
        writer.join().unwrap();
    });
}
