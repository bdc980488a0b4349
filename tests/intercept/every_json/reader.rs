//! An independent reader of JSON and of model API events, which shares no code with the crate. It works on UTF-16 code units,
//! as JavaScript does, so unpaired surrogates need no special case.

use std::collections::BTreeMap;

pub type Units = Vec<u16>;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    String(Units),
    Array(Vec<Value>),
    Object(Vec<(Units, Value)>),
}

pub fn units(text: &str) -> Units {
    text.encode_utf16().collect()
}

pub fn contains(text: &[u16], part: &[u16]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Parses a text as JSON, after any number of byte order marks. Returns `None` if it is not JSON.
pub fn parse(text: &[u16]) -> Option<Value> {
    let start = text.iter().take_while(|unit| **unit == 0xfeff).count();
    let mut reader = Reader {
        text: &text[start..],
        at: 0,
    };
    let value = reader.value()?;
    reader.space();
    (reader.at == reader.text.len()).then_some(value)
}

struct Reader<'a> {
    text: &'a [u16],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).map(|unit| match unit {
            0..0x80 => char::from(*unit as u8),
            _ => '\u{fffd}',
        })
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += 1;
        next
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    fn is_next(&mut self, wanted: char) -> bool {
        self.space();
        let is_next = self.peek() == Some(wanted);
        self.at += usize::from(is_next);
        is_next
    }

    fn value(&mut self) -> Option<Value> {
        self.space();
        match self.peek()? {
            '"' => self.string().map(Value::String),
            '[' => {
                self.at += 1;
                let mut elements = Vec::new();
                if self.is_next(']') {
                    return Some(Value::Array(elements));
                }
                loop {
                    elements.push(self.value()?);
                    if self.is_next(']') {
                        return Some(Value::Array(elements));
                    }
                    self.is_next(',').then_some(())?;
                }
            }
            '{' => {
                self.at += 1;
                let mut members = Vec::new();
                if self.is_next('}') {
                    return Some(Value::Object(members));
                }
                loop {
                    self.space();
                    let name = self.string()?;
                    self.is_next(':').then_some(())?;
                    members.push((name, self.value()?));
                    if self.is_next('}') {
                        return Some(Value::Object(members));
                    }
                    self.is_next(',').then_some(())?;
                }
            }
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Option<Value> {
        let mut word = String::new();
        while let Some(c @ ('a'..='z' | 'A'..='Z' | '0'..='9' | '+' | '-' | '.')) = self.peek() {
            word.push(c);
            self.at += 1;
        }
        match word.as_str() {
            "null" => Some(Value::Null),
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ => {
                let digits = word.strip_prefix('-').unwrap_or(&word);
                let is_number = digits.starts_with(|c: char| c.is_ascii_digit())
                    && (!digits.starts_with('0')
                        || !digits[1..].starts_with(|c: char| c.is_ascii_digit()))
                    && !digits.contains(".e")
                    && !digits.contains(".E")
                    && !digits.ends_with('.');
                is_number.then(|| word.parse().ok().map(Value::Number))?
            }
        }
    }

    fn string(&mut self) -> Option<Units> {
        (self.next()? == '"').then_some(())?;
        let mut text = Vec::new();
        loop {
            let unit = *self.text.get(self.at)?;
            match self.next()? {
                '"' => return Some(text),
                '\\' => text.push(self.escape()?),
                '\0'..' ' => return None,
                _ => text.push(unit),
            }
        }
    }

    fn escape(&mut self) -> Option<u16> {
        Some(match self.next()? {
            c @ ('"' | '\\' | '/') => c as u16,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'u' => {
                let mut unit = 0;
                for _ in 0..4 {
                    unit = unit << 4 | self.next()?.to_digit(16)? as u16;
                }
                unit
            }
            _ => return None,
        })
    }
}

impl Value {
    pub fn get(&self, name: &str) -> Option<&Value> {
        let Value::Object(members) = self else {
            return None;
        };
        members
            .iter()
            .rev()
            .find(|(key, _)| *key == units(name))
            .map(|(_, value)| value)
    }

    fn list(&self, name: &str) -> &[Value] {
        match self.get(name) {
            Some(Value::Array(elements)) => elements,
            _ => &[],
        }
    }

    fn text(&self, name: &str) -> Option<&Units> {
        match self.get(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    fn key(&self, name: &str, missing: &str) -> String {
        match self.get(name) {
            None | Some(Value::Null) => missing.to_owned(),
            Some(Value::Number(number)) => (number + 0.0).to_string(),
            Some(other) => format!("{other:?}"),
        }
    }

    /// Every string that is a value, at any depth.
    pub fn strings(&self) -> Vec<Units> {
        match self {
            Value::String(text) => vec![text.clone()],
            Value::Array(elements) => elements.iter().flat_map(Value::strings).collect(),
            Value::Object(members) => members
                .iter()
                .flat_map(|(_, value)| value.strings())
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The text pieces in this event with their keys. Clients of the four API families join pieces with equal keys.
    fn pieces(&self) -> Vec<(String, Units)> {
        let mut pieces = Vec::new();
        let mut put = |channel: String, text: Option<&Units>| {
            pieces.extend(text.map(|text| (channel, text.clone())));
        };
        for (n, choice) in self.list("choices").iter().enumerate() {
            let i = choice.key("index", &n.to_string());
            put(format!("chat {i} text"), choice.text("text"));
            if let Some(delta) = choice.get("delta") {
                for name in ["content", "refusal", "reasoning", "reasoning_content"] {
                    put(format!("chat {i} {name}"), delta.text(name));
                }
                for (m, call) in delta.list("tool_calls").iter().enumerate() {
                    let k = call.key("index", &m.to_string());
                    let function = call.get("function");
                    let arguments = function.and_then(|function| function.text("arguments"));
                    put(format!("chat {i} tool {k}"), arguments);
                }
            }
            if let Some(logprobs) = choice.get("logprobs") {
                for token in logprobs.list("content") {
                    put(format!("chat {i} logprobs"), token.text("token"));
                }
            }
        }
        if let Some(kind) = self.text("type").map(|kind| String::from_utf16_lossy(kind)) {
            if kind.starts_with("response.") && kind.ends_with(".delta") {
                let at = ["output_index", "content_index", "summary_index"]
                    .map(|key| self.key(key, "-"));
                put(format!("{kind} {at:?}"), self.text("delta"));
                if let Some(item) = self.text("item_id") {
                    put(
                        format!("{kind} {item:?} {:?}", &at[1..]),
                        self.text("delta"),
                    );
                }
            }
            let block = match kind.as_str() {
                "content_block_start" => self.get("content_block"),
                "content_block_delta" => self.get("delta"),
                _ => None,
            };
            for name in ["text", "thinking", "partial_json"] {
                let is_text = name != "partial_json" || kind == "content_block_delta";
                if let Some(block) = block.filter(|_| is_text) {
                    put(
                        format!("block {} {name}", self.key("index", "0")),
                        block.text(name),
                    );
                }
            }
        }
        for (n, candidate) in self.list("candidates").iter().enumerate() {
            let i = candidate.key("index", &n.to_string());
            for part in candidate
                .get("content")
                .map_or(&[][..], |content| content.list("parts"))
            {
                let thought = part.get("thought") == Some(&Value::Bool(true));
                put(format!("candidate {i} {thought}"), part.text("text"));
            }
        }
        pieces
    }
}

/// Replaces every JSON escape in the text by its code unit.
pub fn unescaped(text: &[u16]) -> Units {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let mut reader = Reader { text, at };
        let escape = (reader.next() == Some('\\'))
            .then(|| reader.escape())
            .flatten();
        match escape {
            Some(unit) => {
                out.push(unit);
                at = reader.at;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

/// The strings that a client finds if it parses the text as JSON, or the string literals in it if it is not JSON.
fn nested(text: &[u16]) -> Vec<Units> {
    if let Some(value) = parse(text) {
        return value.strings();
    }
    let mut found = Vec::new();
    let mut closed = text.to_vec();
    closed.push(u16::from(b'"'));
    let mut at = 0;
    while at < closed.len() {
        let mut reader = Reader { text: &closed, at };
        match reader.string() {
            Some(text) => {
                found.push(text);
                at = reader.at;
            }
            None => at += 1,
        }
    }
    found
}

/// Every text that a client can read from events with this data, including JSON within strings.
pub fn readable(data: &[String]) -> Vec<Units> {
    let mut read = Vec::new();
    for text in texts(data) {
        read.extend(nested(&text));
        read.push(text);
    }
    read
}

/// Every text of these events: JSON strings, data that is not JSON, and the texts joined across events.
fn texts(data: &[String]) -> Vec<Units> {
    let mut texts: Vec<Units> = Vec::new();
    for data in data {
        let data = units(data);
        match parse(&data) {
            Some(value) => texts.extend(value.strings()),
            None => texts.push(data),
        }
    }
    texts.extend(channels(data).into_values());
    texts
}

/// The texts that clients join across events, by key.
pub fn channels(data: &[String]) -> BTreeMap<String, Units> {
    let mut channels: BTreeMap<String, Units> = BTreeMap::new();
    for data in data {
        let text = units(data);
        let pieces = match parse(&text) {
            Some(value @ (Value::Object(_) | Value::Array(_))) => value.pieces(),
            Some(Value::String(text)) => vec![("data".to_owned(), text)],
            _ if data == "[DONE]" => Vec::new(),
            _ => vec![("data".to_owned(), text)],
        };
        for (channel, piece) in pieces {
            channels.entry(channel).or_default().extend(piece);
        }
    }
    channels
}

/// Whether these events contain `text`: in a JSON string, in a JSON string with its escapes unescaped once more, or in data that
/// is not JSON, with its escapes unescaped up to twice.
pub fn is_in(data: &[String], text: &[u16]) -> bool {
    let is_in = |units: &[u16]| contains(units, text);
    let json = |data: &String| parse(&units(data));
    let pieces: Vec<Units> = data
        .iter()
        .flat_map(|data| {
            json(data).map_or(Vec::new(), |value| {
                let pieces = value.pieces().into_iter().map(|(_, piece)| piece);
                pieces.collect::<Vec<_>>()
            })
        })
        .collect();
    let plain: Units = data
        .iter()
        .filter(|data| json(data).is_none())
        .flat_map(|data| units(data))
        .collect();
    let plain_alone = data
        .iter()
        .filter(|data| json(data).is_none())
        .any(|data| is_in(&units(data)));
    let joined = channels(data);
    let joined = joined
        .values()
        .any(|text| is_in(text) || is_in(&unescaped(text)));
    // For a piece of a joined text, `joined` already undoes the escapes in the joined text.
    let alone = data
        .iter()
        .filter_map(json)
        .flat_map(|value| value.strings())
        .any(|text| is_in(&text) || !pieces.contains(&text) && is_in(&unescaped(&text)));
    joined || alone || plain_alone || is_in(&unescaped(&unescaped(&plain)))
}
