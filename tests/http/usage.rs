//! The records of the streams of model APIs.

use tower_sse_proxy::{
    Event, SseProxyLayer,
    observe::{ModelFamily, StreamOutcome, UsageStatus},
    replay::Replay,
    streams::{CloseReason, Select},
};

use crate::support::{
    origin::{get, settle},
    recorded, staged,
};

/// Clones of a layer share its streams, so each stream has a separate layer.
const LAYERS: [fn() -> SseProxyLayer; 3] = [
    SseProxyLayer::default,
    || SseProxyLayer::default().intercept(|event: Event| event),
    || SseProxyLayer::default().replay(Replay::default()),
];

/// The stream of one API: its first events, its last ones, and the record after each.
struct Case {
    family: ModelFamily,
    begins: &'static str,
    ends: &'static str,
    /// Input and output tokens, after the first part and at the end.
    counts: [(Option<u64>, Option<u64>); 2],
    finish_reason: &'static str,
    has_terminal_event: bool,
}

const CASES: [Case; 4] = [
    Case {
        family: ModelFamily::OpenAiChat,
        begins: "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n\
            data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n",
        ends: "data: {\"model\":\"m\",\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":4}}\n\n\
            data: [DONE]\n\n",
        counts: [(None, None), (Some(12), Some(4))],
        finish_reason: "stop",
        has_terminal_event: true,
    },
    Case {
        family: ModelFamily::OpenAiResponses,
        begins: "event: response.created\n\
            data: {\"type\":\"response.created\",\"response\":{\"model\":\"m\",\"usage\":null}}\n\n\
            data: {\"type\":\"response.output_text.delta\",\"delta\":\"hi\"}\n\n",
        ends: "data: {\"type\":\"response.completed\",\"response\":{\"model\":\"m\",\"status\":\"completed\",\
            \"usage\":{\"input_tokens\":12,\"output_tokens\":4}}}\n\n",
        counts: [(None, None), (Some(12), Some(4))],
        finish_reason: "completed",
        has_terminal_event: true,
    },
    Case {
        family: ModelFamily::Anthropic,
        begins: "event: message_start\n\
            data: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":12,\"output_tokens\":1}}}\n\n\
            event: ping\ndata: {\"type\": \"ping\"}\n\n\
            data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"hi\"}}\n\n",
        ends: "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":4}}\n\n\
            data: {\"type\":\"message_stop\"}\n\n",
        counts: [(Some(12), Some(1)), (Some(12), Some(4))],
        finish_reason: "end_turn",
        has_terminal_event: true,
    },
    Case {
        family: ModelFamily::Gemini,
        begins: "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"hi\"}]}}],\
            \"usageMetadata\":{\"promptTokenCount\":12,\"candidatesTokenCount\":1},\"modelVersion\":\"m\"}\r\n\r\n",
        ends: "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\".\"}]},\"finishReason\":\"STOP\"}],\
            \"usageMetadata\":{\"promptTokenCount\":12,\"candidatesTokenCount\":4},\"modelVersion\":\"m\"}\r\n\r\n",
        counts: [(Some(12), Some(1)), (Some(12), Some(4))],
        finish_reason: "STOP",
        has_terminal_event: false,
    },
];

#[tokio::test(start_paused = true)]
async fn record_of_a_complete_stream_has_the_final_counts() {
    for layer in LAYERS {
        for case in &CASES {
            let (layer, records) = recorded(layer());
            let (front, mut origin) = staged(&layer);
            let (client, mut feed) = front.open(&mut origin, get("/").method("POST")).await;
            feed.send(case.begins).await;
            feed.send(case.ends).await;
            feed.end();
            assert_eq!(client.rest().await.1, None);
            let record = records.only().await;
            assert_eq!(
                record.outcome,
                StreamOutcome::Completed,
                "{:?}",
                case.family
            );
            assert_eq!(record.terminal_event, case.has_terminal_event);
            assert!(record.time_to_first_content.is_some());
            let model = record.model.unwrap();
            assert_eq!(model.family, case.family);
            assert_eq!(model.model.as_deref(), Some("m"));
            assert_eq!(model.finish_reason.as_deref(), Some(case.finish_reason));
            assert_eq!(
                model.usage.status,
                UsageStatus::Reported,
                "{:?}",
                case.family
            );
            assert_eq!((model.usage.input, model.usage.output), case.counts[1]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn record_of_a_stream_that_is_cut_says_what_is_missing() {
    for layer in LAYERS {
        for case in &CASES {
            for way in ["end", "error", "close"] {
                let (layer, records) = recorded(layer());
                let streams = layer.streams();
                let (front, mut origin) = staged(&layer);
                let (client, mut feed) = front.open(&mut origin, get("/").method("POST")).await;
                let reading = tokio::spawn(client.rest());
                feed.send(case.begins).await;
                settle().await;
                let outcome = match way {
                    "end" => {
                        feed.end();
                        if case.has_terminal_event {
                            StreamOutcome::Truncated
                        } else {
                            StreamOutcome::Completed
                        }
                    }
                    "error" => {
                        feed.cut();
                        StreamOutcome::UpstreamError
                    }
                    _ => {
                        assert_eq!(streams.close(Select::All, CloseReason::Cancelled), 1);
                        StreamOutcome::Cancelled
                    }
                };
                reading.await.unwrap();
                let record = records.only().await;
                assert_eq!(record.outcome, outcome, "{:?} {way}", case.family);
                assert!(!record.terminal_event);
                let model = record.model.unwrap();
                assert_eq!(model.family, case.family);
                assert_eq!(model.finish_reason, None);
                let counts = case.counts[0];
                let status = match counts {
                    (None, None) => UsageStatus::Unknown,
                    _ => UsageStatus::Partial,
                };
                assert_eq!(model.usage.status, status, "{:?} {way}", case.family);
                assert_eq!((model.usage.input, model.usage.output), counts);
            }
        }
    }
}

/// The client did not get it.
#[tokio::test(start_paused = true)]
async fn terminal_event_that_an_interceptor_drops_was_not_sent() {
    for layer in LAYERS {
        let drop_done = |event: Event| (event.data() != "[DONE]").then_some(event);
        let (layer, records) = recorded(layer().intercept(drop_done));
        let (front, mut origin) = staged(&layer);
        let (client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.send(CASES[0].begins).await;
        feed.send(CASES[0].ends).await;
        feed.end();
        client.rest().await;
        assert!(!records.only().await.terminal_event);
    }
}
