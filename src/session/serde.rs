//! `Serialize` and `Deserialize` of a [`Session`], for a store outside of the process. Feature `serde`.
//!
//! [`Session`] documents the form. Its times have serde's own forms of `SystemTime` and `Duration`, so that they are exact.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{NewSession, Owner, Session, SessionId, UpstreamKey, UpstreamSessionId};

#[derive(Serialize)]
struct SessionRef<'a> {
    id: &'a SessionId,
    upstream_id: &'a UpstreamSessionId,
    upstream: &'a Option<UpstreamKey>,
    owner: Owner,
    created: SystemTime,
    last_seen: SystemTime,
    idle_timeout: Option<Duration>,
}

#[derive(Deserialize)]
struct SessionOwned {
    id: SessionId,
    upstream_id: UpstreamSessionId,
    upstream: Option<UpstreamKey>,
    owner: Owner,
    created: SystemTime,
    last_seen: SystemTime,
    idle_timeout: Option<Duration>,
}

impl Serialize for Session {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Session {
            id,
            upstream_id,
            upstream,
            owner,
            created,
            last_seen,
            idle_timeout,
            open_streams: _,
        } = self;
        SessionRef {
            id,
            upstream_id,
            upstream,
            owner: *owner,
            created: *created,
            last_seen: *last_seen,
            idle_timeout: *idle_timeout,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Session {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let session = SessionOwned::deserialize(deserializer)?;
        Ok(Self {
            id: session.id,
            upstream_id: session.upstream_id,
            upstream: session.upstream,
            owner: session.owner,
            created: session.created,
            last_seen: session.last_seen,
            idle_timeout: session.idle_timeout,
            open_streams: None,
        })
    }
}

#[derive(Serialize)]
struct NewSessionRef<'a> {
    upstream_id: &'a UpstreamSessionId,
    upstream: &'a Option<UpstreamKey>,
    owner: Owner,
}

#[derive(Deserialize)]
struct NewSessionOwned {
    upstream_id: UpstreamSessionId,
    upstream: Option<UpstreamKey>,
    owner: Owner,
}

impl Serialize for NewSession {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        NewSessionRef {
            upstream_id: &self.upstream_id,
            upstream: &self.upstream,
            owner: self.owner,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NewSession {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let new = NewSessionOwned::deserialize(deserializer)?;
        Ok(Self {
            upstream_id: new.upstream_id,
            upstream: new.upstream,
            owner: new.owner,
        })
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = String::deserialize(deserializer)?;
        Self::parse(&id).map_err(D::Error::custom)
    }
}

impl Serialize for UpstreamSessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for UpstreamSessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl Serialize for UpstreamKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for UpstreamKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = self.as_bytes().iter().map(|byte| format!("{byte:02x}"));
        serializer.serialize_str(&digits.collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = from_hex(text.as_bytes());
        let malformed = || D::Error::custom("an owner is 64 hexadecimal digits");
        bytes.map(Self::from_bytes).ok_or_else(malformed)
    }
}

fn from_hex(digits: &[u8]) -> Option<[u8; 32]> {
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};
    use serde_json::{Value, from_str, from_value, json, to_string, to_value};

    use super::{super::StreamCount, *};

    fn at(since_1970: Duration) -> SystemTime {
        SystemTime::UNIX_EPOCH + since_1970
    }

    fn documented() -> Value {
        json!({
            "id": "0b1c2d",
            "upstream_id": "7f3a",
            "upstream": "10.0.0.7:8080",
            "owner": "09".repeat(32),
            "created": { "secs_since_epoch": 1_800_000_000, "nanos_since_epoch": 0 },
            "last_seen": { "secs_since_epoch": 1_800_000_060, "nanos_since_epoch": 500_000_000 },
            "idle_timeout": { "secs": 1800, "nanos": 0 },
        })
    }

    #[test]
    fn a_session_has_the_documented_form() {
        let session: Session = from_value(documented()).unwrap();
        assert_eq!(session.id.as_str(), "0b1c2d");
        assert_eq!(session.upstream_id.as_str(), "7f3a");
        assert_eq!(session.upstream, Some(UpstreamKey::new("10.0.0.7:8080")));
        assert_eq!(session.owner, Owner::from_bytes([9; 32]));
        assert_eq!(session.created, at(Duration::from_secs(1_800_000_000)));
        let seen = Duration::from_millis(1_800_000_060_500);
        assert_eq!(session.last_seen, at(seen));
        assert_eq!(session.idle_timeout, Some(Duration::from_secs(1800)));
        assert_eq!(to_value(&session).unwrap(), documented());
    }

    #[test]
    fn the_count_of_open_streams_is_not_serialized() {
        let mut session: Session = from_value(documented()).unwrap();
        session.open_streams = Some(StreamCount::default());
        let value = to_value(&session).unwrap();
        assert_eq!(value, documented());
        assert_eq!(from_value::<Session>(value).unwrap().open_streams, None);
    }

    #[test]
    fn optional_members_may_be_absent_and_unknown_members_are_ignored() {
        let mut value = documented();
        let members = value.as_object_mut().unwrap();
        members.remove("upstream");
        members.remove("idle_timeout");
        members.insert("tenant".into(), json!(7));
        let session: Session = from_value(value).unwrap();
        assert_eq!((session.upstream, session.idle_timeout), (None, None));
    }

    #[test]
    fn malformed_members_are_errors() {
        let before_1970 = json!({ "secs_since_epoch": -1, "nanos_since_epoch": 0 });
        let beyond_time = json!({ "secs_since_epoch": u64::MAX, "nanos_since_epoch": 0 });
        for (member, wrong, message) in [
            ("id", json!("a b"), "visible ASCII"),
            ("id", json!(""), "visible ASCII"),
            ("id", json!(null), "expected a string"),
            ("owner", json!("09"), "64 hexadecimal digits"),
            ("owner", json!("0g".repeat(32)), "64 hexadecimal digits"),
            ("owner", json!("\u{e9}".repeat(32)), "64 hexadecimal digits"),
            ("upstream_id", json!(1), "expected a string"),
            ("created", before_1970, "invalid value"),
            ("last_seen", beyond_time, "overflow"),
        ] {
            let mut value = documented();
            value[member] = wrong;
            let error = from_value::<Session>(value.clone()).unwrap_err();
            assert!(error.to_string().contains(message), "{value}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_session_survives_the_round_trip(
            id in "[!-~]{1,200}", upstream_id in any::<String>(), upstream in option::of(any::<String>()), owner: [u8; 32],
            created in 0_u64..1 << 40, nanos in 0_u32..1_000_000_000, seen in any::<u32>(), idle in option::of(any::<Duration>()),
        ) {
            let new = NewSession::new(UpstreamSessionId::new(upstream_id), Owner::from_bytes(owner))
                .with_upstream(upstream.map(UpstreamKey::new));
            let text = to_string(&new).unwrap();
            prop_assert_eq!(from_str::<NewSession>(&text).unwrap(), new.clone());

            let created = at(Duration::new(created, nanos));
            let mut session = Session::new(SessionId::parse(&id).unwrap(), new, created);
            session.last_seen += Duration::from_secs(seen.into());
            session.idle_timeout = idle;
            let text = to_string(&session).unwrap();
            prop_assert_eq!(from_str::<Session>(&text).unwrap(), session);
        }
    }
}
