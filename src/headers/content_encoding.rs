//! `Content-Encoding`: the content coding of a body (RFC 9110 8.4).

use http::{HeaderMap, header::CONTENT_ENCODING};

use crate::headers::{content_type::escape_for_log, list::elements};

/// The codings that can be decoded. `upstream::decompression` has a decoder for each.
#[cfg(feature = "decompression")]
const CODINGS: &[&str] = &["gzip", "deflate", "br", "zstd"];
#[cfg(not(feature = "decompression"))]
const CODINGS: &[&str] = &[];

/// The content coding of a body (RFC 9110 8.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContentCoding {
    /// The body is not encoded.
    Identity,
    /// The body has this one coding, which can be decoded. The name is from `CODINGS`.
    Known(&'static str),
    /// The coding is unknown or not compiled in, or there are several. Holds the value of the field, escaped and shortened for
    /// the log.
    Unsupported(String),
}

impl ContentCoding {
    /// Reads the `Content-Encoding` fields of a response.
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
            _ => ContentCoding::Unsupported(escape_for_log(&names.join(&b", "[..]))),
        }
    }
}

/// Whether the layer can decode this coding.
pub(crate) fn is_known(name: &[u8]) -> bool {
    known(name).is_some()
}

/// The canonical name of a coding, or `None` if the layer cannot decode it. Names are case-insensitive, and `x-gzip` is
/// equivalent to `gzip` (RFC 9110 8.4.1).
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
    fn at_most_one_known_coding_is_supported() {
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
