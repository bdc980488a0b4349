//! Ids of events that tell where in which stream they stand.

use std::{error::Error, fmt, str::FromStr};

/// Names a stream: 128 random bits, so that nobody comes upon one who was not told.
///
/// `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(u128);

impl StreamId {
    /// A new one, of random bits from the operating system.
    ///
    /// # Panics
    /// If the operating system has no random numbers to give.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system has random numbers");
        Self(u128::from_le_bytes(bytes))
    }
}

/// Where in its stream an event stands.
///
/// Of two positions the later one is greater. The epoch counts who writes the log: whoever takes over from another goes on in the
/// next one, so that what a writer adds that does not know that it was replaced is told from what its successor adds. With one
/// writer it is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Whose turn it was.
    pub epoch: u64,
    /// The how manieth block of the stream it is, from 0.
    pub sequence: u64,
}

/// The id of an event in a stream that is kept: `<token>.<epoch>.<number>`.
///
/// It is visible ASCII without blanks, as a client sends it back unchanged (WHATWG HTML 9.2.3: header values lose blanks at their
/// ends), and there is one way to write it: what reads as an id and is not what [`Display`](fmt::Display) writes is none of ours.
///
/// ```
/// use tower_sse_proxy::replay::{EventId, Position, StreamId};
///
/// let id = EventId { stream: StreamId::random(), position: Position { epoch: 0, sequence: 7 } };
/// let text = id.to_string();
/// assert!(text.ends_with(".0.7"));
/// assert_eq!(text.parse(), Ok(id));
/// assert!("7".parse::<EventId>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId {
    /// The stream.
    pub stream: StreamId,
    /// Where in it.
    pub position: Position,
}

impl EventId {
    /// That of no event, for a client that is to begin anew. (No stream has this token: it is one of 2^128.)
    pub(crate) const NONE: Self = Self {
        stream: StreamId(0),
        position: Position {
            epoch: 0,
            sequence: 0,
        },
    };
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position {
            epoch,
            sequence: number,
        } = self.position;
        write!(f, "{:032x}.{epoch}.{number}", self.stream.0)
    }
}

impl FromStr for EventId {
    type Err = MalformedEventId;

    /// # Errors
    /// It is not of this form: an upstream's own id, most likely.
    fn from_str(text: &str) -> Result<Self, MalformedEventId> {
        let mut parts = text.split('.');
        let (Some(token), Some(epoch), Some(number), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(MalformedEventId(()));
        };
        let malformed = |_| MalformedEventId(());
        let token = StreamId(u128::from_str_radix(token, 16).map_err(malformed)?);
        let position = Position {
            epoch: epoch.parse().map_err(malformed)?,
            sequence: number.parse().map_err(malformed)?,
        };
        let id = Self {
            stream: token,
            position,
        };
        // No signs, no leading zeros, no capitals.
        if id.to_string() != text {
            return Err(MalformedEventId(()));
        }
        Ok(id)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// An id that no event of ours has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedEventId(());

impl fmt::Display for MalformedEventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id of a kept event is `<token>.<epoch>.<number>`")
    }
}

impl Error for MalformedEventId {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_reads_as_it_was_written(token: u128, epoch: u64, number: u64) {
            let id = EventId { stream: StreamId(token), position: Position { epoch, sequence: number } };
            let text = id.to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(text.parse(), Ok(id));
        }

        #[test]
        fn nothing_else_reads_as_an_id(text in "[0-9a-fA-F+.-]{0,40}|\\PC{0,12}") {
            if let Ok(id) = text.parse::<EventId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn other_spellings_of_an_id_are_none() {
        let token = "0123456789abcdef0123456789abcdef";
        assert!(format!("{token}.0.1").parse::<EventId>().is_ok());
        for wrong in [
            format!("{token}.0"),
            format!("{token}.0.1.2"),
            format!("{token}.00.1"),
            format!("{token}.0.+1"),
            format!("{token}.0.18446744073709551616"),
            format!("{}.0.1", token.to_uppercase()),
            format!("0{token}.0.1"),
            token[1..].to_owned() + ".0.1",
            format!(" {token}.0.1"),
        ] {
            let error = wrong.parse::<EventId>().expect_err(&wrong);
            assert!(error.to_string().contains("<token>.<epoch>.<number>"));
        }
    }

    #[test]
    fn a_later_turn_is_later_whatever_its_numbers() {
        let at = |epoch, number| Position {
            epoch,
            sequence: number,
        };
        assert!(at(0, 9) < at(1, 3) && at(1, 3) < at(1, 4));
    }

    #[test]
    fn tokens_differ_and_are_not_shown() {
        let token = StreamId::random();
        assert_ne!(token, StreamId::random());
        assert_eq!(format!("{token:?}"), "Token(..)");
    }
}
