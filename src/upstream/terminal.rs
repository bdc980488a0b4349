//! The event by which an API says that its stream is complete.

use crate::{
    codec::{Block, Event},
    intercept::Json,
};

/// The end of OpenAI's chat completions, and of what imitates them.
const DONE: &str = "[DONE]";

/// The final states of a response of OpenAI's Responses API.
const RESPONSE_OVER: [&str; 3] = [
    "response.completed",
    "response.incomplete",
    "response.failed",
];

/// The API family of a stream is recognized by one of its first events, this many at the most.
const EVENTS_LOOKED_AT: u32 = 64;

/// Whether the stream of a model API is complete with this event: `[DONE]`, Anthropic's `message_stop`, or the final state of an
/// OpenAI response.
pub(crate) fn completes(event: &Event) -> bool {
    let data = event.data();
    if data == DONE {
        return true;
    }
    // Not Anthropic's `error`: an event of this type may be one of many in the stream of another API.
    (data.contains("message_stop") || data.contains("response."))
        && Json::parse(&*data).is_ok_and(|json| {
            let kind = json.root().get("type").and_then(|kind| kind.as_str());
            kind.is_some_and(|kind| kind == "message_stop" || RESPONSE_OVER.contains(&&*kind))
        })
}

/// Whether this is the response to a JSON-RPC request.
pub(crate) fn is_json_rpc_response(event: &Event) -> bool {
    Family::JsonRpc.ends_with_json(&event.data())
}

/// An API whose streams have a terminal event. (Gemini's have none.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    OpenAiChat,
    OpenAiResponses,
    Anthropic,
    JsonRpc,
}

/// Watches the events of an upstream for the terminal event of their API.
#[derive(Debug)]
pub(crate) struct TerminalWatch {
    /// JSON-RPC has a terminal event only as the answer to a `POST`.
    answers_post: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// This many events were of no API that is known here.
    Unknown(u32),
    Expected(Family),
    /// It came, or none is expected.
    Settled,
}

impl TerminalWatch {
    pub(crate) fn new(answers_post: bool) -> Self {
        Self {
            answers_post,
            state: State::Unknown(0),
        }
    }

    /// Whether the stream is one of an API whose terminal event has not come.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self.state, State::Expected(_))
    }

    /// Whether there is nothing left to watch for.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.state, State::Settled)
    }

    /// Looks at the next block of the upstream. An event that was cut off counts as the one that it was to become: how the stream
    /// ended is told by that.
    pub(crate) fn observe(&mut self, block: Block) -> Block {
        if !block.is_event() {
            return block;
        }
        let event = Event::of(block);
        self.state = match self.state {
            State::Unknown(events) => self.recognize(&event, events),
            State::Expected(family) if family.is_over(&event) => State::Settled,
            State::Expected(family) => State::Expected(family),
            State::Settled => State::Settled,
        };
        event.into_block()
    }

    fn recognize(&self, event: &Event, events: u32) -> State {
        let json = Json::parse(event.data()).ok();
        match json.and_then(|json| Some((Family::of(&json, self.answers_post)?, json))) {
            Some((family, json)) if family.ends_with(&json) => State::Settled,
            Some((family, _)) => State::Expected(family),
            None if events + 1 >= EVENTS_LOOKED_AT => State::Settled,
            None => State::Unknown(events + 1),
        }
    }
}

impl Family {
    /// The family that an event is of, told by its shape.
    fn of(json: &Json, answers_post: bool) -> Option<Self> {
        let root = json.root();
        if root.get("choices").is_some() {
            return Some(Self::OpenAiChat);
        }
        let kind = root.get("type").and_then(|kind| kind.as_str());
        match kind.as_deref() {
            Some(kind) if kind.starts_with("response.") => return Some(Self::OpenAiResponses),
            Some(
                "message_start"
                | "message_delta"
                | "message_stop"
                | "content_block_start"
                | "content_block_delta"
                | "content_block_stop",
            ) => return Some(Self::Anthropic),
            _ => {}
        }
        let messages = ["/jsonrpc", "/0/jsonrpc"];
        let is_json_rpc = messages.iter().any(|at| json.pointer(at).is_some());
        (is_json_rpc && answers_post).then_some(Self::JsonRpc)
    }

