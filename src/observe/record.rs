//! The record of one event stream, made at its end.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};

use super::{EndedBy, RejectionReason, StreamOutcome, info::StreamOrigin};
use crate::{intercept::BodyShape, session::Owner, stream_id::StreamId};

/// The facts about one event stream, or about one JSON body that interceptors have inspected, reported once at its end. See
/// [`StreamObserver::closed`](super::StreamObserver::closed).
///
/// It contains no data of events, no ids of sessions, no paths and no credentials. A recorded or shared stream has one record, however
/// many clients read it.
///
/// All times count from the arrival of the request at the layer, by a monotonic clock.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamRecord {
    /// The id of the stream.
    pub id: StreamId,
    /// The shape of the response body. A JSON body has a record if interceptors [inspect](crate::Policy::inspect_json) it.
    pub shape: BodyShape,
    /// Why the stream ended.
    pub outcome: StreamOutcome,
    /// Why the stream was rejected. `None` for any outcome other than [`Rejected`](StreamOutcome::Rejected).
    pub rejection: Option<RejectionReason>,
    /// Whether a stream was opened: [`StreamObserver::opened`](super::StreamObserver::opened) was called for it.
    pub opened: bool,
    /// The label that the policy gave the route. See [`Policy::route`](crate::Policy::route).
    pub route: Option<Arc<str>>,
    /// The method of the request.
    pub method: Method,
    /// The status of the response. `None` if the upstream sent no response.
    pub status: Option<StatusCode>,
    /// The owner of the request.
    pub owner: Owner,
    /// The time until the upstream's response head. `None` if the upstream was not asked or did not answer.
    pub time_to_head: Option<Duration>,
    /// The time until the upstream's first complete event.
    pub time_to_first_event: Option<Duration>,
    /// The time until the upstream's first event with content; see [`EventClass`](super::EventClass).
    pub time_to_first_content: Option<Duration>,
    /// The longest time between two events with content, without the time in which the layer waited for a client or an interceptor.
    /// Zero with fewer than two such events.
    pub longest_gap: Duration,
    /// The mean of the times between two arrivals of events with content, counted as in [`longest_gap`](Self::longest_gap). Events that
    /// arrive together are one arrival. `None` with fewer than two arrivals.
    pub mean_gap: Option<Duration>,
    /// The time until the end.
    pub duration: Duration,
    /// The complete events of the upstream.
    pub events_in: u64,
    /// The complete events that the interceptors forwarded. For a recorded stream each counts once, not once for each client.
    pub events_out: u64,
    /// The bytes of the upstream's body, after the content coding was undone.
    pub bytes_in: u64,
    /// The bytes of the stream as a client gets them, with the comments and events of the layer. For a recorded stream each counts once.
    pub bytes_out: u64,
    /// Whether the terminal event of the stream's API was forwarded to the client.
    pub terminal_event: bool,
    /// How often a client resumed the stream.
    pub resumes: u64,
    /// How many clients that resumed the stream got a gap event or an error status instead of all events that they had missed.
    pub gaps: u64,
    /// How many clients of a shared stream were cut because they could not keep up.
    pub lagged_readers: u64,
    /// How many responses of the upstream continued the stream.
    pub reconnects: u64,
    /// The longest time that an event waited for the deferred verdict of an interceptor.
    pub held_max: Duration,
    /// The facts that the stream of a model API reported. `None` for other streams.
    pub model: Option<ModelReport>,
    /// The revision of the Model Context Protocol in the request's `MCP-Protocol-Version`. `other` if this crate does not know it.
    /// `None` without this header field.
    pub mcp_protocol_version: Option<&'static str>,
    /// The method in the request's `Mcp-Method`, which clients send from the MCP revision 2026-07-28 on. `other` if this crate
    /// does not know it. `None` without this header field. The layer does not compare the field with the body; the server has to.
    pub mcp_method_name: Option<&'static str>,
}

impl StreamRecord {
    /// The record of a stream of which nothing has arrived.
    pub(super) fn new(
        id: StreamId,
        outcome: StreamOutcome,
        origin: &StreamOrigin,
        status: Option<StatusCode>,
    ) -> Self {
        Self {
            id,
            shape: BodyShape::EventStream,
            outcome,
            rejection: None,
            opened: false,
            route: origin.route.clone(),
            method: origin.method.clone(),
            status,
            owner: origin.owner,
            time_to_head: None,
            time_to_first_event: None,
            time_to_first_content: None,
            longest_gap: Duration::ZERO,
            mean_gap: None,
            duration: origin.arrived.elapsed(),
            events_in: 0,
            events_out: 0,
            bytes_in: 0,
            bytes_out: 0,
            terminal_event: false,
            resumes: 0,
            gaps: 0,
            lagged_readers: 0,
            reconnects: 0,
            held_max: Duration::ZERO,
            model: None,
            mcp_protocol_version: origin.mcp_protocol_version,
            mcp_method_name: origin.mcp_method_name,
        }
    }

    /// Returns the party that ended the stream.
    pub fn ended_by(&self) -> EndedBy {
        self.outcome.ended_by()
    }
}

/// The facts that the stream of a model API reported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelReport {
    /// The API family of the stream.
    pub family: ModelFamily,
    /// The model, as the API names it in its response.
    pub model: Option<String>,
    /// Why the model stopped, in the words of the API.
    pub finish_reason: Option<String>,
    /// The tokens that the API counted.
    pub usage: TokenUsage,
}

/// The family of a model API, recognized by the data of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ModelFamily {
    /// Chat completions of OpenAI, and compatible APIs.
    OpenAiChat,
    /// Responses API of OpenAI.
    OpenAiResponses,
    /// Messages API of Anthropic.
    Anthropic,
    /// `streamGenerateContent` of Gemini.
    Gemini,
}

/// The tokens that a model API counted, as the API reported them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenUsage {
    /// How complete the counts are.
    pub status: UsageStatus,
    /// The tokens of the request.
    pub input: Option<u64>,
    /// The tokens of the answer.
    pub output: Option<u64>,
    /// The tokens of the request that were read from a cache.
    pub cached_input: Option<u64>,
    /// The tokens of the request that were written to a cache.
    pub cache_write_input: Option<u64>,
    /// The tokens of the answer that the model used for reasoning.
    pub reasoning_output: Option<u64>,
}

/// How complete the counts of a [`TokenUsage`] are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UsageStatus {
    /// The API reported its final counts.
    Reported,
    /// The API reported counts, but the stream ended before the final ones.
    Partial,
    /// The API reported no counts.
    #[default]
    Unknown,
}

impl UsageStatus {
    /// Returns the status in lower case, for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Partial => "partial",
            Self::Unknown => "unknown",
        }
    }
}

impl ModelFamily {
    /// Returns the provider of the API, as OpenTelemetry's `gen_ai.provider.name` names it.
    pub fn provider(self) -> &'static str {
        match self {
            Self::OpenAiChat | Self::OpenAiResponses => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gcp.gemini",
        }
    }
}
