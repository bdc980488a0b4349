//! A JSON body of an upstream, read as a whole.

use std::{future::poll_fn, pin::pin};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, SizeHint};
use http_body_util::{BodyExt, Full};
use tower::BoxError;

use crate::{
    error::{Error, ErrorKind},
    headers::content_encoding::ContentCoding,
    upstream::{
        body::{DecodedBody, RawBody},
        byte_order_mark::FirstBytes,
    },
};

/// A body as the upstream has sent it, in its content coding.
pub(crate) struct WholeBody {
    pub(crate) bytes: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    /// The size that was known before the body was read.
    pub(crate) size_hint: SizeHint,
}

/// Reads a body of at most `limit` bytes to its end.
///
/// # Errors
/// [`ErrorKind::EventTooLarge`] as soon as the body is known to be larger, and [`ErrorKind::Upstream`] if it fails.
pub(crate) async fn read_whole<B>(body: B, limit: usize) -> Result<WholeBody, Error>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let size_hint = body.size_hint();
    if size_hint.lower() > limit as u64 {
        return Err(Error::new(ErrorKind::EventTooLarge));
    }
    let mut body = pin!(body);
    let mut read = Gathered::new(size_hint.lower());
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::with_source(ErrorKind::Upstream, error))?;
        match frame.into_data() {
            Ok(data) => read.push(data, limit)?,
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
    }
    Ok(WholeBody {
        bytes: read.into_bytes(),
        trailers,
        size_hint,
    })
}

/// The size limit, in bytes, of an encoded body whose decoded size may be at most `limit` bytes. With a content coding it is
/// larger than `limit`, because each flush of an encoder adds a few bytes, and a small body may grow when it is encoded.
pub(crate) fn encoded_limit(coding: &ContentCoding, limit: usize) -> usize {
    match coding {
        ContentCoding::Known(_) => limit.saturating_mul(2).saturating_add(1 << 10),
        ContentCoding::Identity | ContentCoding::Unsupported(_) => limit,
    }
}

/// Decodes a body with this content coding to at most `limit` bytes.
///
/// # Errors
/// [`ErrorKind::EventTooLarge`] if it decodes to more, and [`ErrorKind::Upstream`] if it cannot be decoded.
pub(crate) async fn decode(
    coding: &ContentCoding,
    bytes: &Bytes,
    limit: usize,
) -> Result<Bytes, Error> {
    if let ContentCoding::Identity = coding {
        return Ok(bytes.clone());
    }
    let mut body = pin!(DecodedBody::new(
        coding,
        RawBody::direct(Full::new(bytes.clone()))
    ));
    let mut read = Gathered::default();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        if let Ok(data) = frame?.into_data() {
            read.push(data, limit)?;
        }
    }
    Ok(read.into_bytes())
}

/// The text of a decoded body.
///
/// # Errors
/// [`ErrorKind::NotUtf8`] if a reader that detects encodings may read another text: the body begins with the byte order mark of another
/// encoding, has a zero byte among its first four, which in JSON only UTF-16 and UTF-32 have (RFC 4627 3), or is not well-formed UTF-8.
pub(crate) fn text(bytes: &Bytes) -> Result<&str, Error> {
    let not_utf8 = |source: &str| Error::with_source(ErrorKind::NotUtf8, source);
    if FirstBytes::default().handle_chunk(bytes).is_some() {
        return Err(not_utf8(
            "the body begins with a byte order mark of another encoding",
        ));
    }
    if bytes.iter().take(4).any(|byte| *byte == 0) {
        return Err(not_utf8("the body begins as UTF-16 or UTF-32 does"));
    }
    simdutf8::basic::from_utf8(bytes).map_err(|_| not_utf8("the body is not well-formed UTF-8"))
}

/// Puts the line ends of a body into the data that replaces it. The data of an event has an LF for each line end (WHATWG HTML 9.2.5),
/// so data with another number of lines stays as it is.
pub(crate) fn with_line_ends(body: &[u8], data: String) -> Vec<u8> {
    let ends = || LineEnds { rest: body };
    let data = data.into_bytes();
    let has_cr = memchr::memchr(b'\r', body).is_some();
    if !has_cr || ends().count() != memchr::memchr_iter(b'\n', &data).count() {
        return data;
    }
    let mut text = Vec::with_capacity(body.len());
    let mut ends = ends();
    for line in data.split(|byte| *byte == b'\n') {
        text.extend_from_slice(line);
        text.extend_from_slice(ends.next().unwrap_or_default());
    }
    text
}

