//! The terminal event of a stream: the event by which an API marks the stream as complete.

use memchr::memmem;

use crate::{
    codec::{Block, Event},
    intercept::Json,
    observe::StreamOutcome,
    upstream::finders::finders,
};

/// The terminal event of OpenAI's chat completions and of compatible APIs.
const DONE: &str = "[DONE]";

/// The types of the terminal events of OpenAI's Responses API.
const RESPONSES_TERMINAL_TYPES: [&str; 3] = [
    "response.completed",
    "response.incomplete",
    "response.failed",
];

/// The number of events, from the first one, by which the API family of a stream is recognized.
const RECOGNITION_EVENTS: u32 = 64;

/// Whether this is the terminal event of a model API: `[DONE]`, Anthropic's `message_stop`, or the final state of a response of
/// OpenAI's Responses API.
pub(crate) fn completes(event: &Event) -> bool {
    let data = event.data();
    if data == DONE {
        return true;
    }
    // Anthropic's `error` does not count: in other APIs events of this type may occur in the middle of a stream.
    (data.contains("message_stop") || data.contains("response."))
        && Json::parse(&*data).is_ok_and(|json| {
            let kind = json.root().get("type").and_then(|kind| kind.as_str());
            kind.is_some_and(|kind| {
                kind == "message_stop" || RESPONSES_TERMINAL_TYPES.contains(&&*kind)
            })
        })
}

/// Whether this is the response to a JSON-RPC request.
pub(crate) fn is_json_rpc_response(event: &Event) -> bool {
    Family::JsonRpc.is_terminal_json(&event.data())
}

/// An API family whose streams have a terminal event. (Gemini's streams have none.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    OpenAiChat,
    OpenAiResponses,
    Anthropic,
    JsonRpc,
}

/// Finds out whether the terminal event of a stream's API is missing.
///
/// The API family is recognized by the shape of one of the first 64 events. Later events of an unknown API cost nothing.
#[derive(Debug)]
pub(crate) struct TerminalWatch {
    /// Whether the stream is the response to a `POST`. Other JSON-RPC streams have no terminal event.
    answers_post: bool,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The API family is unknown after this many events.
    Unknown(u32),
    /// A terminal event of this family is expected.
    Expected(Family),
    /// The terminal event of this family has arrived.
    Arrived(Family),
    /// No terminal event is expected.
    NoneExpected,
}

impl TerminalWatch {
    /// A watch at the start of a stream. `answers_post`: whether the stream is the response to a `POST`.
    pub(crate) fn new(answers_post: bool) -> Self {
        Self {
            answers_post,
            state: State::Unknown(0),
        }
    }

    /// Whether a terminal event is expected and has not arrived.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self.state, State::Expected(_))
    }

    /// Whether the result cannot change any more.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.state, State::Arrived(_) | State::NoneExpected)
    }

    /// Whether the API family is known, or was not recognized in time.
    pub(crate) fn knows_api(&self) -> bool {
        !matches!(self.state, State::Unknown(_))
    }

    /// Whether [`observe`](Self::observe) needs this event: it may be terminal, or the API is unknown.
    pub(crate) fn may_settle(&self, event: &Block) -> bool {
        match self.state {
            State::Unknown(_) => true,
            State::Expected(family) => {
                event.has_one_data_line_of(DONE.len()) || family.may_be_terminal(event.as_bytes())
            }
            State::Arrived(_) | State::NoneExpected => false,
        }
    }

    /// The API family whose terminal event is expected.
    pub(crate) fn expected(&self) -> Option<Family> {
        match self.state {
            State::Expected(family) => Some(family),
            _ => None,
        }
    }

    /// The API family whose terminal event has arrived.
    pub(crate) fn arrived(&self) -> Option<Family> {
        match self.state {
            State::Arrived(family) => Some(family),
            _ => None,
        }
    }

    /// Handles the next event of the upstream.
    pub(crate) fn observe(&mut self, event: &Event) {
        self.state = match self.state {
            State::Unknown(events) => self.recognize(event, events),
            State::Expected(family) if family.is_terminal(event) => State::Arrived(family),
            state => state,
        };
    }

    fn recognize(&self, event: &Event, events: u32) -> State {
        let json = Json::parse(event.data()).ok();
        match json.and_then(|json| Some((Family::of(&json, self.answers_post)?, json))) {
            Some((family, json)) if family.is_terminal_value(&json) => State::Arrived(family),
            Some((family, _)) => State::Expected(family),
            None if events + 1 >= RECOGNITION_EVENTS => State::NoneExpected,
            None => State::Unknown(events + 1),
        }
    }
}

impl Family {
    /// Recognizes the family by the JSON data of an event.
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

