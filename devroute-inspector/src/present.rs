//! A body as the page shows it: JSON with its lines broken, gRPC as messages, text, or bytes.

use std::borrow::Cow;
use std::io::Read as _;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::exchange::Captured;
use crate::{hex, json as pretty, mask};

/// Bytes that are unpacked of a body at most: a small one may hold very much.
const UNPACKED: u64 = 1024 * 1024;
/// Messages of gRPC that are shown of a body.
const MESSAGES: usize = 200;

/// The body of a message with `headers`, for the page.
pub(crate) fn body(body: &Captured, headers: Option<&HeaderMap>, reveal: bool) -> Value {
    let coding = headers
        .and_then(|it| it.get(CONTENT_ENCODING))
        .map(mask::text);
    let content_type = headers.and_then(|it| it.get(CONTENT_TYPE)).map(mask::text);
    let (bytes, note) = unpack(&body.kept, coding.as_deref());
    let mut shown = content(&bytes, content_type.as_deref(), body.is_truncated());
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("total".to_owned(), body.total.into());
        shown.insert("kept".to_owned(), body.kept.len().into());
        shown.insert("truncated".to_owned(), body.is_truncated().into());
        shown.insert("note".to_owned(), note.into());
        shown.insert("content_type".to_owned(), content_type.into());
        shown.insert("progress".to_owned(), body.state_json());
        let trailers = body.trailers.as_ref();
        let trailers = trailers.map(|trailers| mask::fields(trailers, reveal));
        shown.insert("trailers".to_owned(), trailers.into());
    }
    shown
}

fn content(bytes: &[u8], content_type: Option<&str>, is_cut: bool) -> Value {
    let media = content_type.unwrap_or_default().split(';').next();
    let media = media.unwrap_or_default().trim().to_ascii_lowercase();
    if bytes.is_empty() {
        return json!({ "kind": "empty" });
    }
    let is_grpc = media.strip_prefix("application/grpc");
    if is_grpc.is_some_and(|rest| rest.is_empty() || rest.starts_with('+')) {
        return grpc(bytes);
    }
    let Some(text) = text(bytes, is_cut) else {
        return json!({
            "kind": "bytes",
            "text": hex::dump(bytes),
            "cut": bytes.len() > hex::LONGEST,
        });
    };
    let may_be_json =
        media.is_empty() || media.ends_with("json") || media.starts_with("text/plain");
    match Some(text).filter(|_| may_be_json).and_then(pretty::pretty) {
        Some(text) => json!({ "kind": "json", "text": text }),
        None => json!({ "kind": "text", "text": text }),
    }
}

/// The bytes as text, if that is what they are. Where they are a beginning, the last letter may lack some.
fn text(bytes: &[u8], is_cut: bool) -> Option<&str> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if is_cut && error.error_len().is_none() => {
            let whole = bytes.get(..error.valid_up_to())?;
            std::str::from_utf8(whole).ok()?
        }
        Err(_) => return None,
    };
    let is_shown = |letter: char| !letter.is_control() || matches!(letter, '\n' | '\r' | '\t');
    text.chars().all(is_shown).then_some(text)
}

/// The messages of gRPC: a byte that says whether it is compressed, four for its length, and itself.
fn grpc(bytes: &[u8]) -> Value {
    let (mut rest, mut messages, mut is_cut) = (bytes, Vec::new(), false);
    while let [compressed, a, b, c, d, after @ ..] = rest {
        if messages.len() == MESSAGES {
            is_cut = true;
            break;
        }
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let (message, behind) = after.split_at_checked(length).unwrap_or((after, &[]));
        messages.push(json!({
            "compressed": *compressed != 0,
            "length": length,
            "complete": message.len() == length,
            "text": hex::dump(message),
        }));
        rest = behind;
    }
    let rest = if is_cut { &[] } else { rest };
    json!({ "kind": "grpc", "messages": messages, "rest": hex::dump(rest), "cut": is_cut })
}

