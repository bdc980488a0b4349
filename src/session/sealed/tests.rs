use std::{cell::Cell, collections::HashSet};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use chacha20poly1305::AeadInOut;
use proptest::prelude::*;

use super::*;
use crate::session::{Owner, SessionStore, UpstreamKey, UpstreamSessionId};

const DAY: u64 = 24 * 60 * 60;

thread_local! {
    static SECONDS: Cell<u64> = const { Cell::new(1_800_000_000) };
}

/// Sets the clock of this test.
fn set_clock(seconds: u64) {
    SECONDS.set(seconds);
}

fn store() -> SealedStore {
    with_key(1)
}

fn with_key(n: u8) -> SealedStore {
    let mut store = SealedStore::new(key(n));
    store.settings_mut().now = || SystemTime::UNIX_EPOCH + Duration::from_secs(SECONDS.get());
    store
}

fn key(n: u8) -> SealedKey {
    SealedKey::from_bytes([n; 32])
}

fn new(upstream_id: &str) -> NewSession {
    NewSession::new(
        UpstreamSessionId::new(upstream_id),
        Owner::from_bytes([9; 32]),
    )
}

fn bind(store: &SealedStore, new: NewSession) -> Session {
    store.respond(SessionRequest::Bind(new)).unwrap().unwrap()
}

fn find(store: &SealedStore, id: &SessionId) -> Option<Session> {
    store.respond(SessionRequest::Lookup(id.clone())).unwrap()
}

fn remove(store: &SealedStore, id: &SessionId) -> Option<Session> {
    store.respond(SessionRequest::Remove(id.clone())).unwrap()
}

fn find_text(store: &SealedStore, id: &str) -> Option<Session> {
    find(store, &SessionId::parse(id).ok()?)
}

#[test]
fn sealed_store_is_a_session_store() {
    fn is_store<S: SessionStore>() {}
    is_store::<SealedStore>();
}

#[test]
fn token_with_a_changed_bit_is_unknown() {
    let store = store().decryption_key(key(2));
    let mut session = new("7f3a");
    session.upstream = Some(UpstreamKey::new("b"));
    let id = bind(&store, session).id;
    let token = BASE64.decode(id.as_str()).unwrap();
    assert!(find_text(&store, &BASE64.encode(&token)).is_some());
    for bit in 0..token.len() * 8 {
        let mut altered = token.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(
            find_text(&store, &BASE64.encode(&altered)).is_none(),
            "bit {bit}"
        );
    }
}

#[test]
fn part_of_a_token_is_unknown() {
    let store = store();
    let id = bind(&store, new("7f3a")).id;
    let token = BASE64.decode(id.as_str()).unwrap();
    for len in 0..token.len() {
        assert!(find_text(&store, &BASE64.encode(&token[..len])).is_none());
        assert!(find_text(&store, &BASE64.encode(&token[len + 1..])).is_none());
        assert!(find_text(&store, &id.as_str()[..len]).is_none());
    }
}

#[test]
fn token_has_only_one_encoding() {
    let store = store();
    // Tokens of all lengths modulo three: in two of them the last character has unused bits.
    for upstream_id in ["", "a", "ab"] {
        let id = bind(&store, new(upstream_id)).id;
        let id = id.as_str();
        for more in ["=", "==", "A", "AA", "~"] {
            assert!(find_text(&store, &format!("{id}{more}")).is_none());
        }
        let (start, last) = id.split_at(id.len() - 1);
        for other in (b'!'..=b'~')
            .map(char::from)
            .filter(|other| *other != last.chars().next().unwrap())
        {
            assert!(
                find_text(&store, &format!("{start}{other}")).is_none(),
                "{other}"
            );
        }
    }
}

#[test]
fn encrypted_data_that_is_not_a_session_is_unknown() {
    let (store, key) = (store(), key(1));
    for len in 0..60 {
        let mut plain = vec![0xff; len];
        let mut token = [&key.mark()[..], &[7; 24]].concat();
        let context = [b"sse-session1", &key.mark()[..]].concat();
        let nonce = [7; 24].into();
        let tag =
            key.cipher()
                .encrypt_inout_detached(&nonce, &context, plain.as_mut_slice().into());
        token.extend(plain);
        token.extend(tag.unwrap());
        assert!(Token::open(&BASE64.encode(&token), std::slice::from_ref(&key)).is_none());
        assert!(find_text(&store, &BASE64.encode(&token)).is_none());
    }
}

#[test]
fn key_can_be_changed_without_losing_a_session() {
    let old = bind(&with_key(1), new("old")).id;
    let both = with_key(2).decryption_key(key(1));
    let fresh = bind(&both, new("fresh")).id;
    assert!(find(&both, &old).is_some() && find(&both, &fresh).is_some());
    // A node that does not encrypt with the new key yet.
    assert!(find(&with_key(1).decryption_key(key(2)), &fresh).is_some());
    assert!(find(&with_key(2), &old).is_none());
    assert!(find(&with_key(1), &fresh).is_none());
}

