//! Ids of the events of recorded streams.

use std::{error::Error, fmt, str::FromStr};

use crate::stream_id::StreamId;

/// The position of a block in its stream. A later position is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position {
    /// The generation of the writer. Each takeover by another writer raises it, so that blocks of a writer that was replaced differ
    /// from blocks of its successor. With one writer it is 0.
    pub(crate) epoch: u64,
    /// The sequence number of the block, starting at 0.
    pub(crate) sequence: u64,
}

/// The id of an event in a recorded stream: `<stream>.<epoch>.<sequence>`.
///
/// The stream is 32 lowercase hexadecimal digits, the others are decimal numbers. An id is visible ASCII, so that a client can return it
/// unchanged in a header field (WHATWG HTML 9.2.3; RFC 9110 5.5). Each id has one spelling: [`FromStr`] accepts only what
/// [`Display`](fmt::Display) writes.
///
/// ```
/// use tower_sse_proxy::replay::EventId;
///
/// let id: EventId = "0123456789abcdef0123456789abcdef.0.7".parse()?;
/// assert_eq!((id.epoch(), id.sequence()), (0, 7));
/// assert_eq!(id.to_string(), "0123456789abcdef0123456789abcdef.0.7");
/// // An id of an upstream has another form.
/// assert!("7".parse::<EventId>().is_err());
/// # Ok::<(), tower_sse_proxy::replay::MalformedEventId>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId {
    pub(crate) stream: StreamId,
    pub(crate) position: Position,
}

impl EventId {
    /// The id of no event, for a client that has to begin anew. A random [`StreamId`] equals it with probability 2^-128.
    pub(crate) const NONE: Self = Self {
        stream: StreamId::NONE,
        position: Position {
            epoch: 0,
            sequence: 0,
        },
    };

    /// Returns the stream of the event.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// Returns the generation of the stream's writer. It is 0 unless another writer has taken over.
    pub fn epoch(&self) -> u64 {
        self.position.epoch
    }

    /// Returns the sequence number of the event in its stream. Later events have greater numbers. Comments count too, so that numbers may
    /// be missing between two events.
    pub fn sequence(&self) -> u64 {
        self.position.sequence
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { epoch, sequence } = self.position;
        write!(f, "{}.{epoch}.{sequence}", self.stream)
    }
}

impl FromStr for EventId {
    type Err = MalformedEventId;

    /// # Errors
    /// If the text does not have the form of an [`EventId`]. It may be an id of the upstream.
    fn from_str(text: &str) -> Result<Self, MalformedEventId> {
        let mut parts = text.split('.');
        let (Some(stream), Some(epoch), Some(sequence), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(MalformedEventId(()));
        };
        let malformed = |_| MalformedEventId(());
        let id = Self {
            stream: stream.parse().map_err(|_| MalformedEventId(()))?,
            position: Position {
                epoch: epoch.parse().map_err(malformed)?,
                sequence: sequence.parse().map_err(malformed)?,
            },
        };
        // Rejects signs, leading zeros and capitals.
        if id.to_string() != text {
            return Err(MalformedEventId(()));
        }
        Ok(id)
    }
}

/// Writes the ids of the events of one stream.
///
/// It keeps the part of the text that all ids of an epoch share. To write each id with the `Display` of [`EventId`] would add half to
/// the instructions that recording a small event takes.
#[derive(Debug)]
pub(crate) struct EventIdWriter {
    stream: StreamId,
    /// The epoch of `text`. `None` before the first id.
    epoch: Option<u64>,
    /// The last id.
    text: Vec<u8>,
    /// The length of the shared part of `text`, in bytes.
    shared: usize,
}

impl EventIdWriter {
    pub(crate) fn new(stream: StreamId) -> Self {
        Self {
            stream,
            epoch: None,
            text: Vec::new(),
            shared: 0,
        }
    }

    /// Returns the text of the [`EventId`] at this position.
    pub(crate) fn write(&mut self, position: Position) -> &[u8] {
        let Position { epoch, sequence } = position;
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.text = format!("{}.{epoch}.", self.stream).into_bytes();
            self.shared = self.text.len();
        }
        self.text.truncate(self.shared);
        let mut digits = itoa::Buffer::new();
        self.text
            .extend_from_slice(digits.format(sequence).as_bytes());
        &self.text
    }
}

/// The error of a text that is not an [`EventId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedEventId(());

impl fmt::Display for MalformedEventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("event id does not have the form `<stream>.<epoch>.<sequence>`")
    }
}

impl Error for MalformedEventId {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn id_parses_as_it_was_written(stream: u128, epoch: u64, sequence: u64) {
            let stream = StreamId::from_bits(stream);
            let id = EventId { stream, position: Position { epoch, sequence } };
            let text = id.to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(text.parse(), Ok(id));
            prop_assert_eq!((id.stream(), id.epoch(), id.sequence()), (stream, epoch, sequence));
        }

        #[test]
        fn writer_writes_the_text_of_each_id(stream: u128, positions in vec((0u64..3, 0u64..2000), 0..20)) {
            let stream = StreamId::from_bits(stream);
            let mut writer = EventIdWriter::new(stream);
            for (epoch, sequence) in positions {
                let position = Position { epoch, sequence };
                let text = EventId { stream, position }.to_string();
                prop_assert_eq!(writer.write(position), text.as_bytes());
            }
        }

        #[test]
        fn parsed_text_is_the_text_of_its_id(text in "[0-9a-fA-F+.-]{0,40}|\\PC{0,12}") {
            if let Ok(id) = text.parse::<EventId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn other_spellings_of_an_id_are_rejected() {
        let stream = "0123456789abcdef0123456789abcdef";
        assert!(format!("{stream}.0.1").parse::<EventId>().is_ok());
        for wrong in [
            format!("{stream}.0"),
            format!("{stream}.0.1.2"),
            format!("{stream}.00.1"),
            format!("{stream}.0.+1"),
            format!("{stream}.0.18446744073709551616"),
            format!("{}.0.1", stream.to_uppercase()),
            format!("0{stream}.0.1"),
            stream[1..].to_owned() + ".0.1",
            format!(" {stream}.0.1"),
        ] {
            let error = wrong.parse::<EventId>().expect_err(&wrong);
            assert!(error.to_string().contains("<stream>.<epoch>.<sequence>"));
        }
    }

    #[test]
    fn position_of_a_later_epoch_is_greater() {
        let at = |epoch, sequence| Position { epoch, sequence };
        assert!(at(0, 9) < at(1, 3) && at(1, 3) < at(1, 4));
    }
}
