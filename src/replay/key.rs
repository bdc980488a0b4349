//! The key of a recorded stream: its owner and session, and the request that opened it.

use std::{hash::Hash, sync::Arc};

use http::{header, request, uri::Authority};

use crate::{
    headers::query::without_parameter,
    replay::Replay,
    session::{Owner, SessionId},
    stream_id::StreamId,
};

/// The name of a stream among the closed streams of its owner.
pub(crate) fn closed_key(
    owner: &StreamOwner,
    key: &StreamKey,
    stream: StreamId,
) -> impl Hash + use<> {
    (owner.session.clone(), key.clone(), stream)
}

/// The owner and the session of a stream: only their requests can resume it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamOwner {
    pub(crate) owner: Owner,
    pub(crate) session: Option<SessionId>,
}

/// The request that opened a stream, within the [namespace](Replay::namespace) in the first field.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum StreamKey {
    /// Host, path and query.
    Path(Arc<str>, String),
    /// Host, and the key by which requests share the stream.
    Shared(Arc<str>, String),
}

impl StreamKey {
    pub(crate) fn of(request: &request::Parts, replay: &Replay) -> Self {
        let namespace = Arc::clone(&replay.namespace);
        if let Some(share) = &replay.share
            && let Some(key) = (share.by)(request)
        {
            return Self::Shared(namespace, with_host(request, &key));
        }
        let query = without_parameter(&request.uri, replay.query_param.as_deref());
        // A path contains no question mark, so that the two together are unambiguous.
        let target = with_host(request, &format!("{}{query}", request.uri.path()));
        Self::Path(namespace, target)
    }

    /// The memory, in bytes, of the text.
    pub(crate) fn memory(&self) -> usize {
        let (Self::Path(_, text) | Self::Shared(_, text)) = self;
        text.capacity()
    }
}

/// The host of a request, and then this text. A server may have several hosts, and equal paths of two hosts are different resources.
///
/// HTTP/2 and absolute-form requests name the host in the URI, others in `Host` (RFC 9110 7.2). If the two differ, both count,
/// because the service may use either.
fn with_host(request: &request::Parts, rest: &str) -> String {
    let authority = request.uri.authority().map(Authority::as_str);
    let mut host = authority.unwrap_or_default().to_ascii_lowercase();
    for value in request.headers.get_all(header::HOST) {
        let value = value.as_bytes().to_ascii_lowercase();
        let value = value.escape_ascii().to_string();
        if value != host {
            host = format!("{host} {value}").trim_start().to_owned();
        }
    }
    // With the length, so that no other host and rest give the same text.
    format!("{}:{host}{rest}", host.len())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn text(uri: &str, hosts: &[&str]) -> String {
        let mut request = Request::get(uri);
        for &host in hosts {
            request = request.header(header::HOST, host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let (StreamKey::Path(_, text) | StreamKey::Shared(_, text)) =
            StreamKey::of(&parts, &Replay::default());
        text
    }

    #[test]
    fn key_names_the_host_and_the_target() {
        assert_eq!(text("/a?b=c", &["Example.com"]), "11:example.com/a?b=c");
        assert_eq!(text("http://example.com/a", &[]), "11:example.com/a");
        assert_eq!(text("/a", &[]), "0:/a");
    }

    #[test]
    fn hosts_that_differ_from_the_authority_are_part_of_the_key() {
        let hosts = |hosts| text("http://a.test/x", hosts);
        assert_eq!(hosts(&["A.test"]), "6:a.test/x");
        assert_eq!(hosts(&["b.test"]), "13:a.test b.test/x");
        assert_eq!(text("/x", &["a.test", "b.test"]), "13:a.test b.test/x");
    }

    #[test]
    fn memory_of_a_key_is_that_of_its_text() {
        let (parts, ()) = Request::get(format!("/{}", "x".repeat(1000)))
            .body(())
            .unwrap()
            .into_parts();
        let memory = StreamKey::of(&parts, &Replay::default()).memory();
        assert!((1000..2100).contains(&memory), "{memory}");
    }
}