    /// Whether this is the terminal event of the family.
    pub(crate) fn is_terminal(self, event: &Event) -> bool {
        let data = event.data();
        data == DONE || self.may_be_terminal(data.as_bytes()) && self.is_terminal_json(&data)
    }

    /// An event by which the API reports that a stream has failed, for a stream that the layer ends with this outcome. `None` for
    /// JSON-RPC, whose errors name a request.
    pub(crate) fn error_event(self, outcome: StreamOutcome) -> Option<Event> {
        let message = message_of(outcome);
        (self != Self::JsonRpc).then(|| Self::error_event_of(Some(self), message))
    }

    /// An event that reports a failure in the form of an API, or in that of OpenAI's chat completions with the event type `error`. The
    /// message needs no escapes in JSON.
    pub(crate) fn error_event_of(family: Option<Self>, message: &str) -> Event {
        let data = match family {
            Some(Self::OpenAiResponses) => format!(
                r#"{{"type":"error","code":"server_error","message":"{message}","param":null}}"#
            ),
            Some(Self::Anthropic) => format!(
                r#"{{"type":"error","error":{{"type":"api_error","message":"{message}"}}}}"#
            ),
            _ => format!(
                r#"{{"error":{{"message":"{message}","type":"server_error","param":null,"code":null}}}}"#
            ),
        };
        let mut event = Event::new(data);
        if family != Some(Self::OpenAiChat) {
            // The name has no line end, so that it cannot fail.
            let _ = event.set_event("error");
        }
        event
    }

    /// Whether the data contains a string that each terminal event of the family has. Spares most events the parsing of JSON.
    fn may_be_terminal(self, data: &[u8]) -> bool {
        let texts: [&memmem::Finder<'_>; 2] = match self {
            Self::OpenAiChat => return false,
            Self::OpenAiResponses => {
                return RESPONSE.find_iter(data).any(|at| {
                    let states = RESPONSES_TERMINAL_TYPES.iter();
                    let mut states = states.map(|state| state.as_bytes());
                    states.any(|state| data[at..].starts_with(state))
                });
            }
            Self::Anthropic => [&MESSAGE_STOP, &ERROR],
            Self::JsonRpc => [&RESULT, &ERROR],
        };
        texts.iter().any(|text| text.find(data).is_some())
    }

    fn is_terminal_json(self, data: &str) -> bool {
        Json::parse(data).is_ok_and(|json| self.is_terminal_value(&json))
    }

    fn is_terminal_value(self, json: &Json) -> bool {
        let kind = json.root().get("type").and_then(|kind| kind.as_str());
        match self {
            Self::OpenAiChat => false,
            Self::OpenAiResponses => {
                kind.is_some_and(|kind| RESPONSES_TERMINAL_TYPES.contains(&&*kind))
            }
            Self::Anthropic => matches!(kind.as_deref(), Some("message_stop" | "error")),
            // MCP up to 2025-03-26 allows a batch of messages in one event. The first message of a batch decides.
            Self::JsonRpc => ["", "/0"].iter().any(|message| {
                let has = |member| json.pointer(&format!("{message}/{member}")).is_some();
                has("id") && (has("result") || has("error"))
            }),
        }
    }
}

finders! {
    RESPONSE = "response.";
    MESSAGE_STOP = "message_stop";
    RESULT = "result";
    ERROR = "error";
}

/// The text that tells a client why its stream ends. Needs no escapes in JSON.
fn message_of(outcome: StreamOutcome) -> &'static str {
    match outcome {
        StreamOutcome::Stalled => "The stream was silent for too long.",
        StreamOutcome::Expired => "The stream has reached its maximum age.",
        StreamOutcome::Drained => "The server is shutting down.",
        StreamOutcome::Overflow => "The stream exceeded a limit.",
        _ => "The stream was closed.",
    }
}

/// An event by which Gemini reports that a stream has failed, for a stream that the layer ends with this outcome.
pub(crate) fn gemini_error_event(outcome: StreamOutcome) -> Event {
    let message = message_of(outcome);
    Event::new(format!(
        r#"{{"error":{{"code":503,"message":"{message}","status":"UNAVAILABLE"}}}}"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(answers_post: bool, events: &[&str]) -> bool {
        let mut watch = TerminalWatch::new(answers_post);
        for data in events {
            watch.observe(&Event::new(data));
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
                // Events after the terminal event change nothing.
                assert!(!missing(true, &[begins, end, begins]), "{begins} {end}");
            }
        }
    }

    #[test]
    fn text_that_mentions_a_terminal_event_is_not_terminal() {
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
    fn watch_of_unknown_family_settles_after_64_events() {
        let mut watch = TerminalWatch::new(true);
        for events in 1..=RECOGNITION_EVENTS {
            assert!(!watch.is_settled());
            watch.observe(&Event::new(events.to_string()));
        }
        assert!(watch.is_settled());
    }
}
