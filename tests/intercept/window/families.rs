//! Event streams in the formats of model APIs, and a client that reads them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tower_sse_proxy::codec::{Decoder, Item};

/// A format in which text is split into events. Each stream has two parallel texts, 0 and 1.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub name: &'static str,
    /// The data of an event with the next piece of a text.
    delta: fn(usize, &str) -> Value,
    /// The data of the event that ends a text. In some APIs, it repeats the whole text.
    done: fn(usize, &str) -> Option<Value>,
    /// Reads the number of the text and its piece from the data of an event.
    read: fn(&Value) -> Option<(usize, &str)>,
    /// Reads the whole text from the data of its last event.
    read_whole: fn(&Value) -> Option<&str>,
}

pub const FAMILIES: [Family; 8] = [
    Family {
        name: "OpenAI chat",
        delta: |n, text| {
            json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "m",
                "choices": [{"index": n, "delta": {"content": text}, "finish_reason": null}]})
        },
        done: |n, _| {
            Some(
                json!({"id": "chatcmpl-1", "choices": [{"index": n, "delta": {}, "finish_reason": "stop"}]}),
            )
        },
        read: |data| {
            Some((
                place(data, "/choices/0/index")?,
                text(data, "/choices/0/delta/content")?,
            ))
        },
        read_whole: |_| None,
    },
    Family {
        name: "OpenAI chat, two choices an event",
        delta: |n, text| {
            let other = json!({"index": 1 - n, "delta": {"content": ""}});
            let choice = json!({"index": n, "delta": {"content": text}});
            json!({"choices": if n == 0 { [choice, other] } else { [other, choice] }})
        },
        done: |_, _| None,
        read: |data| {
            let found = data["choices"].as_array()?.iter();
            let found =
                found.map(|choice| (place(choice, "/index"), text(choice, "/delta/content")));
            let (n, text) = found.max_by_key(|(_, text)| text.map(str::len))?;
            Some((n?, text?))
        },
        read_whole: |_| None,
    },
    Family {
        name: "OpenAI chat, arguments of two tool calls",
        delta: |n, text| json!({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": n, "function": {"arguments": text}}]}}]}),
        done: |_, _| None,
        read: |data| {
            let call = data.pointer("/choices/0/delta/tool_calls/0")?;
            Some((place(call, "/index")?, text(call, "/function/arguments")?))
        },
        read_whole: |_| None,
    },
    Family {
        name: "OpenAI Responses",
        delta: |n, text| {
            json!({"type": "response.output_text.delta", "item_id": format!("msg_{n}"), "output_index": n, "content_index": 0,
                "delta": text, "logprobs": [], "sequence_number": 7})
        },
        done: |n, whole| {
            Some(
                json!({"type": "response.output_text.done", "item_id": format!("msg_{n}"), "output_index": n, "content_index": 0,
                    "text": whole}),
            )
        },
        read: |data| Some((place(data, "/output_index")?, text(data, "/delta")?)),
        read_whole: |data| text(data, "/text"),
    },
    Family {
        name: "Anthropic",
        delta: |n, text| json!({"type": "content_block_delta", "index": n, "delta": {"type": "text_delta", "text": text}}),
        done: |n, _| Some(json!({"type": "content_block_stop", "index": n})),
        read: |data| Some((place(data, "/index")?, text(data, "/delta/text")?)),
        read_whole: |_| None,
    },
    Family {
        name: "Anthropic, tool input",
        delta: |n, text| json!({"type": "content_block_delta", "index": n, "delta": {"type": "input_json_delta", "partial_json": text}}),
        done: |n, _| Some(json!({"type": "content_block_stop", "index": n})),
        read: |data| Some((place(data, "/index")?, text(data, "/delta/partial_json")?)),
        read_whole: |_| None,
    },
    Family {
        name: "Gemini",
        delta: |n, text| {
            json!({"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": n}],
                "usageMetadata": {"promptTokenCount": 4}, "modelVersion": "m", "responseId": "r"})
        },
        done: |n, _| {
            Some(
                json!({"candidates": [{"content": {"parts": [{"text": ""}]}, "finishReason": "STOP", "index": n}]}),
            )
        },
        read: |data| {
            let candidate = data.pointer("/candidates/0")?;
            Some((
                place(candidate, "/index")?,
                text(candidate, "/content/parts/0/text")?,
            ))
        },
        read_whole: |_| None,
    },
    Family {
        name: "Gemini, thoughts beside the answer",
        delta: |n, text| {
            let part = if n == 0 {
                json!({"text": text})
            } else {
                json!({"text": text, "thought": true, "thoughtSignature": "s"})
            };
            json!({"candidates": [{"content": {"parts": [part]}}]})
        },
        done: |_, _| None,
        read: |data| {
            let part = data.pointer("/candidates/0/content/parts/0")?;
            Some((
                usize::from(part.get("thought").is_some()),
                text(part, "/text")?,
            ))
        },
        read_whole: |_| None,
    },
];

impl Family {
    /// The wire form of an event with the next piece of text `n`.
    pub fn event(&self, n: usize, text: &str) -> String {
        wire(&(self.delta)(n, text))
    }

    /// The wire form of the event that ends text `n`, if the API has one.
    pub fn done(&self, n: usize, whole: &str) -> Option<String> {
        (self.done)(n, whole).as_ref().map(wire)
    }

    /// The two texts as a client joins them. Asserts that repeated whole texts agree with their pieces.
    pub fn read(&self, stream: &str) -> [String; 2] {
        let mut texts = [String::new(), String::new()];
        let mut wholes = BTreeMap::new();
        for data in events(stream) {
            let data: Value = serde_json::from_str(&data).unwrap();
            if let Some((n, text)) = (self.read)(&data) {
                texts[n].push_str(text);
            }
            if let Some(whole) = (self.read_whole)(&data) {
                wholes.insert(place(&data, "/output_index").unwrap(), whole.to_owned());
            }
        }
        for (n, whole) in wholes {
            assert_eq!(
                whole, texts[n],
                "the whole text at the end differs from its pieces"
            );
        }
        texts
    }
}

/// The data of all events.
pub fn events(stream: &str) -> Vec<String> {
    let mut decoder = Decoder::default();
    decoder.push(stream.to_owned().into());
    let mut events = Vec::new();
    while let Some(piece) = decoder.next_item().unwrap() {
        if let Item::Event(event) = piece {
            events.push(event.data().into_owned());
        }
    }
    events
}

/// The wire form of an event without a type: the data has the type, if the API has one.
fn wire(data: &Value) -> String {
    format!("data: {data}\n\n")
}

fn place(data: &Value, pointer: &str) -> Option<usize> {
    data.pointer(pointer)?.as_u64().map(|n| n as usize)
}

fn text<'a>(data: &'a Value, pointer: &str) -> Option<&'a str> {
    data.pointer(pointer)?.as_str()
}
