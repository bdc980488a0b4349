//! Session ids of one request, response or event.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, request, response};

use super::{SessionMapping, endpoint_parameters};
use crate::headers::query::{escaped, set_target};
use crate::session::{
    MalformedId, Session, SessionId, UpstreamSessionId,
    endpoint::{self, EndpointError},
    location::IdLocation,
};

impl SessionMapping {
    pub(crate) fn store_limit(&self) -> Duration {
        self.store_timeout
    }

    pub(crate) fn forgets_unknown(&self) -> bool {
        self.forgets_unknown
    }

    /// Whether ids are looked for in events.
    pub(crate) fn reads_events(&self) -> bool {
        self.endpoint || !self.pointers.is_empty()
    }

    pub(crate) fn pointers(&self) -> &[Arc<str>] {
        &self.pointers
    }

    pub(crate) fn has_endpoints(&self) -> bool {
        self.endpoint
    }

    /// Whether the session id is in the header of this name.
    pub(crate) fn has_header(&self, name: &HeaderName) -> bool {
        let mut places = self.places.iter();
        places.any(|place| matches!(place, IdLocation::Header(header) if header == name))
    }

    /// Whether the session id is in the cookie of this name.
    pub(in crate::session) fn has_cookie(&self, name: &str) -> bool {
        let mut places = self.places.iter();
        places.any(|place| matches!(place, IdLocation::Cookie(cookie) if **cookie == *name))
    }

    /// The id that a request has, wherever it is.
    pub(crate) fn id_of(
        &self,
        request: &request::Parts,
    ) -> Result<Option<SessionId>, SessionIdError> {
        let mut found = None;
        for place in &self.places {
            let ids = place.in_request(request);
            // A browser may have the same cookie for several paths.
            if ids.len() > 1 && !matches!(place, IdLocation::Cookie(_)) {
                return Err(SessionIdError::Several);
            }
            for id in ids {
                let id = SessionId::parse(std::str::from_utf8(&id).unwrap_or_default())?;
                if *found.get_or_insert_with(|| id.clone()) != id {
                    return Err(SessionIdError::Several);
                }
            }
        }
        Ok(found)
    }

    /// Takes away what may not reach the upstream whatever it is.
    pub(crate) fn hide(&self, request: &mut request::Parts) {
        for place in &self.hidden {
            place.set_in_request(request, None);
        }
    }

    pub(crate) fn hide_in_answer(&self, headers: &mut HeaderMap) {
        for place in &self.hidden {
            place.set_in_answer(headers, |_| None);
        }
    }

    /// Takes ids away from trailers: no client looks for one there, and a body cannot ask the store.
    pub(crate) fn hide_in_trailers(&self, trailers: &mut HeaderMap) {
        for place in self.places.iter().chain(&self.hidden) {
            place.set_in_answer(trailers, |_| None);
        }
    }

    /// Sends a request on without its id.
    pub(crate) fn forget(&self, request: &mut request::Parts) {
        for place in &self.places {
            place.set_in_request(request, None);
        }
    }

    /// Puts the upstream's id where the client's is. False if the session is not of the kind whose id stands there.
    pub(crate) fn translate(&self, request: &mut request::Parts, session: &Session) -> bool {
        if let Some(target) = endpoint::of_id(&session.upstream_id) {
            let elsewhere = |place: &&IdLocation| !matches!(place, IdLocation::Query(_));
            let mut others = self.places.iter().filter(elsewhere);
            return self.endpoint
                && others.all(|place| place.in_request(request).is_empty())
                && set_target(&mut request.uri, target);
        }
        if self.endpoint && endpoint_parameters().any(|place| !place.in_request(request).is_empty())
        {
            return false;
        }
        for place in &self.places {
            if !place.in_request(request).is_empty() {
                place.set_in_request(request, Some(session.upstream_id.as_str()));
                // A URI has an end somewhere, and our id is not for the upstream.
                let ours = session.id.as_str().as_bytes();
                if place.in_request(request).iter().any(|id| id == ours) {
                    return false;
                }
            }
        }
        true
    }

    /// The ids that a response gives.
    pub(crate) fn ids_in_answer(
        &self,
        headers: &HeaderMap,
    ) -> Result<Vec<UpstreamSessionId>, MalformedId> {
        let ids = self
            .places
            .iter()
            .flat_map(|place| place.in_answer(headers));
        let ids = ids.map(|id| {
            let id = SessionId::parse(std::str::from_utf8(&id).unwrap_or_default())?;
            Ok(UpstreamSessionId::new(id.as_str()))
        });
        ids.collect()
    }

    /// Puts the client's ids where the upstream's are.
    pub(crate) fn translate_answer(&self, headers: &mut HeaderMap, sessions: &[Session]) {
        for place in &self.places {
            place.set_in_answer(headers, |id| {
                let session = sessions
                    .iter()
                    .find(|session| session.upstream_id.as_str().as_bytes() == id)?;
                Some(session.id.as_str())
            });
        }
    }

    pub(crate) fn is_over(&self, request: &request::Parts, response: &response::Parts) -> bool {
        (self.ends)(request, response)
    }

    /// The id of an endpoint that an upstream tells in a stream, of which this is the number.
    pub(crate) fn endpoint(
        &self,
        data: &str,
        request: &request::Parts,
        stream: u64,
    ) -> Result<UpstreamSessionId, EndpointError> {
        let target = endpoint::target(data, &request.uri, &request.headers, &self.origins)?;
        Ok(endpoint::as_id(&target, stream))
    }

    /// The endpoint that a client gets.
    pub(crate) fn own_endpoint(&self, stream: &request::Parts, session: &Session) -> String {
        let path = format!("{}{}", self.prefix, stream.uri.path());
        // More than one slash would be the beginning of another host.
        let path = path.trim_start_matches(['/', '\\']);
        let (parameter, id) = (endpoint::PARAMETER, escaped(session.id.as_str()));
        format!("/{path}?{parameter}={id}")
    }
}

/// Why a request cannot be told the session of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionIdError {
    Malformed(MalformedId),
    Several,
}

impl From<MalformedId> for SessionIdError {
    fn from(malformed: MalformedId) -> Self {
        SessionIdError::Malformed(malformed)
    }
}

impl fmt::Display for SessionIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionIdError::Malformed(why) => write!(f, "{why}"),
            SessionIdError::Several => f.write_str("a request has one session id"),
        }
    }
}
