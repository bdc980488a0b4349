//! JSON-RPC messages in request bodies.

use std::{borrow::Cow, fmt};

use http::{Method, header::CONTENT_ENCODING, request};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Whether a request may be repeated. The default rule of [`HealLayer::repeat_if`](super::HealLayer::repeat_if).
///
/// True for a `GET` without a body, and for a `POST` whose JSON-RPC requests only read: `ping`, `completion/complete`, and all methods that
/// end with `/list`, `/read` or `/get`. All messages of a batch (revision 2025-03-26) must be such requests. False for everything else:
/// `tools/call`, notifications, responses, and JSON that servers may read differently (two members `method`, also in different case; JSON
/// that is not valid).
///
/// ```
/// use tower_sse_proxy::profile::heal::is_safe;
///
/// let (post, ()) = http::Request::post("/mcp").body(()).unwrap().into_parts();
/// assert!(is_safe(&post, br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#));
/// assert!(!is_safe(&post, br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay"}}"#));
/// ```
pub fn is_safe(request: &request::Parts, body: &[u8]) -> bool {
    match request.method {
        Method::GET => body.is_empty(),
        Method::POST => {
            !request.headers.contains_key(CONTENT_ENCODING)
                && methods(body)
                    .is_some_and(|methods| methods.iter().all(|method| is_safe_method(method)))
        }
        _ => false,
    }
}

fn is_safe_method(method: &str) -> bool {
    let reads = |action| method.strip_suffix(action).is_some_and(|of| !of.is_empty());
    matches!(method, "ping" | "completion/complete")
        || ["/list", "/read", "/get"].into_iter().any(reads)
}

/// Whether the body is one `initialize` request.
pub(super) fn is_initialize(body: &[u8]) -> bool {
    read::<Message<'_>>(body).is_some_and(|message| message.0 == "initialize")
}

/// Whether a message of the body is a `resources/subscribe` request.
pub(super) fn subscribes(body: &[u8]) -> bool {
    methods(body)
        .is_some_and(|methods| methods.iter().any(|method| method == "resources/subscribe"))
}

/// The methods of the messages in a body: one message, or a batch. `None` if a message has no method, or if the body is not a JSON text
/// that all servers read in the same way.
fn methods(body: &[u8]) -> Option<Vec<Cow<'_, str>>> {
    read::<Messages<'_>>(body).map(|messages| messages.0)
}

/// Reads a JSON text. The whole body has to be UTF-8.
fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    serde_json::from_str(std::str::from_utf8(body).ok()?).ok()
}

/// The methods of one message or of a batch of at least one.
struct Messages<'a>(Vec<Cow<'a, str>>);

/// The method of one message.
struct Message<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Messages<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MessagesVisitor)
    }
}

impl<'de> Deserialize<'de> for Message<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MessageVisitor)
    }
}

struct MessagesVisitor;

