//! `Content-Encoding`: the content coding of a body (RFC 9110 8.4).

use http::{HeaderMap, header::CONTENT_ENCODING};

use crate::headers::{content_type::shown, list::elements};

/// The codings that `upstream::decompression` decodes.
#[cfg(feature = "decompression")]
const CODINGS: &[&str] = &["gzip", "deflate", "br", "zstd"];
#[cfg(not(feature = "decompression"))]
const CODINGS: &[&str] = &[];

/// The codings that a body can be in (RFC 9110 8.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContentCoding {
    Identity,
    Known(&'static str),
    /// Unknown, not compiled in, or several on top of each other; the field as it was sent, for the log.
    Unsupported(String),
}

impl ContentCoding {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CONTENT_ENCODING).iter();
        let names: Vec<&[u8]> = values
            .flat_map(|value| elements(value.as_bytes()))
            .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"))
            .collect();
        match names[..] {
            [] => ContentCoding::Identity,
            [name] if known(name).is_some() => {
                ContentCoding::Known(known(name).unwrap_or_default())
            }
            _ => ContentCoding::Unsupported(shown(&names.join(&b", "[..]))),
        }
    }
}

/// Whether bodies in this coding can be read.
pub(crate) fn is_known(name: &[u8]) -> bool {
    known(name).is_some()
}

/// The canonical name of a coding that can be read. Names are case-insensitive, and `x-gzip` is gzip (RFC 9110
/// 8.4.1).
fn known(name: &[u8]) -> Option<&'static str> {
    let name = if name.eq_ignore_ascii_case(b"x-gzip") {
        b"gzip"
    } else {
        name
    };
    CODINGS
        .iter()
        .find(|known| name.eq_ignore_ascii_case(known.as_bytes()))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_known_coding_is_the_most_that_can_be_read() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, value.parse().unwrap());
            }
            ContentCoding::of(&headers)
        };
        assert_eq!(of(&[]), ContentCoding::Identity);
        assert_eq!(of(&["identity", " , Identity"]), ContentCoding::Identity);
        assert_eq!(
            of(&["gzip, gzip"]),
            ContentCoding::Unsupported("gzip, gzip".into())
        );
        assert_eq!(
            of(&["gzip", "br"]),
            ContentCoding::Unsupported("gzip, br".into())
        );
        assert_eq!(of(&["rot13"]), ContentCoding::Unsupported("rot13".into()));
        let gzip = if cfg!(feature = "decompression") {
            ContentCoding::Known("gzip")
        } else {
            ContentCoding::Unsupported("X-GZip".into())
        };
        assert_eq!(of(&["X-GZip"]), gzip);
    }
}
