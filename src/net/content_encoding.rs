//! Bodies that are posted compressed: gzip, within the limit of what they hold when they are unpacked.
//!
//! A kilobyte of gzip may hold a megabyte, so the limit is held while it is unpacked: at most one byte above it is ever made. Refused: `deflate`,
//! `br` and `zstd`. Each has a format and a library of its own, and whoever compresses knows gzip.

use std::io::{self, ErrorKind, Read};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use orderbell_protocol::{Problem, ProblemCode};

use super::BlockingFailed;
use super::response::{self, Refusal};

/// What the answer to a request that is encoded in another way names, in its header `Accept-Encoding`.
const ACCEPTED: &str = "gzip, identity";
/// Letters of a foreign coding that are named in the answer.
const NAMED_MAX: usize = 20;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentEncoding {
    Identity,
    Gzip,
}

impl ContentEncoding {
    /// The encoding by the headers `Content-Encoding`: each is a list of what was applied, in any case.
    ///
    /// # Errors
    /// 415 when it is another one, or more than one.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let lines = headers.get_all(header::CONTENT_ENCODING).iter();
        let lines: Vec<_> = lines.map(|line| String::from_utf8_lossy(line.as_bytes()).to_ascii_lowercase()).collect();
        let list = lines.join(",");
        let mut codings = list.split(',').map(str::trim).filter(|coding| !matches!(*coding, "" | "identity"));
        match (codings.next(), codings.next()) {
            (None, _) => Ok(Self::Identity),
            (Some("gzip" | "x-gzip"), None) => Ok(Self::Gzip),
            _ => {
                let named: String = list.chars().filter(char::is_ascii_graphic).take(NAMED_MAX).collect();
                Err(Problem::new(ProblemCode::UnsupportedMediaType).detail(format!(
                    "Content-Encoding is {named}: compress the body once, by gzip, or send it as it is"
                )))
            }
        }
    }

    /// The body of a request, unpacked: at most `max` bytes before and after.
    ///
    /// # Errors
    /// 400 when it is not gzip or damaged, 408 when it does not arrive, 413 when it is too large.
    pub(super) async fn read(self, body: Body, max: usize) -> Result<Bytes, Refusal> {
        let body = response::body(body, max).await?;
        // An empty body was not compressed, whatever the header says.
        if self == Self::Identity || body.is_empty() {
            return Ok(body);
        }
        // Its size does not tell how long that takes.
        let unpacked = tokio::task::spawn_blocking(move || unpack(&body, max)).await;
        Ok(unpacked.map_err(BlockingFailed::from)??)
    }
}

/// The answer for an encoding that is not read. The header is in no other 415 (RFC 7694), so that a client can tell it from a wrong media type.
pub(super) fn refuse(problem: Problem) -> Response<Body> {
    let mut response = Refusal(problem).into_response();
    response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED));
    response
}

