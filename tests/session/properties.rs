//! Compares sessions with a list as the model, for any interleaving of clients, owners, upstream ids, ends and time.

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use proptest::{collection::vec, prelude::*};
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_sse_proxy::{
    SseProxyLayer,
    session::{MemoryStore, SessionMapping, SessionRequest, SessionStore},
};

use crate::support::cases;

const IDLE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
enum Op {
    Open {
        owner: u8,
    },
    /// Uses an earlier session, as its owner or as another one.
    Use {
        session: usize,
        owner: u8,
    },
    Delete {
        session: usize,
        owner: u8,
    },
    /// Uses the upstream's id of a session.
    Steal {
        session: usize,
        owner: u8,
    },
    /// The upstream loses the session and answers 404.
    Lose {
        session: usize,
    },
    Guess {
        owner: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (session, owner) = (
        || any::<prop::sample::Index>().prop_map(|i| i.index(1 << 16)),
        || 0..3_u8,
    );
    prop_oneof![
        3 => owner().prop_map(|owner| Op::Open { owner }),
        6 => (session(), owner()).prop_map(|(session, owner)| Op::Use { session, owner }),
        2 => (session(), owner()).prop_map(|(session, owner)| Op::Delete { session, owner }),
        1 => (session(), owner()).prop_map(|(session, owner)| Op::Steal { session, owner }),
        1 => session().prop_map(|session| Op::Lose { session }),
        1 => owner().prop_map(|owner| Op::Guess { owner }),
    ]
}

/// Operations that run concurrently, and the seconds to wait after them.
fn batches() -> impl Strategy<Value = Vec<(Vec<Op>, u64)>> {
    vec(
        (
            vec(op(), 1..5),
            prop_oneof![4 => 0..20_u64, 1 => 50..70_u64],
        ),
        1..24,
    )
}

struct Opened {
    id: String,
    upstream: String,
    owner: u8,
    /// The time of the last use, or `None` if the session has ended.
    seen: Option<Instant>,
}

/// Checks that requests arrive with an upstream id of their owner, and creates upstream ids.
#[derive(Default)]
struct Upstream {
    created: Vec<(String, u8)>,
    lost: HashSet<String>,
    wrong: Vec<String>,
}

impl Upstream {
    fn answer(&mut self, request: &Request<()>) -> Response<Full<Bytes>> {
        let owner: u8 = request.headers()["x-owner"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let mut response = Response::new(Full::default());
        let id = match request.headers().get("x-session") {
            None => {
                let number = self.created.len();
                let id = format!("UP-{number}");
                self.created.push((id.clone(), owner));
                // Lets the model assign the client's id to the upstream's.
                response.headers_mut().insert("x-created", number.into());
                id
            }
            Some(id) => {
                let id = id.to_str().unwrap().to_owned();
                if !self.created.contains(&(id.clone(), owner)) {
                    self.wrong
                        .push(format!("a request of owner {owner} has {id}"));
                }
                if self.lost.contains(&id) {
                    *response.status_mut() = StatusCode::NOT_FOUND;
                }
                id
            }
        };
        response
            .headers_mut()
            .insert("x-session", id.parse().unwrap());
        response
    }
}

/// A store that yields a few times before each call, so that calls overlap.
fn slow(store: MemoryStore) -> impl SessionStore {
    let calls = Arc::new(Mutex::new(0_usize));
    service_fn(move |request: SessionRequest| {
        let mut store = store.clone();
        let mut calls = calls.lock().unwrap();
        *calls += 1;
        let yields = *calls * 7 % 4;
        async move {
            for _ in 0..yields {
                tokio::task::yield_now().await;
            }
            store.call(request).await
        }
    })
}

async fn run(batches: Vec<(Vec<Op>, u64)>) {
    let store = MemoryStore::default().idle_timeout(IDLE);
    let rules = SessionMapping::header(HeaderName::from_static("x-session")).end_on_delete_or_404();
    let layer = SseProxyLayer::new(slow(store))
        .sessions(rules)
        .owner(|request| {
            request
                .headers
                .get("x-owner")
                .map(|owner| owner.as_bytes().to_vec())
        });
    let upstream = Arc::new(Mutex::new(Upstream::default()));
    let mut model: Vec<Opened> = Vec::new();

    for (batch, pause) in batches {
        let mut sent = Vec::new();
        // Sessions that another request of the batch may end first.
        let mut ending = HashSet::new();
        for op in &batch {
            let index = |session: &usize| (!model.is_empty()).then(|| session % model.len());
            let at = match op {
                Op::Open { .. } | Op::Guess { .. } => None,
                Op::Use { session, .. }
                | Op::Delete { session, .. }
                | Op::Steal { session, .. }
                | Op::Lose { session } => index(session),
            };
            let (owner, id) = match (op, at) {
                (Op::Open { owner }, _) => (*owner, None),
                (Op::Guess { owner }, _) => {
                    (*owner, Some("0123456789abcdef0123456789abcdef".to_owned()))
                }
                (_, None) => continue,
                (Op::Steal { owner, .. }, Some(at)) => (*owner, Some(model[at].upstream.clone())),
                (Op::Lose { .. }, Some(at)) => {
                    upstream
                        .lock()
                        .unwrap()
                        .lost
                        .insert(model[at].upstream.clone());
                    ending.insert(at);
                    (model[at].owner, Some(model[at].id.clone()))
                }
                (Op::Use { owner, .. } | Op::Delete { owner, .. }, Some(at)) => {
                    (*owner, Some(model[at].id.clone()))
                }
            };
            let deletes = matches!(op, Op::Delete { .. });
            if let (true, Some(at)) = (deletes, at)
                && model[at].owner == owner
            {
                ending.insert(at);
            }
            let method = if deletes {
                Method::DELETE
            } else {
                Method::POST
            };
            sent.push((op.clone(), at, owner, method, id));
        }
        let answers = sent.iter().map(|(_, _, owner, method, id)| {
            let mut request = Request::builder()
                .method(method)
                .header("x-owner", owner.to_string());
            if let Some(id) = id {
                request = request.header("x-session", id);
            }
            let upstream = Arc::clone(&upstream);
            let service = service_fn(move |request: Request<()>| {
                let answer = upstream.lock().unwrap().answer(&request);
                async {
                    tokio::task::yield_now().await;
                    Ok::<_, Infallible>(answer)
                }
            });
            layer.layer(service).oneshot(request.body(()).unwrap())
        });
        let answers = join_all(answers).await;

        for ((op, at, owner, _, _), answer) in sent.into_iter().zip(answers) {
            let (head, body) = answer.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let response = format!("{head:?} {body:?}");
            assert!(!response.contains("UP-"), "{op:?} got {response}");
            let id = head
                .headers
                .get("x-session")
                .map(|id| id.to_str().unwrap().to_owned());
            match (op, at) {
                (Op::Open { .. }, _) => {
                    assert_eq!(head.status, StatusCode::OK);
                    let id = id.expect("a new session has an id");
                    assert!(model.iter().all(|old| old.id != id), "an id was used twice");
                    let upstream = format!("UP-{}", head.headers["x-created"].to_str().unwrap());
                    model.push(Opened {
                        id,
                        upstream,
                        owner,
                        seen: Some(Instant::now()),
                    });
                }
                (Op::Guess { .. } | Op::Steal { .. }, _) => {
                    assert_eq!(head.status, StatusCode::NOT_FOUND)
                }
                (op, Some(at)) => {
                    let session = &model[at];
                    let alive = session.seen.is_some_and(|seen| seen.elapsed() < IDLE)
                        && session.owner == owner;
                    let lost = upstream.lock().unwrap().lost.contains(&session.upstream);
                    let expected = if alive && !lost {
                        StatusCode::OK
                    } else {
                        StatusCode::NOT_FOUND
                    };
                    if ending.contains(&at) && alive {
                        // Either order of the requests of this batch is possible.
                        assert!([StatusCode::OK, StatusCode::NOT_FOUND].contains(&head.status));
                    } else {
                        assert_eq!(head.status, expected, "{op:?}");
                    }
                    if head.status == StatusCode::OK {
                        assert_eq!(id.as_ref(), Some(&session.id), "the id of another session");
                    }
                    // A request of any owner extends the session in the store.
                    let known = session.seen.filter(|seen| seen.elapsed() < IDLE);
                    model[at].seen = known.map(|_| Instant::now());
                }
                (_, None) => unreachable!("these operations have a session"),
            }
        }
        for at in ending {
            let session = &mut model[at];
            // Ended by a DELETE of its owner, or by a 404 of the upstream.
            session.seen = None;
        }
        assert_eq!(upstream.lock().unwrap().wrong, Vec::<String>::new());
        advance(Duration::from_secs(pause)).await;
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn no_owner_gets_a_session_of_another_in_any_interleaving(batches in batches()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(batches));
    }
}