/// The line ends of a text: CRLF, LF or CR.
struct LineEnds<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for LineEnds<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = memchr::memchr2(b'\r', b'\n', self.rest)?;
        let from = &self.rest[start..];
        let (end, rest) = from.split_at(if from.starts_with(b"\r\n") { 2 } else { 1 });
        self.rest = rest;
        Some(end)
    }
}

/// Bytes that arrive in chunks. A single chunk is not copied. Several are, because each may keep a much larger buffer allocated.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    all: BytesMut,
    /// The minimum size that the body announced.
    expected: usize,
}

impl Gathered {
    fn new(expected: u64) -> Self {
        Self {
            expected: usize::try_from(expected).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Adds a chunk, up to `limit` bytes in total.
    fn push(&mut self, chunk: Bytes, limit: usize) -> Result<(), Error> {
        let before = self.first.len() + self.all.len();
        if before.saturating_add(chunk.len()) > limit {
            return Err(Error::new(ErrorKind::EventTooLarge));
        }
        if before == 0 {
            self.first = chunk;
            return Ok(());
        }
        if self.all.is_empty() {
            self.all.reserve(self.expected);
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&chunk);
        Ok(())
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() {
            self.first
        } else {
            self.all.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(bytes: &[u8]) -> Result<String, ErrorKind> {
        let bytes = Bytes::copy_from_slice(bytes);
        text(&bytes).map(str::to_owned).map_err(|why| why.kind())
    }

    #[test]
    fn text_in_another_encoding_is_rejected() {
        let utf16 =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let swapped =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_be_bytes).collect() };
        let utf32 = |text: &str| -> Vec<u8> {
            text.chars()
                .flat_map(|char| u32::from(char).to_le_bytes())
                .collect()
        };
        for foreign in [
            utf16("{}"),
            swapped("{}"),
            utf32("{}"),
            utf16("\u{feff}{}"),
            swapped("\u{feff}{}"),
            utf16("\u{4e00}1"),
            b"+/v8-{}".to_vec(),
            b"{\"a\":\"\xff\"}".to_vec(),
        ] {
            assert_eq!(text_of(&foreign), Err(ErrorKind::NotUtf8), "{foreign:?}");
        }
        for fine in ["", "{}", "\u{feff}{}", "1", "\"\u{4e00}\"", "\"abcd\0\""] {
            assert_eq!(text_of(fine.as_bytes()).as_deref(), Ok(fine));
        }
    }

    #[test]
    fn line_ends_of_the_body_are_kept_if_the_lines_are() {
        let kept_of = |body: &str, data: &str| {
            String::from_utf8(with_line_ends(body.as_bytes(), data.to_owned())).unwrap()
        };
        let kept = |data| kept_of("{\r\n\"a\":\r1,\n2}\r\n", data);
        assert_eq!(kept("{\n\"b\":\n***,\n2}\n"), "{\r\n\"b\":\r***,\n2}\r\n");
        for other in ["", "{}", "{\n}", "a\nb\nc\nd\ne\n"] {
            assert_eq!(kept(other), other);
        }
        assert_eq!(kept_of("{\n}", "{\n1}"), "{\n1}");
        assert_eq!(kept_of("{\r\n}", "{\n1}"), "{\r\n1}");
    }

    #[test]
    fn chunks_are_gathered_up_to_the_limit() {
        let gather = |chunks: &[&'static str], limit| {
            let mut gathered = Gathered::default();
            for chunk in chunks {
                gathered
                    .push(Bytes::from_static(chunk.as_bytes()), limit)
                    .ok()?;
            }
            Some(gathered.into_bytes())
        };
        for chunks in [
            &["abc"][..],
            &["", "abc"],
            &["a", "b", "", "c"],
            &["ab", "c"],
        ] {
            assert_eq!(gather(chunks, 3).as_deref(), Some(&b"abc"[..]));
            assert_eq!(gather(chunks, 2), None);
        }
        assert_eq!(gather(&[], 0).as_deref(), Some(&b""[..]));
        let single = Bytes::from_static(b"abc");
        let mut gathered = Gathered::default();
        gathered.push(single.clone(), 3).unwrap();
        assert_eq!(gathered.into_bytes().as_ptr(), single.as_ptr());
    }
}