fn unpack(packed: &[u8], max: usize) -> Result<Bytes, Problem> {
    let malformed = |detail: String| Problem::new(ProblemCode::MalformedBody).detail(format!("not gzip: {detail}"));
    match inflate(packed, max) {
        Ok(unpacked) if unpacked.len() > max => {
            Err(Problem::new(ProblemCode::TooLarge).detail(format!("at most {max} bytes when it is unpacked")))
        }
        Ok(unpacked) => Ok(Bytes::from(unpacked)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(malformed("it ends early".into())),
        // It does not quote the body.
        Err(error) => Err(malformed(error.to_string())),
    }
}

/// All members of a gzip body, or the first `max` bytes and one more.
fn inflate(packed: &[u8], max: usize) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(packed).take(max as u64 + 1).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(packed: &[u8], max: usize) -> Result<Vec<u8>, u16> {
        unpack(packed, max).map(|bytes| bytes.to_vec()).map_err(|problem| problem.status)
    }

    #[test]
    fn gzip_is_read_and_every_other_encoding_is_refused_with_what_is_accepted() {
        let of = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(line));
            }
            ContentEncoding::of(&headers).map_err(|problem| (problem.status, problem.detail))
        };
        for lines in [&[][..], &[""], &["identity"], &["Identity, "]] {
            assert_eq!(of(lines), Ok(ContentEncoding::Identity), "{lines:?}");
        }
        for lines in [&["gzip"][..], &["GZip"], &["x-gzip"], &["identity, gzip"], &["identity", " gzip "]] {
            assert_eq!(of(lines), Ok(ContentEncoding::Gzip), "{lines:?}");
        }
        for (lines, named) in [
            (&["br"][..], "br"),
            (&["deflate"], "deflate"),
            (&["ZSTD"], "zstd"),
            (&["gzip, br"], "gzip,br"),
            (&["gzip", "gzip"], "gzip,gzip"),
            (&["a-coding-with-a-very-long-name"], "a-coding-with-a-very"),
        ] {
            let wanted = format!("Content-Encoding is {named}: compress the body once, by gzip, or send it as it is");
            assert_eq!(of(lines), Err((415, wanted)), "{lines:?}");
        }
        let answer = |response: Response<Body>| response.headers().get(header::ACCEPT_ENCODING).cloned();
        let problem = || Problem::new(ProblemCode::UnsupportedMediaType);
        assert_eq!(answer(refuse(problem())), Some(HeaderValue::from_static(ACCEPTED)));
        assert_eq!(answer(Refusal(problem()).into_response()), None, "of a wrong media type");
    }

    #[test]
    fn what_is_unpacked_is_bounded_while_it_is_unpacked() {
        let text = b"{\"type\":\"order.paid\"}\n".repeat(100);
        assert_eq!(unpacked(&gzip(&text), text.len()), Ok(text.clone()), "the limit itself");
        assert_eq!(unpacked(&gzip(&text), text.len() - 1), Err(413));
        let bomb = gzip(&vec![b'0'; 32 << 20]);
        assert!(bomb.len() < 64 << 10);
        assert_eq!(inflate(&bomb, 1000).unwrap().len(), 1001, "not a byte more is made");
        assert_eq!(unpacked(&bomb, 1 << 20), Err(413));
    }

    #[test]
    fn members_one_after_another_are_one_body() {
        let both = [gzip(b"one\n"), gzip(b""), gzip(b"two\n")].concat();
        assert_eq!(unpacked(&both, 8), Ok(b"one\ntwo\n".to_vec()));
        assert_eq!(unpacked(&both, 7), Err(413), "together");
    }

    #[test]
    fn what_is_damaged_is_refused_whole() {
        let good = gzip(b"[{\"type\":\"order.paid\"}]");
        for length in 1..good.len() {
            assert_eq!(unpacked(&good[..length], 1000), Err(400), "cut at {length}");
        }
        for behind in [&b"\n"[..], b"\0\0\0\0\0\0\0\0\0\0\0\0", b"{\"type\":\"order.paid\"}"] {
            assert_eq!(unpacked(&[&good, behind].concat(), 1000), Err(400), "{behind:?} behind it");
        }
        let mut other_sum = good.clone();
        other_sum[good.len() - 8] ^= 1;
        assert_eq!(unpacked(&other_sum, 1000), Err(400), "another check sum");
        assert_eq!(unpacked(b"[{\"type\":\"order.paid\"}]", 1000), Err(400), "not compressed at all");
    }

    #[tokio::test]
    async fn a_body_is_read_as_its_header_says() {
        let read = async |encoding: ContentEncoding, bytes: Vec<u8>| {
            encoding
                .read(Body::from(bytes), 100)
                .await
                .map(|bytes| bytes.to_vec())
                .map_err(|Refusal(problem)| problem.status)
        };
        assert_eq!(read(ContentEncoding::Gzip, gzip(b"{}")).await, Ok(b"{}".to_vec()));
        assert_eq!(read(ContentEncoding::Gzip, Vec::new()).await, Ok(Vec::new()), "an event in headers alone");
        assert_eq!(read(ContentEncoding::Identity, b"{}".to_vec()).await, Ok(b"{}".to_vec()));
        assert_eq!(read(ContentEncoding::Gzip, gzip(&[0; 101])).await, Err(413));
        assert_eq!(read(ContentEncoding::Gzip, vec![0; 101]).await, Err(413), "what arrives has the same limit");
    }
}
