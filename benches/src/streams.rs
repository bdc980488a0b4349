//! Typical event streams.

use bytes::Bytes;

/// An event stream, split into chunks.
#[derive(Debug)]
pub struct Stream {
    pub name: &'static str,
    pub chunks: Vec<Bytes>,
    pub events: usize,
}

impl Stream {
    fn new(name: &'static str, events: Vec<String>, chunk: usize) -> Self {
        let all = Bytes::from(events.concat());
        let cuts = (0..all.len()).step_by(chunk);
        Self {
            name,
            chunks: cuts
                .map(|at| all.slice(at..all.len().min(at + chunk)))
                .collect(),
            events: events.len(),
        }
    }

    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }
}

/// The size of one read from a socket, in bytes.
pub const CHUNK: usize = 16 << 10;

/// One stream of each kind. Streams of small events have a quarter of a MiB, so that they fit into the processor's cache, as data
/// does that has just been read from a socket. A larger stream would measure the memory and not the decoder.
pub fn all() -> Vec<Stream> {
    let times = |n: usize, event: &dyn Fn(usize) -> String| (0..n).map(event).collect::<Vec<_>>();
    vec![
        Stream::new("OpenAI chat, 250 B", times(1000, &openai), CHUNK),
        Stream::new("Anthropic, 120 B", times(2000, &anthropic), CHUNK),
        Stream::new("MCP, 250 B and 64 KiB", times(8, &mcp), CHUNK),
        Stream::new(
            "tiny, 9 B",
            times(28_000, &|_| "data: x\n\n".to_owned()),
            CHUNK,
        ),
        Stream::new("Japanese, 250 B", times(1000, &japanese), CHUNK),
        Stream::new(
            "heartbeats",
            times(18_000, &|_| ": still here\n\n".to_owned()),
            CHUNK,
        ),
        Stream::new("1 MiB in 12,000 lines", times(1, &many_lines), CHUNK),
        Stream::new("OpenAI chat, 1 B per chunk", times(400, &openai), 1),
        Stream::new("64 KiB, 1 B per chunk", times(2, &|_| large(64 << 10)), 1),
    ]
}

/// A chunk of a response in the format of OpenAI's chat completions.
pub fn openai(n: usize) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-9sK3vQxY7bLm2PzR\",\"object\":\"chat.completion.chunk\",\"created\":1732400000,\
         \"model\":\"gpt-4o-2024-08-06\",\"system_fingerprint\":\"fp_3aa7262c27\",\"choices\":[{{\"index\":0,\
         \"delta\":{{\"content\":\" token{:03}\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n",
        n % 1000
    )
}

fn anthropic(n: usize) -> String {
    format!(
        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":\
         {{\"type\":\"text_delta\",\"text\":\" {n:05}\"}}}}\n\n"
    )
}

fn mcp(n: usize) -> String {
    let text = if n.is_multiple_of(2) {
        "x".repeat(150)
    } else {
        "x".repeat(64 << 10)
    };
    format!(
        "event: message\nid: {n}\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{n},\"result\":{{\"content\":[{{\"type\":\"text\",\
         \"text\":\"{text}\"}}]}}}}\n\n"
    )
}

fn japanese(n: usize) -> String {
    let text = "\u{6771}\u{4eac}\u{90fd}\u{306f}\u{65e5}\u{672c}\u{306e}\u{9996}\u{90fd}".repeat(7);
    format!(
        "data: {{\"delta\":{{\"content\":\"{text}{:03}\"}}}}\n\n",
        n % 1000
    )
}

fn many_lines(_: usize) -> String {
    let line = format!("data: {}\n", "y".repeat(80));
    line.repeat(12_000) + "\n"
}

/// An event of `size` bytes.
pub fn large(size: usize) -> String {
    format!("data: {}\n\n", "z".repeat(size - 8))
}
