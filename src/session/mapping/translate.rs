//! The rules applied to one request, response or event.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, request, response};

use super::{SessionMapping, endpoint_parameters};
use crate::headers::query::set_target;
use crate::session::{
    MalformedId, Session, SessionId, UpstreamSessionId,
    endpoint_url::{self, EndpointError},
    location::IdLocation,
};

impl SessionMapping {
    /// The time limit for a call to the store.
    pub(crate) fn store_limit(&self) -> Duration {
        self.store_timeout
    }

    /// Whether a request with an unknown id is forwarded without it.
    pub(crate) fn ignores_unknown(&self) -> bool {
        self.ignore_unknown
    }

    /// Whether requests and responses may contain session ids that are translated.
    pub(crate) fn translates_ids(&self) -> bool {
        !self.locations.is_empty()
    }

    /// Whether events may contain session ids.
    pub(crate) fn reads_events(&self) -> bool {
        self.endpoint || !self.pointers.is_empty()
    }

    /// The JSON Pointers to session ids in the data of events.
    pub(crate) fn pointers(&self) -> &[Arc<str>] {
        &self.pointers
    }

    /// Whether `endpoint` events are mapped.
    pub(crate) fn has_endpoints(&self) -> bool {
        self.endpoint
    }

    /// Whether session ids are in the header of this name.
    pub(crate) fn has_header(&self, name: &HeaderName) -> bool {
        let mut locations = self.locations.iter();
        locations.any(|location| matches!(location, IdLocation::Header(header) if header == name))
    }

    /// Whether session ids are in the cookie of this name.
    pub(in crate::session) fn has_cookie(&self, name: &str) -> bool {
        let mut locations = self.locations.iter();
        locations
            .any(|location| matches!(location, IdLocation::Cookie(cookie) if **cookie == *name))
    }

