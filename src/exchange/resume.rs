//! Finds the stream that a request resumes, authorizes the client, and chooses the response: events of the log, a [gap](super::gap), the
//! response of the upstream, or 204.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderValue, Method, StatusCode, request};

use crate::{
    exchange::{authorize::authorize, gap},
    headers::{
        event_stream_head::LAST_EVENT_ID,
        query::{parameters, set_parameter},
    },
    log::{
        CursorLookup, EventId, LogState, Position, Reader,
        last_event_id::{self, has_last_event_id, named_events},
    },
    observe::Observers,
    rejection::{Rejection, RejectionReason},
    replay::{
        Gap, RecordedStreams, Replay, Subscription,
        key::{StreamKey, StreamOwner},
        pending_resume::PendingResume,
        recorded_stream::RecordedStream,
        resume_gate::ResumePermit,
    },
    session::Owner,
};

/// The result of a request that may resume a recorded stream.
pub(crate) enum Resumed {
    /// The request names no event, or one that only the upstream can know. The service makes the response.
    No,
    Subscribe(Box<Subscription>),
    /// The client has read the whole log. The layer asks the upstream to continue.
    AskUpstream(PendingResume),
    Reject(Rejection),
}

/// The event that a request names.
enum Named {
    /// An id that the layer gave.
    Own(EventId),
    /// An id that the upstream gave, where events keep such ids.
    Upstream(String),
    /// An id that the layer did not give, and that finds no recorded stream. The request is not forwarded, because
    /// [`Replay::reject_foreign_ids`] is set or the method is not `GET`.
    Foreign,
}

/// Whether a request has to be [handled](crate::exchange::handle) before the service is called: it may resume a stream, it has the
/// query parameter that the service must not see, or it may share a stream.
pub(crate) fn needs_handling(request: &request::Parts, replay: &Replay) -> bool {
    replay.share.is_some() || names_an_event(request, replay) || has_parameter(request, replay)
}

/// Whether a request may resume a stream. (An empty id stands for none, WHATWG HTML 9.2.3.)
pub(crate) fn names_an_event(request: &request::Parts, replay: &Replay) -> bool {
    let in_query = |name| {
        let mut parameters = parameters(&request.uri);
        parameters.any(|parameter| parameter.is(name) && !parameter.value().is_empty())
    };
    has_last_event_id(&request.headers) || replay.query_param.as_deref().is_some_and(in_query)
}

/// Whether a request has the parameter of [`Replay::query_param`], be it empty.
fn has_parameter(request: &request::Parts, replay: &Replay) -> bool {
    let name = replay.query_param.as_deref();
    name.is_some_and(|name| parameters(&request.uri).any(|parameter| parameter.is(name)))
}

/// Whether a request is a CORS preflight (Fetch 4.8): it names no event itself, but its URL is that of the request that does.
fn is_preflight(request: &request::Parts) -> bool {
    request.method == Method::OPTIONS && !has_last_event_id(&request.headers)
}

/// Whether a response to this method can be a stream that other clients join.
pub(crate) fn accepts_stream(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::POST)
}

/// The recorded streams that one request may resume.
pub(crate) struct Resume<'a> {
    pub(crate) streams: &'a RecordedStreams,
    pub(crate) replay: &'a Replay,
    pub(crate) observers: &'a Observers,
    pub(crate) owner: &'a StreamOwner,
    pub(crate) key: &'a StreamKey,
}