    /// Whether the stream is complete with this event.
    fn is_over(self, event: &Event) -> bool {
        let data = event.data();
        data == DONE || self.may_end_with(&data) && self.ends_with_json(&data)
    }

    /// Whether it is worth it to read this data as JSON: most events do not contain what would make them the terminal one.
    fn may_end_with(self, data: &str) -> bool {
        match self {
            Self::OpenAiChat => false,
            Self::OpenAiResponses => {
                data.contains("response.") && RESPONSE_OVER.iter().any(|state| data.contains(state))
            }
            Self::Anthropic => data.contains("message_stop") || data.contains("error"),
            Self::JsonRpc => data.contains("result") || data.contains("error"),
        }
    }

    fn ends_with_json(self, data: &str) -> bool {
        Json::parse(data).is_ok_and(|json| self.ends_with(&json))
    }

    fn ends_with(self, json: &Json) -> bool {
        let kind = json.root().get("type").and_then(|kind| kind.as_str());
        match self {
            Self::OpenAiChat => false,
            Self::OpenAiResponses => kind.is_some_and(|kind| RESPONSE_OVER.contains(&&*kind)),
            Self::Anthropic => matches!(kind.as_deref(), Some("message_stop" | "error")),
            // Up to 2025-03-26 several messages may share an event; of those the first will do.
            Self::JsonRpc => ["", "/0"].iter().any(|message| {
                let has = |member| json.pointer(&format!("{message}/{member}")).is_some();
                has("id") && (has("result") || has("error"))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(answers_post: bool, events: &[&str]) -> bool {
        let mut watch = TerminalWatch::new(answers_post);
        for data in events {
            watch.observe(Event::new(data).into());
        }
        watch.is_missing()
    }

    #[test]
    fn terminal_event_of_each_family_ends_its_stream() {
        let families: [(&str, &[&str]); 4] = [
            (r#"{"choices":[{"delta":{"content":"a"}}]}"#, &["[DONE]"]),
            (
                r#"{"type":"message_start","message":{}}"#,
                &[
                    r#"{"type":"message_stop"}"#,
                    r#"{"type":"error","error":{}}"#,
                ],
            ),
            (
                r#"{"type":"response.created","response":{}}"#,
                &[
                    r#"{"type":"response.completed","response":{}}"#,
                    r#"{"type":"response.incomplete","response":{}}"#,
                    r#"{"type":"response.failed","response":{}}"#,
                ],
            ),
            (
                r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#,
                &[
                    r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
                    r#"{"jsonrpc":"2.0","id":1,"error":{}}"#,
                ],
            ),
        ];
        for (begins, ends) in families {
            assert!(missing(true, &[begins]), "{begins}");
            assert!(missing(true, &["hello", begins, begins]), "{begins}");
            for end in ends {
                assert!(!missing(true, &[begins, end]), "{begins} {end}");
                // Further events do not undo it.
                assert!(!missing(true, &[begins, end, begins]), "{begins} {end}");
            }
        }
    }

    #[test]
    fn text_that_mentions_a_terminal_event_is_none() {
        let chat = r#"{"choices":[{"delta":{"content":"[DONE]"}}]}"#;
        assert!(missing(false, &[chat, chat]));
        let delta = r#"{"type":"content_block_delta","delta":{"text":"message_stop error"}}"#;
        assert!(missing(false, &[delta, delta]));
        assert!(!completes(&Event::new(chat)));
        assert!(!completes(&Event::new(delta)));
        assert!(!completes(&Event::new("not [DONE]")));
        assert!(!completes(&Event::new(
            r#"{"type":"error","error":"message_stop"}"#
        )));
    }

    #[test]
    fn other_streams_have_no_terminal_event() {
        let gemini = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}"#;
        let rpc = r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#;
        for data in [
            gemini,
            rpc,
            "1",
            "tick",
            r#"{"type":"tick"}"#,
            r#"{"error":"x"}"#,
        ] {
            assert!(!missing(false, &[data, data]), "{data}");
        }
    }

    #[test]
    fn stream_of_no_known_family_is_not_looked_at_for_ever() {
        let mut watch = TerminalWatch::new(true);
        for events in 1..=EVENTS_LOOKED_AT {
            assert!(!watch.is_settled());
            watch.observe(Event::new(events.to_string()).into());
        }
        assert!(watch.is_settled());
    }
}