/// What is in a body that was compressed, and what there is to say about it.
fn unpack<'a>(bytes: &'a [u8], coding: Option<&str>) -> (Cow<'a, [u8]>, Option<String>) {
    let Some(coding) = coding.map(str::trim).filter(|coding| !coding.is_empty()) else {
        return (bytes.into(), None);
    };
    let mut unpacked = Vec::new();
    let read = match &*coding.to_ascii_lowercase() {
        "identity" => return (bytes.into(), None),
        "gzip" | "x-gzip" => MultiGzDecoder::new(bytes)
            .take(UNPACKED)
            .read_to_end(&mut unpacked),
        // What is called so is mostly wrapped in zlib, as it should be, and sometimes is not.
        "deflate" if bytes.first().is_some_and(|first| first & 0x0f == 8) => {
            ZlibDecoder::new(bytes)
                .take(UNPACKED)
                .read_to_end(&mut unpacked)
        }
        "deflate" => DeflateDecoder::new(bytes)
            .take(UNPACKED)
            .read_to_end(&mut unpacked),
        _ => {
            return (
                bytes.into(),
                Some(format!("compressed ({coding}), shown as it came")),
            );
        }
    };
    if read.is_err() && unpacked.is_empty() && !bytes.is_empty() {
        return (
            bytes.into(),
            Some(format!("said to be {coding}, which it is not")),
        );
    }
    let how = match read {
        Ok(_) if unpacked.len() as u64 == UNPACKED => "the beginning, unpacked",
        Ok(_) => "unpacked",
        Err(_) => "unpacked as far as it goes",
    };
    (unpacked.into(), Some(format!("{how} ({coding})")))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use bytes::Bytes;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;

    use super::*;

    fn shown(bytes: &[u8], fields: &[(&'static str, &'static str)], limit: usize) -> Value {
        let mut captured = Captured::default();
        captured.push(&Bytes::copy_from_slice(bytes), limit);
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        body(&captured, Some(&headers), false)
    }

    #[test]
    fn json_is_known_by_its_type_or_its_look() {
        for media in [
            "application/json",
            "application/problem+json; charset=utf-8",
            "text/plain",
        ] {
            let shown = shown(b"{\"a\":1}", &[("content-type", media)], 100);
            assert_eq!(
                (&shown["kind"], &shown["text"]),
                (&"json".into(), &"{\n  \"a\": 1\n}".into())
            );
        }
        let html = shown(b"{\"a\":1}", &[("content-type", "text/html")], 100);
        assert_eq!(html["kind"], "text");
    }

    #[test]
    fn what_is_cut_is_shown_as_the_text_that_it_begins_with() {
        let json = shown(
            b"{\"a\":\"\xc3\xbc\"}",
            &[("content-type", "application/json")],
            7,
        );
        assert_eq!(
            (&json["kind"], &json["text"]),
            (&"text".into(), &"{\"a\":\"".into())
        );
        assert_eq!(
            (&json["truncated"], &json["total"], &json["kept"]),
            (&true.into(), &10.into(), &7.into())
        );
    }

    #[test]
    fn bytes_are_hexadecimal() {
        let bytes = shown(b"\x89PNG\r\n\x1a\n", &[("content-type", "image/png")], 100);
        assert_eq!(bytes["kind"], "bytes");
        assert!(bytes["text"].as_str().unwrap().contains("89 50 4e 47"));
        assert_eq!(shown(b"", &[], 100)["kind"], "empty");
    }

    #[test]
    fn grpc_is_shown_by_message() {
        let grpc = [("content-type", "application/grpc+proto")];
        let shown = shown(b"\0\0\0\0\x02\x08\x01\x01\0\0\0\x05ab", &grpc, 100);
        let messages = shown["messages"].as_array().unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!(
            (&messages[0]["length"], &messages[0]["complete"]),
            (&2.into(), &true.into())
        );
        assert!(messages[0]["text"].as_str().unwrap().contains("08 01"));
        assert_eq!(
            (&messages[1]["compressed"], &messages[1]["complete"]),
            (&true.into(), &false.into())
        );
        let web = self::shown(b"\0\0", &[("content-type", "application/grpc-web")], 100);
        assert_eq!(web["kind"], "bytes");
    }

    #[test]
    fn what_is_compressed_is_unpacked() {
        let text = b"{\"a\":1}";
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(text).unwrap();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(text).unwrap();
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::fast());
        raw.write_all(text).unwrap();
        for (bytes, coding) in [
            (gzip.finish().unwrap(), "gzip"),
            (zlib.finish().unwrap(), "deflate"),
            (raw.finish().unwrap(), "deflate"),
        ] {
            let shown = shown(&bytes, &[("content-encoding", coding)], 1000);
            assert_eq!(shown["kind"], "json", "{shown}");
            assert_eq!(shown["note"], format!("unpacked ({coding})"));
        }
        let brotli = shown(b"\x0b\x02\x80", &[("content-encoding", "br")], 1000);
        assert_eq!(brotli["note"], "compressed (br), shown as it came");
        let lie = shown(b"hello", &[("content-encoding", "gzip")], 1000);
        assert_eq!(
            (&lie["text"], &lie["note"]),
            (&"hello".into(), &"said to be gzip, which it is not".into())
        );
    }

    #[test]
    fn a_small_body_that_holds_very_much_is_unpacked_in_part() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![b'a'; 4 * 1024 * 1024]).unwrap();
        let bytes = gzip.finish().unwrap();
        let shown = shown(&bytes, &[("content-encoding", "gzip")], 1024 * 1024);
        assert_eq!(shown["text"].as_str().unwrap().len() as u64, UNPACKED);
        assert_eq!(shown["note"], "the beginning, unpacked (gzip)");
    }
}
