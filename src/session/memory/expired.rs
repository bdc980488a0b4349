//! Tests of the removal of expired sessions in `Bind`, and of the limit on the length of an upstream session id.

use std::{iter, time::Duration};

use tokio::time::Instant;

use super::{
    MemoryStore,
    shard::{Lifetime, Shard},
};
use crate::session::{
    NewSession, Owner, SessionId, SessionRequest, UpstreamKey, UpstreamSessionId,
};

fn new(upstream_id: &str) -> NewSession {
    NewSession::new(UpstreamSessionId::new(upstream_id), Owner::ANONYMOUS)
}

#[test]
fn bind_removes_sessions_from_the_moment_they_expire() {
    let idle = Duration::from_secs(60);
    let lifetime = Lifetime {
        idle,
        age: Duration::MAX,
    };
    let (mut shard, begun) = (Shard::default(), Instant::now());
    for upstream_id in ["a", "b", "c"] {
        shard.bind(new(upstream_id), SessionId::random, begun, lifetime);
    }
    assert!(shard.take_removed().is_empty());
    shard.bind(new("d"), SessionId::random, begun + idle, lifetime);
    assert_eq!(shard.take_removed().len(), 3);
}

#[test]
fn session_with_an_open_stream_does_not_expire_and_hides_no_idle_session() {
    let idle = Duration::from_secs(60);
    let lifetime = Lifetime {
        idle,
        age: Duration::MAX,
    };
    let (mut shard, begun) = (Shard::default(), Instant::now());
    let mut bind = |upstream_id, at| {
        shard
            .bind(new(upstream_id), SessionId::random, at, lifetime)
            .0
    };
    let open = bind("open", begun);
    let _stream = open.in_use();
    bind("idle", begun);
    bind("new", begun + idle);
    assert_eq!(shard.take_removed().len(), 1);
    assert!(shard.find(&open.id, begun + 10 * idle, lifetime).is_some());
}

#[test]
fn length_limit_applies_to_the_sum_of_upstream_id_and_key() {
    let bound = |id_len: usize, key_len: Option<usize>| {
        let text = |len| iter::repeat_n('x', len).collect::<String>();
        let mut new = new(&text(id_len));
        new.upstream = key_len.map(|len| UpstreamKey::new(text(len)));
        let request = SessionRequest::Bind(new);
        MemoryStore::default().respond(request).is_some()
    };
    let most = MemoryStore::MAX_UPSTREAM_LEN;
    assert!(bound(most, None) && !bound(most + 1, None));
    assert!(bound(most - 100, Some(100)) && !bound(most - 100, Some(101)));
}
