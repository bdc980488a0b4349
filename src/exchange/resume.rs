//! A client that comes back: which stream it means, whether it may have it, and what it is told.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, request, response};

use crate::{
    codec::Event,
    exchange::{authorize::authorize, record::Rejoins},
    headers::{
        event_stream::{LAST_EVENT_ID, head_with, plain_headers},
        list::elements,
        query::{parameters, set_parameter},
    },
    log::{CursorLookup, EventId, LogState, Position, Reader, StreamId},
    rejection::Rejection,
    replay::{
        ClosedStreams, Gap, LogRegistry, Replay,
        recorded_stream::{RecordedStream, StreamKey, StreamOwner, closed_key},
        resume_gate::ResumePermit,
    },
    session::Owner,
};

/// A place in a stream that is kept, for a client to read on from.
pub(crate) struct Rejoin {
    pub(crate) head: response::Parts,
    pub(crate) reader: Option<Reader>,
    /// What the client is told first.
    pub(crate) first: Option<Bytes>,
}

/// What becomes of a request.
pub(crate) enum Resumed {
    /// It does not come back to anything that is kept.
    Not,
    Kept(Box<Rejoin>),
    /// All that is kept has been read, and the upstream has to go on.
    AtTheUpstream(Rejoins),
    Refused(Rejection),
}

/// What a request names.
enum Named {
    Ours(EventId),
    Upstreams(String),
    /// Nobody's, where all ids are ours.
    Nobodys,
}

/// Whether a request may come back to something. Who names nothing comes for the first time (WHATWG HTML 9.2.3: an empty id is
/// not sent).
pub(crate) fn names_an_event(request: &request::Parts, replay: &Replay) -> bool {
    let in_query = |name| {
        let mut parameters = parameters(&request.uri);
        parameters.any(|parameter| parameter.is(name) && !parameter.value().is_empty())
    };
    has_last_event_id(request) || replay.query.as_deref().is_some_and(in_query)
}

/// Whether the request has a `Last-Event-ID` that is not empty.
fn has_last_event_id(request: &request::Parts) -> bool {
    let mut values = request.headers.get_all(LAST_EVENT_ID).iter();
    values.any(|value| !value.as_bytes().trim_ascii().is_empty())
}

/// Whether this asks if a page may send another request (Fetch 4.8): it names no event itself, and its address is that of the
/// request which does.
fn is_preflight(request: &request::Parts) -> bool {
    request.method == Method::OPTIONS && !has_last_event_id(request)
}

/// Whether a request has the parameter of [`Replay::query_param`], which the service does not get to see even if it is empty.
pub(crate) fn has_parameter(request: &request::Parts, replay: &Replay) -> bool {
    let name = replay.query.as_deref();
    name.is_some_and(|name| parameters(&request.uri).any(|parameter| parameter.is(name)))
}

/// The events of ours, and of others (`None`), that a request names in its head.
fn named_events(headers: &HeaderMap) -> impl Iterator<Item = Option<EventId>> {
    let values = headers.get_all(LAST_EVENT_ID).iter();
    // Several fields are one list to some (RFC 9110 5.3).
    let values = values.flat_map(|value| elements(value.as_bytes()));
    values.map(own_id)
}

/// Whether a request names an event of ours in its head, be it among others.
pub(crate) fn names_one_of_ours(headers: &HeaderMap) -> bool {
    named_events(headers).flatten().next().is_some()
}

/// Whether a stream is what a request of this method is for. Any other is for the service, whatever there is of its stream.
pub(crate) fn comes_for_a_stream(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::POST)
}

/// A request's way to what is kept.
pub(crate) struct Resumption<'a> {
    pub(crate) logs: &'a LogRegistry<RecordedStream>,
    pub(crate) closed: &'a ClosedStreams,
    pub(crate) replay: &'a Replay,
    pub(crate) whose: &'a StreamOwner,
    pub(crate) target: &'a StreamKey,
}