#[test]
fn session_expires_at_its_maximum_age_in_use_or_not() {
    let store = store();
    let session = bind(&store, new("u"));
    assert_eq!(session.idle_timeout, None);
    let begun = SECONDS.get();
    set_clock(begun + DAY - 1);
    let found = find(&store, &session.id).unwrap();
    let day = Duration::from_secs(DAY - 1);
    assert_eq!(
        (found.created, found.last_seen),
        (session.created, session.created + day)
    );
    set_clock(begun + DAY);
    assert!(find(&store, &session.id).is_none());
    assert!(remove(&store, &session.id).is_none());
    assert!(find(&store.max_age(Duration::MAX), &session.id).is_some());
}

#[test]
fn r44_session_from_a_clock_ahead_is_valid_within_the_skew() {
    let store = store();
    let id = bind(&store, new("u")).id;
    let begun = SECONDS.get();
    set_clock(begun - 3600);
    assert!(find(&store, &id).is_some());
    set_clock(begun - 3601);
    assert!(find(&store, &id).is_none());
    assert!(find(&store.clone().clock_skew(Duration::from_secs(3601)), &id).is_some());
    set_clock(begun);
    assert!(find(&store, &id).is_some());
}

#[test]
fn r44_wrong_clock_revives_no_removed_session_and_loses_none() {
    let store = store();
    let begun = SECONDS.get();
    let (removed, live) = (
        bind(&store, new("removed")).id,
        bind(&store, new("live")).id,
    );
    assert!(remove(&store, &removed).is_some());
    for wrong in [begun + 2 * DAY, begun - DAY, 0, begun] {
        set_clock(wrong);
        assert!(remove(&store, &bind(&store, new("another")).id).is_some());
        assert!(find(&store, &removed).is_none());
    }
    assert!(find(&store, &live).is_some());
}

#[test]
fn removed_session_is_unknown_to_clones_and_removed_once() {
    let store = store();
    let (id, other) = (bind(&store, new("u")).id, bind(&store, new("u")).id);
    assert_ne!(id, other);
    assert_eq!(remove(&store.clone(), &id).unwrap().id, id);
    assert!(remove(&store, &id).is_none());
    assert!(store.respond(SessionRequest::Touch(id)).unwrap().is_none());
    assert!(find(&store, &other).is_some());
}

#[test]
fn removed_sessions_are_remembered_up_to_the_limit() {
    let store = store().max_revoked(3);
    let begun = SECONDS.get();
    let ids = [4, 1, 3, 2].map(|later| {
        set_clock(begun + later);
        bind(&store, new("u")).id
    });
    assert!(ids.iter().all(|id| remove(&store, id).is_some()));
    let known = ids.each_ref().map(|id| find(&store, id).is_some());
    assert_eq!(known, [false, true, false, false]);
}

#[test]
fn upstream_id_that_does_not_fit_is_an_error_that_does_not_show_it() {
    let store = store();
    let max = token::MAX_UPSTREAM;
    let longest = bind(&store, new(&"x".repeat(max))).id;
    assert_eq!(longest.as_str().len(), SessionId::MAX_LEN);
    assert!(find(&store, &longest).is_some());

    let mut too_long = new(&"canary".repeat(113));
    too_long.upstream = Some(UpstreamKey::new("canary"));
    let error = store.respond(SessionRequest::Bind(too_long)).unwrap_err();
    let shown =
        "upstream session id and key too long for a sealed id: they may have 682 bytes together";
    assert_eq!(error.to_string(), shown);
    assert!(!format!("{error:?}").contains("canary"));
}

#[test]
fn debug_shows_settings_and_no_secret() {
    let store = SealedStore::new(key(b'k'));
    bind(&store, new("canary"));
    let shown =
        "SealedStore { keys: 1, max_age: 86400s, clock_skew: 3600s, max_revoked: 10000, .. }";
    assert_eq!(format!("{store:?}"), shown);
}

#[test]
fn tokens_and_nonces_are_unique() {
    let store = store();
    let ids: HashSet<_> = (0..1_000).map(|_| bind(&store, new("u")).id).collect();
    assert_eq!(ids.len(), 1_000);
    let nonces: HashSet<_> = ids.iter().map(|id| id.as_str()[6..38].to_owned()).collect();
    assert_eq!(nonces.len(), 1_000);
}

proptest! {
    #[test]
    fn any_session_survives_the_round_trip(upstream_id in ".{0,200}", key in proptest::option::of(".{0,20}"), owner: [u8; 32]) {
        let store = store();
        prop_assume!(upstream_id.len() + key.as_ref().map_or(0, String::len) <= token::MAX_UPSTREAM);
        let mut new = NewSession::new(UpstreamSessionId::new(upstream_id), Owner::from_bytes(owner));
        new.upstream = key.map(UpstreamKey::new);
        let session = bind(&store, new.clone());
        prop_assert!(session.id.as_str().bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_'));
        let found = find(&store, &session.id).unwrap();
        prop_assert_eq!((found.upstream_id, found.upstream, found.owner), (new.upstream_id, new.upstream, new.owner));
    }

    #[test]
    fn random_text_is_not_a_session(id in "[!-~]{1,1024}", bytes in prop::collection::vec(any::<u8>(), 0..768)) {
        let store = store();
        prop_assert!(find_text(&store, &id).is_none());
        prop_assert!(find_text(&store, &BASE64.encode(&bytes)).is_none());
        let marked = [&key(1).mark()[..], &bytes[..bytes.len().min(764)]].concat();
        prop_assert!(find_text(&store, &BASE64.encode(marked)).is_none());
    }
}
