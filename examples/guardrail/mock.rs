//! Mocks of four model APIs. Each responds with the text of the request, in the format of the real API.
//!
//! The request headers `x-split` and `x-pace-ms` set the letters per event (default 3) and the milliseconds between two events
//! (default 40).

use std::{str::FromStr, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::Path,
    http::{HeaderMap, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio_stream::wrappers::IntervalStream;

pub fn router() -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/responses", post(responses))
        .route("/v1/messages", post(messages))
        .route("/v1/models/{call}", post(gemini))
        .route("/v1beta/models/{call}", post(gemini))
}

/// The text of the second choice. Its half card number must not be joined with the text of the first choice.
const OTHER: &str =
    "Half of one is 4111 1111, no more. Of the others there is nothing to tell that was not told.";

/// OpenAI's chat completions. A second choice, if requested, has the text [`OTHER`]. If the request has tools, the text is the argument
/// of a tool call.
async fn chat(headers: HeaderMap, Json(request): Json<Value>) -> Response {
    let text = last_text(&request["messages"]);
    let arguments = json!({ "text": text }).to_string();
    let calls = request["tools"].is_array();
    let two = request["n"] == 2;
    let reason = if calls { "tool_calls" } else { "stop" };
    let usage = json!({ "prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10 });
    if request["stream"] != true {
        let mut messages = vec![json!({ "role": "assistant", "content": text })];
        if calls {
            let function = json!({ "name": "note", "arguments": arguments });
            let call = json!({ "id": "call_1", "type": "function", "function": function });
            messages = vec![json!({ "role": "assistant", "content": null, "tool_calls": [call] })];
        }
        if two {
            messages.push(json!({ "role": "assistant", "content": OTHER }));
        }
        let messages = messages.into_iter().enumerate();
        let choices: Vec<_> = messages
            .map(|(index, message)| json!({ "index": index, "message": message, "finish_reason": reason }))
            .collect();
        return Json(json!({ "id": "chatcmpl-mock", "object": "chat.completion", "created": 1_700_000_000, "model": "mock",
            "choices": choices, "usage": usage }))
        .into_response();
    }
    let chunk = |index: usize, delta: Value, finish: Value| {
        json!({ "id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "mock",
            "choices": [{ "index": index, "delta": delta, "logprobs": null, "finish_reason": finish }] })
    };
    let mut data = vec![chunk(
        0,
        json!({ "role": "assistant", "content": "" }),
        Value::Null,
    )];
    if calls {
        let function = json!({ "name": "note", "arguments": "" });
        let call = json!({ "index": 0, "id": "call_1", "type": "function", "function": function });
        data.push(chunk(0, json!({ "tool_calls": [call] }), Value::Null));
        for piece in pieces(&headers, &arguments) {
            let call = json!({ "index": 0, "function": { "arguments": piece } });
            data.push(chunk(0, json!({ "tool_calls": [call] }), Value::Null));
        }
    } else {
        let mut other = pieces(&headers, OTHER).into_iter();
        for piece in pieces(&headers, &text) {
            data.push(chunk(0, json!({ "content": piece }), Value::Null));
            data.extend(
                other
                    .next()
                    .filter(|_| two)
                    .map(|piece| chunk(1, json!({ "content": piece }), Value::Null)),
            );
        }
        if two {
            data.extend(other.map(|piece| chunk(1, json!({ "content": piece }), Value::Null)));
            data.push(chunk(1, json!({}), "stop".into()));
        }
    }
    data.push(chunk(0, json!({}), reason.into()));
    if request["stream_options"]["include_usage"] == true {
        let mut last = chunk(0, json!({}), Value::Null);
        last["choices"] = json!([]);
        last["usage"] = usage;
        data.push(last);
    }
    let events = data.iter().map(|data| format!("data: {data}\n\n"));
    let done = "data: [DONE]\n\n".to_owned();
    paced(&headers, events.chain([done]).collect())
}

/// OpenAI's Responses.
async fn responses(headers: HeaderMap, Json(request): Json<Value>) -> Response {
    let text = match &request["input"] {
        Value::String(text) => text.clone(),
        input => last_text(input),
    };
    let part = |text: &str| json!({ "type": "output_text", "text": text, "annotations": [] });
    let item = |status: &str, content: Vec<Value>| json!({ "id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": content });
    let response = |status: &str, output: Vec<Value>| {
        json!({ "id": "resp_1", "object": "response", "created_at": 1_700_000_000, "model": "mock", "status": status,
            "output": output, "parallel_tool_calls": true, "tool_choice": "auto", "tools": [] })
    };
    let place = json!({ "item_id": "msg_1", "output_index": 0, "content_index": 0 });
    let at = |mut event: Value| {
        for (name, value) in place.as_object().into_iter().flatten() {
            event[name] = value.clone();
        }
        event
    };
    let done = item("completed", vec![part(&text)]);
    if request["stream"] != true {
        return Json(response("completed", vec![done])).into_response();
    }
    let mut data = vec![
        json!({ "type": "response.created", "response": response("in_progress", vec![]) }),
        json!({ "type": "response.output_item.added", "output_index": 0, "item": item("in_progress", vec![]) }),
        at(json!({ "type": "response.content_part.added", "part": part("") })),
    ];
    for piece in pieces(&headers, &text) {
        data.push(at(
            json!({ "type": "response.output_text.delta", "delta": piece, "logprobs": [] }),
        ));
    }
    data.push(at(
        json!({ "type": "response.output_text.done", "text": text, "logprobs": [] }),
    ));
    data.push(at(
        json!({ "type": "response.content_part.done", "part": part(&text) }),
    ));
    data.push(json!({ "type": "response.output_item.done", "output_index": 0, "item": done }));
    data.push(
        json!({ "type": "response.completed", "response": response("completed", vec![done]) }),
    );
    for (n, event) in data.iter_mut().enumerate() {
        event["sequence_number"] = n.into();
    }
    paced(&headers, data.iter().map(typed).collect())
}

/// Anthropic's messages.
async fn messages(headers: HeaderMap, Json(request): Json<Value>) -> Response {
    let text = last_text(&request["messages"]);
    let message = |content: Value, reason: Value| {
        json!({ "id": "msg_1", "type": "message", "role": "assistant", "model": "mock", "content": content,
            "stop_reason": reason, "stop_sequence": null, "usage": { "input_tokens": 1, "output_tokens": 1 } })
    };
    if request["stream"] != true {
        let content = json!([{ "type": "text", "text": text }]);
        return Json(message(content, "end_turn".into())).into_response();
    }
    let mut data = vec![
        json!({ "type": "message_start", "message": message(json!([]), Value::Null) }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
        json!({ "type": "ping" }),
    ];
    for piece in pieces(&headers, &text) {
        data.push(json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": piece } }));
    }
    data.push(json!({ "type": "content_block_stop", "index": 0 }));
    data.push(json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null },
        "usage": { "output_tokens": 9 } }));
    data.push(json!({ "type": "message_stop" }));
    paced(&headers, data.iter().map(typed).collect())
}

/// Google's Gemini. Its lines end with CRLF.
async fn gemini(
    headers: HeaderMap,
    Path(call): Path<String>,
    Json(request): Json<Value>,
) -> Response {
    let text = request["contents"][0]["parts"][0]["text"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let answer = |text: &str, is_last: bool| {
        let content = json!({ "role": "model", "parts": [{ "text": text }] });
        let mut candidate = json!({ "index": 0, "content": content });
        if is_last {
            candidate["finishReason"] = "STOP".into();
        }
        json!({ "candidates": [candidate], "modelVersion": "mock", "responseId": "r1",
            "usageMetadata": { "promptTokenCount": 1, "totalTokenCount": 9 } })
    };
    if !call.ends_with(":streamGenerateContent") {
        return Json(answer(&text, true)).into_response();
    }
    let pieces = pieces(&headers, &text);
    let last = pieces.len().saturating_sub(1);
    let events = pieces.iter().enumerate().map(|(n, piece)| {
        let data = answer(piece, n == last);
        format!("data: {data}\r\n\r\n")
    });
    paced(&headers, events.collect())
}

/// The text of the last message.
fn last_text(messages: &Value) -> String {
    let last = messages.as_array().and_then(|messages| messages.last());
    let content = last.map_or(&Value::Null, |last| &last["content"]);
    let text = content.as_str().or_else(|| content[0]["text"].as_str());
    text.unwrap_or_default().to_owned()
}

fn typed(data: &Value) -> String {
    format!(
        "event: {}\ndata: {data}\n\n",
        data["type"].as_str().unwrap_or_default()
    )
}

fn pieces(headers: &HeaderMap, text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let pieces = letters.chunks(number(headers, "x-split").unwrap_or(3).max(1));
    pieces.map(|piece| piece.iter().collect()).collect()
}

fn number<T: FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn paced(headers: &HeaderMap, events: Vec<String>) -> Response {
    let pace = Duration::from_millis(number(headers, "x-pace-ms").unwrap_or(40));
    let body = if pace.is_zero() {
        Body::from(events.concat())
    } else {
        let events = IntervalStream::new(tokio::time::interval(pace)).zip(stream::iter(events));
        Body::from_stream(events.map(|(_, event)| Ok::<_, std::convert::Infallible>(event)))
    };
    ([(CONTENT_TYPE, "text/event-stream; charset=utf-8")], body).into_response()
}