impl Resumption<'_> {
    /// Finds the stream that a request comes back to. What goes upstream is told nothing of it.
    pub(crate) async fn answer(
        &self,
        client: &request::Parts,
        upstream: &mut request::Parts,
    ) -> Resumed {
        let found = self.last_event_id(upstream);
        if is_preflight(client) {
            return Resumed::Not;
        }
        let is_get = client.method == Method::GET;
        let id = match found {
            Ok(Some(id)) => Named::Ours(id),
            Ok(None) => match self.upstreams_id(upstream) {
                Some(id) => Named::Upstreams(id),
                None if self.replay.only_own_ids && names_an_event(upstream, self.replay) => {
                    Named::Nobodys
                }
                None if !is_get && names_an_event(client, self.replay) => Named::Nobodys,
                None => return Resumed::Not,
            },
            Err(refusal) => return Resumed::Refused(refusal),
        };
        if let Err(refusal) = authorize(self.replay, client).await {
            return Resumed::Refused(refusal);
        }
        if let Named::Ours(EventId { stream: token, .. }) = &id
            && self.is_closed(*token)
        {
            return Resumed::Refused(Rejection::closed(&client.method));
        }
        let found = match &id {
            Named::Ours(EventId {
                stream: token,
                position,
            }) => {
                let found = self.logs.find(*token).filter(|found| self.is_it(found));
                found.map(|found| (found, *position))
            }
            Named::Upstreams(id) => self.with_id(id),
            Named::Nobodys => None,
        };
        let Some((found, position)) = found else {
            let may_be_known = matches!(id, Named::Upstreams(_)) && !self.replay.only_own_ids;
            // The upstream may know what came after it. To any other method it would have to do again what was asked for.
            return if may_be_known && is_get {
                Resumed::Not
            } else {
                self.gap(client, "unknown", None)
            };
        };
        let (mut recording, mut place) = place_of(&found, position);
        // Held until there is another: a stream without a reader may be given up.
        let mut seats = Vec::new();
        while let CursorLookup::Tail(LogState::Suspended, cursor) = place
            && is_get
        {
            // Joined before the upstream is asked: what comes after this cannot be missed, and the stream waits.
            let reader = Reader::new(Arc::clone(&recording.channel), cursor);
            let turn = recording.resume_permit().await;
            if recording.is_closed() {
                return Resumed::Refused(Rejection::closed(&client.method));
            }
            let (now, there) = place_of(&found, position);
            let still = matches!(there, CursorLookup::Tail(LogState::Suspended, _));
            if still && Arc::ptr_eq(&now, &recording) {
                return self.at_the_upstream(client, upstream, recording, reader, turn);
            }
            seats.push(reader);
            (recording, place) = (now, there);
        }
        self.kept(client, recording, place)
    }

    /// What is kept of a stream from there on, or what it has come to.
    fn kept(
        &self,
        client: &request::Parts,
        recording: Arc<RecordedStream>,
        place: CursorLookup,
    ) -> Resumed {
        let is_get = client.method == Method::GET;
        let cursor = match place {
            CursorLookup::At(cursor) => cursor,
            // A suspended stream gets here only by a method by which the upstream is never asked to continue.
            CursorLookup::Tail(LogState::Failed | LogState::Suspended, _) => {
                return self.gap(client, "failed", None);
            }
            // Nobody knows whether there would be more. The upstream's answer to a client without an id is what its client would
            // have had.
            CursorLookup::Tail(..)
                if is_get && recording.continuation.anew && !recording.progress.is_complete() =>
            {
                return Resumed::Not;
            }
            CursorLookup::Tail(..) if is_get || client.method == Method::HEAD => {
                return Resumed::Refused(Rejection::no_content());
            }
            CursorLookup::Tail(_, cursor) => cursor,
            CursorLookup::Evicted => return self.gap(client, "evicted", Some(recording)),
            CursorLookup::Unknown => return self.gap(client, "unknown", None),
        };
        Resumed::Kept(Box::new(Rejoin {
            head: recording.head(),
            reader: Some(Reader::new(Arc::clone(&recording.channel), cursor)),
            first: None,
        }))
    }

    /// Has the upstream asked to go on after the last id that it gave.
    fn at_the_upstream(
        &self,
        client: &request::Parts,
        upstream: &mut request::Parts,
        recording: Arc<RecordedStream>,
        reader: Reader,
        turn: ResumePermit,
    ) -> Resumed {
        let last_id = recording.progress.last_id();
        let value = last_id
            .as_ref()
            .map(|id| HeaderValue::from_bytes(id.as_bytes()));
        let (Some(last_id), Some(Ok(value))) = (last_id, value) else {
            return self.gap(client, "failed", None);
        };
        let in_vain = turn.waited && turn.failed;
        let rejoins = Rejoins {
            recording,
            reader,
            last_id,
            by_event_source: self.replay.gap == Gap::Event,
            turn,
        };
        if in_vain && rejoins.by_event_source {
            // It comes back after a while, as does the one who has asked.
            return Resumed::Kept(Box::new(rejoins.for_now()));
        }
        upstream.headers.insert(LAST_EVENT_ID, value);
        Resumed::AtTheUpstream(rejoins)
    }

    fn is_closed(&self, stream: StreamId) -> bool {
        let key = closed_key(self.whose, self.target, stream);
        self.closed.contains(&self.whose.owner, &key)
    }

    fn is_it(&self, found: &RecordedStream) -> bool {
        found.whose == *self.whose && found.target == *self.target
    }

    /// The stream with this id of the upstream's, and where it stands in it.
    fn with_id(&self, id: &str) -> Option<(Arc<RecordedStream>, Position)> {
        let mut all = self.logs.all_of(self.whose);
        all.retain(|found| self.is_it(found));
        all.sort_by_key(|found| std::cmp::Reverse(found.since));
        all.into_iter().find_map(|found| {
            let position = found.channel.position_of(id)?;
            Some((found, position))
        })
    }

    /// The id of the upstream's that the request names, if streams are found by those.
    fn upstreams_id(&self, request: &request::Parts) -> Option<String> {
        let found_by_it = self.replay.upstream_ids && self.whose.owner != Owner::ANONYMOUS;
        let mut values = request.headers.get_all(LAST_EVENT_ID).iter();
        let (Some(id), None) = (values.next(), values.next()) else {
            return None;
        };
        let id = std::str::from_utf8(id.as_bytes()).ok()?;
        (found_by_it && !id.is_empty()).then(|| id.to_owned())
    }

    /// The id of ours that the request names. It is taken out of the request.
    fn last_event_id(&self, request: &mut request::Parts) -> Result<Option<EventId>, Rejection> {
        let in_query = self.id_in_query(request)?;
        let ids: Vec<_> = named_events(&request.headers).collect();
        let named = ids.iter().any(Option::is_some);
        match ids[..] {
            [] => Ok(in_query.filter(|id| *id != EventId::NONE)),
            [Some(id)] => {
                request.headers.remove(LAST_EVENT_ID);
                // Nobody is told of that one where no address names an event.
                let anew = self.replay.query.is_some() && id == EventId::NONE;
                Ok(Some(id).filter(|_| !anew))
            }
            _ if named => {
                let text = "a request has one Last-Event-ID\n";
                Err(Rejection::new(StatusCode::BAD_REQUEST, text))
            }
            _ => Ok(None),
        }
    }

    /// Takes the parameter out of the query. Returns the id of ours that it holds; any other moves to `Last-Event-ID`, unless
    /// the client sends that itself.
    fn id_in_query(&self, request: &mut request::Parts) -> Result<Option<EventId>, Rejection> {
        let Some(name) = self.replay.query.as_deref() else {
            return Ok(None);
        };
        let found = parameters(&request.uri).filter(|parameter| parameter.is(name));
        let values: Vec<_> = found
            .map(|parameter| parameter.value().into_owned())
            .filter(|value| !value.is_empty())
            .collect();
        set_parameter(&mut request.uri, name, None);
        let headers = &mut request.headers;
        let mut sent = headers.get_all(LAST_EVENT_ID).iter();
        if sent.any(|value| !value.as_bytes().trim_ascii().is_empty()) {
            return Ok(None);
        }
        // An empty header names nothing.
        headers.remove(LAST_EVENT_ID);
        if let Some(ours) = values.iter().find_map(|value| own_id(value)) {
            return Ok(Some(ours));
        }
        let Some((value, others)) = values.split_first() else {
            return Ok(None);
        };
        let header = HeaderValue::from_bytes(value);
        match header
            .ok()
            .filter(|_| others.iter().all(|other| other == value))
        {
            Some(header) => headers.insert(LAST_EVENT_ID, header),
            None => {
                let text = format!("the query parameter `{name}` must hold one event id\n");
                return Err(Rejection::new(StatusCode::BAD_REQUEST, text));
            }
        };
        Ok(None)
    }

    /// Tells a client that it cannot have all it missed, and then what there is.
    fn gap(
        &self,
        client: &request::Parts,
        reason: &str,
        rest: Option<Arc<RecordedStream>>,
    ) -> Resumed {
        let status = match self.replay.gap {
            Gap::Status(status) => Some(status),
            Gap::Event if client.method != Method::GET => Some(StatusCode::GONE),
            Gap::Event => None,
        };
        if let Some(status) = status {
            let text = format!("the stream cannot be resumed without a gap: {reason}\n");
            return Resumed::Refused(Rejection::new(status, text));
        }
        let mut event = Event::new(format!(r#"{{"reason":"{reason}"}}"#));
        // Nothing in these is more than a line.
        let _ = event.set_event("gap");
        let head = rest.as_ref().map(|rest| rest.head());
        let reader = rest.map(|rest| {
            let (oldest, last) = rest.channel.oldest_or_last();
            if let Some((token, position)) = rest.id_prefix().zip(last) {
                // No event is left that would tell the client where it is then, and it would be told the same for ever.
                let _ = event.set_id(
                    EventId {
                        stream: token,
                        position,
                    }
                    .to_string(),
                );
            }
            Reader::new(Arc::clone(&rest.channel), oldest)
        });
        if reader.is_none() {
            // The client begins anew when it comes back. One whose address names an event would be told the same for ever.
            let by_address = !client.headers.contains_key(LAST_EVENT_ID);
            let anew = by_address.then(|| EventId::NONE.to_string());
            let _ = event.set_id(anew.unwrap_or_default());
        }
        Resumed::Kept(Box::new(Rejoin {
            head: head.unwrap_or_else(|| head_with(plain_headers())),
            reader,
            first: Some(event.into_block().into_raw()),
        }))
    }
}

/// Where the one is who has this event: in its stream, or in one that follows on it.
fn place_of(
    recording: &Arc<RecordedStream>,
    position: Position,
) -> (Arc<RecordedStream>, CursorLookup) {
    let mut recording = Arc::clone(recording);
    let mut place = recording.channel.locate(position);
    while let CursorLookup::Tail(LogState::Suspended, _) = place
        && let Some(next) = recording.successor()
    {
        place = next.channel.start();
        recording = next;
    }
    (recording, place)
}

/// The id, if it is one of ours. Blanks around it have no meaning (RFC 9110 5.5).
fn own_id(value: &[u8]) -> Option<EventId> {
    let value = std::str::from_utf8(value.trim_ascii()).ok()?;
    value.parse().ok()
}