impl Resume<'_> {
    /// Finds the stream that a request resumes. Removes the layer's own ids from `upstream`.
    pub(crate) async fn find(
        &self,
        client: &request::Parts,
        upstream: &mut request::Parts,
    ) -> Resumed {
        let named = self.take_own_id(upstream);
        if is_preflight(client) {
            return Resumed::No;
        }
        let is_get = client.method == Method::GET;
        let named = match named {
            Ok(Some(id)) => Named::Own(id),
            Ok(None) => match self.upstream_id(upstream) {
                Some(id) => Named::Upstream(id),
                None if self.replay.reject_foreign_ids && names_an_event(upstream, self.replay) => {
                    Named::Foreign
                }
                None if !is_get && names_an_event(client, self.replay) => Named::Foreign,
                None => return Resumed::No,
            },
            Err(rejection) => return Resumed::Reject(rejection),
        };
        if let Err(rejection) = authorize(self.replay, client).await {
            return Resumed::Reject(rejection);
        }
        if let Named::Own(EventId { stream, .. }) = &named
            && self.streams.is_closed(self.owner, self.key, *stream)
        {
            return Resumed::Reject(Rejection::closed(&client.method));
        }
        let found = match &named {
            Named::Own(EventId { stream, position }) => {
                let found = self.streams.registry.find(*stream);
                let found = found.filter(|found| self.matches(found));
                found.map(|found| (found, *position))
            }
            Named::Upstream(id) => self.find_upstream_id(id),
            Named::Foreign => None,
        };
        let Some((found, position)) = found else {
            let may_be_known =
                matches!(named, Named::Upstream(_)) && !self.replay.reject_foreign_ids;
            // The upstream may know the events after it. With any other method it would repeat the action of the request.
            return if may_be_known && is_get {
                Resumed::No
            } else {
                gap::observe(None, self.observers, "unknown");
                self.gap(client, "unknown", None)
            };
        };
        let (mut stream, mut lookup) = locate(&found, position);
        // Kept until the next reader is subscribed: a stream without a reader may end.
        let mut readers = Vec::new();
        while let CursorLookup::Tail(LogState::Suspended, cursor) = lookup
            && is_get
        {
            // Subscribed before the request to the upstream: the client then misses no later event, and the stream stays open.
            let reader = stream.subscribe(cursor);
            let permit = stream.resume_permit().await;
            if stream.is_closed() {
                return Resumed::Reject(Rejection::closed(&client.method));
            }
            let (current, now) = locate(&found, position);
            let is_suspended = matches!(now, CursorLookup::Tail(LogState::Suspended, _));
            if is_suspended && Arc::ptr_eq(&current, &stream) {
                return self.ask_upstream(client, upstream, stream, reader, permit);
            }
            readers.push(reader);
            (stream, lookup) = (current, now);
        }
        self.read_recorded(client, stream, lookup)
    }

    /// The response for a client that needs nothing of the upstream: the events in the log, or how the stream ended.
    fn read_recorded(
        &self,
        client: &request::Parts,
        stream: Arc<RecordedStream>,
        lookup: CursorLookup,
    ) -> Resumed {
        let is_get = client.method == Method::GET;
        let cursor = match lookup {
            CursorLookup::At(cursor) => cursor,
            // A suspended stream gets here only by a method with which the upstream is never asked to continue.
            CursorLookup::Tail(LogState::Failed | LogState::Suspended, _) => {
                gap::observe(Some(&stream), self.observers, "failed");
                return self.gap(client, "failed", None);
            }
            // The upstream may have more events, but gave no id. Without the layer, the client would send a request without an id,
            // and get the response to it.
            CursorLookup::Tail(..)
                if is_get && stream.continuation.anew && !stream.progress.is_complete() =>
            {
                return Resumed::No;
            }
            CursorLookup::Tail(..) if is_get || client.method == Method::HEAD => {
                return Resumed::Reject(Rejection::no_content());
            }
            CursorLookup::Tail(_, cursor) => cursor,
            CursorLookup::Evicted => {
                gap::observe(Some(&stream), self.observers, "evicted");
                return self.gap(client, "evicted", Some(stream));
            }
            CursorLookup::Unknown => {
                gap::observe(Some(&stream), self.observers, "unknown");
                return self.gap(client, "unknown", None);
            }
        };
        if let Some(live) = &stream.live {
            live.count_resume();
        }
        let subscription = Subscription::new(stream.id, stream.head(), stream.subscribe(cursor));
        Resumed::Subscribe(Box::new(subscription))
    }

    /// Prepares the request that asks the upstream to continue after the last id that it gave.
    fn ask_upstream(
        &self,
        client: &request::Parts,
        upstream: &mut request::Parts,
        stream: Arc<RecordedStream>,
        reader: Reader,
        permit: ResumePermit,
    ) -> Resumed {
        let last_id = stream.progress.last_id();
        let value = last_id
            .as_ref()
            .map(|id| HeaderValue::from_bytes(id.as_bytes()));
        let (Some(last_id), Some(Ok(value))) = (last_id, value) else {
            gap::observe(Some(&stream), self.observers, "failed");
            return self.gap(client, "failed", None);
        };
        let failed_meanwhile = permit.waited && permit.failed;
        let pending = PendingResume {
            stream,
            reader,
            last_id,
            is_event_source: self.replay.on_gap == Gap::Event,
            permit,
        };
        if failed_meanwhile && pending.is_event_source {
            // It reconnects after a while, as does the other client.
            return Resumed::Subscribe(Box::new(pending.into_empty_subscription()));
        }
        upstream.headers.insert(LAST_EVENT_ID, value);
        Resumed::AskUpstream(pending)
    }

    /// The response to a client that has missed events, for one of the reasons that [`Gap::Event`](crate::replay::Gap) lists. `rest` is the
    /// stream from which the client gets further events.
    fn gap(
        &self,
        client: &request::Parts,
        reason: &'static str,
        rest: Option<Arc<RecordedStream>>,
    ) -> Resumed {
        match gap::response(self.replay.on_gap, client, reason, rest) {
            Ok(subscription) => Resumed::Subscribe(Box::new(subscription)),
            Err(rejection) => Resumed::Reject(rejection),
        }
    }

    fn matches(&self, found: &RecordedStream) -> bool {
        found.owner == *self.owner && found.key == *self.key
    }

    /// Finds the latest stream that has an event with this id of the upstream.
    fn find_upstream_id(&self, id: &str) -> Option<(Arc<RecordedStream>, Position)> {
        let mut streams = self.streams.registry.all_of(self.owner);
        streams.retain(|found| self.matches(found));
        streams.sort_by_key(|found| std::cmp::Reverse(found.since));
        streams.into_iter().find_map(|found| {
            let position = found.log.position_of(id)?;
            Some((found, position))
        })
    }

    /// The upstream's id that a request names, if streams are found by such ids.
    fn upstream_id(&self, request: &request::Parts) -> Option<String> {
        let is_found_by_it =
            self.replay.preserve_upstream_ids && self.owner.owner != Owner::ANONYMOUS;
        let mut values = request.headers.get_all(LAST_EVENT_ID).iter();
        let (Some(id), None) = (values.next(), values.next()) else {
            return None;
        };
        let id = std::str::from_utf8(id.as_bytes()).ok()?;
        (is_found_by_it && !id.is_empty()).then(|| id.to_owned())
    }

    /// Removes the layer's own id from the request for the upstream, and returns it.
    fn take_own_id(&self, request: &mut request::Parts) -> Result<Option<EventId>, Rejection> {
        let in_query = self.take_id_in_query(request)?;
        let ids: Vec<_> = named_events(&request.headers).collect();
        let any_own = ids.iter().any(Option::is_some);
        match ids[..] {
            [] => Ok(in_query.filter(|id| *id != EventId::NONE)),
            [Some(id)] => {
                request.headers.remove(LAST_EVENT_ID);
                // The layer gives this id only to clients with an event id in their URL.
                let begins_anew = self.replay.query_param.is_some() && id == EventId::NONE;
                Ok(Some(id).filter(|_| !begins_anew))
            }
            _ if any_own => {
                let text = "multiple Last-Event-ID values: a request has one\n";
                Err(bad_request(text))
            }
            _ => Ok(None),
        }
    }

    /// Removes the parameter of [`Replay::query_param`] from the query. Returns its id if it is one of the layer's own. Any other id
    /// moves to `Last-Event-ID`, unless the client sends that header itself.
    fn take_id_in_query(&self, request: &mut request::Parts) -> Result<Option<EventId>, Rejection> {
        let Some(name) = self.replay.query_param.as_deref() else {
            return Ok(None);
        };
        let found = parameters(&request.uri).filter(|parameter| parameter.is(name));
        let values: Vec<_> = found
            .map(|parameter| parameter.value().into_owned())
            .filter(|value| !value.is_empty())
            .collect();
        set_parameter(&mut request.uri, name, None);
        if has_last_event_id(&request.headers) {
            return Ok(None);
        }
        // An empty header names no event.
        request.headers.remove(LAST_EVENT_ID);
        if let Some(own) = values.iter().find_map(|value| last_event_id::parse(value)) {
            return Ok(Some(own));
        }
        let Some((value, others)) = values.split_first() else {
            return Ok(None);
        };
        let header = HeaderValue::from_bytes(value).ok();
        match header.filter(|_| others.iter().all(|other| other == value)) {
            Some(header) => request.headers.insert(LAST_EVENT_ID, header),
            None => {
                let text = format!("the query parameter `{name}` must hold one event id\n");
                return Err(bad_request(text));
            }
        };
        Ok(None)
    }
}

/// The response to a request whose event ids contradict each other.
fn bad_request(text: impl Into<Cow<'static, str>>) -> Rejection {
    Rejection::new(StatusCode::BAD_REQUEST, text).because(RejectionReason::Resume)
}

/// Finds the position after an event, in its stream or in the successor that continued it.
fn locate(stream: &Arc<RecordedStream>, position: Position) -> (Arc<RecordedStream>, CursorLookup) {
    let mut stream = Arc::clone(stream);
    let mut lookup = stream.log.locate(position);
    while let CursorLookup::Tail(LogState::Suspended, _) = lookup
        && let Some(next) = stream.successor()
    {
        lookup = next.log.start();
        stream = next;
    }
    (stream, lookup)
}