impl<'de> Visitor<'de> for MessagesVisitor {
    type Value = Messages<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON-RPC message or a batch")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let Message(method) = MessageVisitor.visit_map(map)?;
        Ok(Messages(vec![method]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut batch: A) -> Result<Self::Value, A::Error> {
        let mut methods = Vec::new();
        while let Some(Message(method)) = batch.next_element()? {
            methods.push(method);
        }
        if methods.is_empty() {
            return Err(serde::de::Error::custom("an empty batch"));
        }
        Ok(Messages(methods))
    }
}

struct MessageVisitor;

impl<'de> Visitor<'de> for MessageVisitor {
    type Value = Message<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON-RPC message with a method")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut method = None;
        while let Some(Text(name)) = map.next_key()? {
            // Some parsers ignore the case of names, and parsers differ in which of two members they use.
            if !name.eq_ignore_ascii_case("method") {
                map.next_value::<IgnoredAny>()?;
            } else if method.is_none() && name == "method" {
                method = Some(map.next_value::<Text<'de>>()?.0);
            } else {
                return Err(serde::de::Error::custom("an ambiguous method"));
            }
        }
        method
            .map(Message)
            .ok_or_else(|| serde::de::Error::missing_field("method"))
    }
}

/// A string, borrowed if it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_safe_post(body: impl AsRef<[u8]>) -> bool {
        let (post, ()) = http::Request::post("/").body(()).unwrap().into_parts();
        is_safe(&post, body.as_ref())
    }

    fn message(method: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"method":"x","a":[{{}}]}}}}"#
        )
    }

    #[test]
    fn only_requests_that_read_are_safe() {
        for method in [
            "ping",
            "completion/complete",
            "tools/list",
            "resources/list",
            "resources/templates/list",
            "resources/read",
            "prompts/get",
            "tasks/get",
            r"tools\/list",
            r"\u0070ing",
        ] {
            assert!(is_safe_post(message(method)), "{method}");
        }
        for method in [
            "tools/call",
            "initialize",
            "notifications/initialized",
            "notifications/cancelled",
            "resources/subscribe",
            "logging/setLevel",
            "tasks/cancel",
            "Ping",
            "ping ",
            "list",
            "/list",
            "tools/listen",
            "tools/list/call",
            "TOOLS/LIST",
            "",
        ] {
            assert!(!is_safe_post(message(method)), "{method}");
        }
    }

    #[test]
    fn messages_that_servers_may_read_differently_are_not_safe() {
        for body in [
            "",
            "null",
            "7",
            "\"ping\"",
            "[]",
            "{}",
            r#"{"id":1,"result":{}}"#,
            r#"{"method":"ping","method":"tools/call"}"#,
            r#"{"method":"ping","method":"ping"}"#,
            r#"{"method":"ping","Method":"tools/call"}"#,
            r#"{"METHOD":"ping"}"#,
            r#"{"method":"ping","m\u0065thod":"tools/call"}"#,
            r#"{"method":null}"#,
            r#"{"method":["ping"]}"#,
            r#"{"method":"ping"} {"method":"tools/call"}"#,
            r#"{"method":"ping","params":NaN}"#,
            r#"{"method":"ping""#,
            "\u{feff}{\"method\":\"ping\"}",
        ] {
            assert!(!is_safe_post(body), "{body}");
        }
        assert!(!is_safe_post(b"{\"method\":\"ping\",\"a\":\"\xff\"}"));
    }

    #[test]
    fn batch_is_safe_if_each_message_is() {
        let batch = |methods: &[&str]| {
            let messages: Vec<_> = methods.iter().map(|method| message(method)).collect();
            format!("[{}]", messages.join(","))
        };
        assert!(is_safe_post(batch(&["ping", "tools/list"])));
        assert!(!is_safe_post(batch(&["ping", "tools/call", "tools/list"])));
        assert!(!is_safe_post(batch(&["ping", "notifications/cancelled"])));
        assert!(!is_safe_post(r#"[{"method":"ping"},{"id":1,"result":{}}]"#));
        assert!(!is_safe_post(r#"[[{"method":"ping"}]]"#));
        assert!(!is_safe_post(r#"[{"method":"ping"},"ping"]"#));
    }

    #[test]
    fn method_and_coding_of_the_request_count() {
        let ping = message("ping");
        let safe = |request: http::request::Builder, body: &str| {
            is_safe(&request.body(()).unwrap().into_parts().0, body.as_bytes())
        };
        assert!(safe(http::Request::get("/"), ""));
        assert!(!safe(http::Request::get("/"), &ping));
        for method in ["DELETE", "HEAD", "PUT", "OPTIONS", "PATCH"] {
            let request = http::Request::builder().method(method);
            assert!(!safe(request, &ping), "{method}");
        }
        let coded = http::Request::post("/").header("content-encoding", "identity");
        assert!(!safe(coded, &ping));
    }

    #[test]
    fn initialize_and_subscriptions_are_recognized() {
        assert!(is_initialize(message("initialize").as_bytes()));
        assert!(!is_initialize(message("ping").as_bytes()));
        assert!(!is_initialize(
            format!("[{}]", message("initialize")).as_bytes()
        ));
        assert!(subscribes(message("resources/subscribe").as_bytes()));
        assert!(!subscribes(message("resources/list").as_bytes()));
    }
}