    /// The client session id of a request.
    pub(crate) fn id_of(
        &self,
        request: &request::Parts,
    ) -> Result<Option<SessionId>, SessionIdError> {
        let mut found = None;
        for location in &self.locations {
            let ids = location.in_request(request);
            // A browser may have cookies of the same name for several paths, and sends them all.
            if ids.len() > 1 && !matches!(location, IdLocation::Cookie(_)) {
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

    /// Removes the stripped headers and parameters from a request.
    pub(crate) fn strip_request(&self, request: &mut request::Parts) {
        for location in &self.stripped {
            location.set_in_request(request, None);
        }
    }

    /// Removes the stripped headers from the head of a response.
    pub(crate) fn strip_response(&self, headers: &mut HeaderMap) {
        for location in &self.stripped {
            location.set_in_response(headers, |_| None);
        }
    }

    /// Removes session ids and stripped headers from trailers. They are not translated, because a body cannot wait for the store,
    /// and no client expects a session id in trailers.
    pub(crate) fn strip_trailers(&self, trailers: &mut HeaderMap) {
        for location in self.locations.iter().chain(&self.stripped) {
            location.set_in_response(trailers, |_| None);
        }
    }

    /// Removes the session ids from a request.
    pub(crate) fn remove_ids(&self, request: &mut request::Parts) {
        for location in &self.locations {
            location.set_in_request(request, None);
        }
    }

    /// Replaces the client session id in a request by the upstream session id. Returns false if that is not possible:
    ///
    /// * The session cannot have an id in that location: the id of an `endpoint` session is only valid in the query, and the id of another
    ///   session is not valid there.
    /// * The new URI is longer than `http::Uri` permits.
    pub(crate) fn translate_request(
        &self,
        request: &mut request::Parts,
        session: &Session,
    ) -> bool {
        if let Some(target) = endpoint_url::target_of(&session.upstream_id) {
            let is_outside_query =
                |location: &&IdLocation| !matches!(location, IdLocation::Query(_));
            let mut others = self.locations.iter().filter(is_outside_query);
            return self.endpoint
                && others.all(|location| location.in_request(request).is_empty())
                && set_target(&mut request.uri, target);
        }
        if self.endpoint
            && endpoint_parameters().any(|location| !location.in_request(request).is_empty())
        {
            return false;
        }
        for location in &self.locations {
            if !location.in_request(request).is_empty() {
                location.set_in_request(request, Some(session.upstream_id.as_str()));
                // `http::Uri` has a maximum length, so that the replacement can fail. The upstream must not receive the client's id.
                let client_id = session.id.as_str().as_bytes();
                let ids = location.in_request(request);
                if ids.iter().any(|id| id == client_id) {
                    return false;
                }
            }
        }
        true
    }

    /// The upstream session ids in the head of a response.
    pub(crate) fn ids_in_response(
        &self,
        headers: &HeaderMap,
    ) -> Result<Vec<UpstreamSessionId>, MalformedId> {
        let ids = self
            .locations
            .iter()
            .flat_map(|location| location.in_response(headers));
        let ids = ids.map(|id| {
            let id = SessionId::parse(std::str::from_utf8(&id).unwrap_or_default())?;
            Ok(UpstreamSessionId::new(id.as_str()))
        });
        ids.collect()
    }

    /// Replaces the upstream session ids in the head of a response by the client session ids. An id of none of the sessions is removed.
    pub(crate) fn translate_response(&self, headers: &mut HeaderMap, sessions: &[Session]) {
        for location in &self.locations {
            location.set_in_response(headers, |id| {
                let session = sessions
                    .iter()
                    .find(|session| session.upstream_id.as_str().as_bytes() == id)?;
                Some(session.id.as_str())
            });
        }
    }

    /// Whether the response ends the session of the request.
    pub(crate) fn ends_session(
        &self,
        request: &request::Parts,
        response: &response::Parts,
    ) -> bool {
        (self.end_when)(request, response)
    }

    /// The upstream session id for the data of an `endpoint` event. `stream` is a random number of the stream.
    pub(crate) fn endpoint(
        &self,
        data: &str,
        request: &request::Parts,
        stream: u64,
    ) -> Result<UpstreamSessionId, EndpointError> {
        let (uri, headers) = (&request.uri, &request.headers);
        let target = endpoint_url::resolve(data, uri, headers, &self.upstream_origins)?;
        Ok(endpoint_url::to_id(&target, stream))
    }

    /// The path that the client receives in an `endpoint` event.
    pub(crate) fn client_endpoint(&self, stream: &request::Parts, session: &Session) -> String {
        endpoint_url::client_path(&self.mount_path, &stream.uri, &session.id)
    }
}

/// Why the session id of a request cannot be read.
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
            SessionIdError::Malformed(error) => write!(f, "{error}"),
            SessionIdError::Several => {
                f.write_str("multiple session ids: a request must have one session id")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::{Request, header};

    use super::*;
    use crate::session::{NewSession, Owner, UpstreamSessionId};

    fn mapping() -> SessionMapping {
        let mapping = SessionMapping::header(HeaderName::from_static("x-session"));
        mapping.in_cookie("sid").unwrap().in_endpoint()
    }

    #[test]
    fn locations_are_found_by_their_name() {
        let mapping = mapping();
        assert!(mapping.has_header(&HeaderName::from_static("x-session")));
        assert!(!mapping.has_header(&header::COOKIE));
        assert!(mapping.has_cookie("sid"));
        assert!(!mapping.has_cookie("x-session"));
        assert!(mapping.translates_ids());
        assert!(!SessionMapping::none().translates_ids());
    }

    #[test]
    fn id_in_a_header_is_translated_although_endpoints_are_mapped_too() {
        let new = NewSession::new(UpstreamSessionId::new("up"), Owner::ANONYMOUS);
        let id = SessionId::parse("client").unwrap();
        let session = Session::new(id, new, SystemTime::now());
        let request = Request::get("/a?b=c").header("x-session", "client");
        let (mut request, ()) = request.body(()).unwrap().into_parts();
        assert!(mapping().translate_request(&mut request, &session));
        assert_eq!(request.headers["x-session"], "up");
    }
}
