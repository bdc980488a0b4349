//! A parser of event streams that is independent of the crate under test (WHATWG HTML 9.2.6).

#[derive(Default)]
pub struct Reading {
    rest: Vec<u8>,
    all: Vec<u8>,
    message: Message,
    begun: bool,
    /// An LF at this point belongs to the CR before it.
    after_cr: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    pub event: String,
    pub data: String,
    pub id: Option<String>,
}

impl Reading {
    /// Parses bytes. Returns the messages that are complete now: events, and ids without data.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.rest.extend_from_slice(bytes);
        self.all.extend_from_slice(bytes);
        let mut messages = Vec::new();
        loop {
            if self.after_cr && self.rest.first() == Some(&b'\n') {
                self.rest.remove(0);
            }
            self.after_cr &= self.rest.is_empty();
            let end = self
                .rest
                .iter()
                .position(|byte| matches!(byte, b'\r' | b'\n'));
            let Some(end) = end else { break };
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.after_cr = line[end] == b'\r';
            self.line(&String::from_utf8_lossy(&line[..end]), &mut messages);
        }
        messages
    }

    fn line(&mut self, line: &str, messages: &mut Vec<Message>) {
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            if std::mem::take(&mut self.begun) || message.id.is_some() {
                let data = message.data.strip_suffix('\n').unwrap_or(&message.data);
                messages.push(Message {
                    data: data.to_owned(),
                    ..message
                });
            }
            return;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                self.begun = true;
                self.message.data += value;
                self.message.data.push('\n');
            }
            "event" => self.message.event = value.to_owned(),
            "id" => self.message.id = Some(value.to_owned()),
            _ => {}
        }
    }

    /// Returns whether the text occurs in the bytes since the last call, with an overlap for texts across two calls.
    pub fn has_seen(&mut self, text: &str) -> bool {
        let found = self
            .all
            .windows(text.len())
            .any(|part| part == text.as_bytes());
        let keep = self.all.len().saturating_sub(text.len());
        self.all.drain(..keep);
        found
    }
}
