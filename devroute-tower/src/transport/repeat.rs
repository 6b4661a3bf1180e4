//! Requests that may be sent again.
//!
//! A pooled connection can be closed just as it is used again, and a client must not notice. The request
//! is hyper's by then, and gone. What has been offered to the connection of one without a body is its head,
//! so that is remembered, in a buffer that the connection keeps; and read again in the rare case that it is
//! needed. A copy of every request that might be, beforehand, was a twentieth of all that a reroute takes.

use http::{Method, Request, Uri, header::UPGRADE};
use http_body::Body as _;

use super::Body;

/// More fields than a client can send through a proxy, with those that it adds.
const MOST_FIELDS: usize = 4096;

/// Whether a request may be sent twice: an idempotent method (RFC 9110, section 9.2.2), and no body.
pub(super) fn is_repeatable(request: &Request<Body>) -> bool {
    request.method().is_idempotent()
        && request.body().is_end_stream()
        && !request.headers().contains_key(UPGRADE)
}

/// The request that `head` is all of, as it went out on HTTP/1.1.
pub(super) fn request(head: &[u8]) -> Option<Box<Request<Body>>> {
    let mut room = vec![httparse::EMPTY_HEADER; 128];
    loop {
        let mut parsed = httparse::Request::new(&mut room);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {
                let mut request = Request::builder()
                    .method(Method::from_bytes(parsed.method?.as_bytes()).ok()?)
                    .uri(Uri::try_from(parsed.path?).ok()?);
                for field in parsed.headers.iter() {
                    request = request.header(field.name, field.value);
                }
                return request.body(Body::empty()).ok().map(Box::new);
            }
            Err(httparse::Error::TooManyHeaders) if room.len() < MOST_FIELDS => {
                room = vec![httparse::EMPTY_HEADER; room.len() * 4];
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_the_request_that_it_was_made_of() {
        let head = "OPTIONS * HTTP/1.1\r\nhost: foo\r\ncookie: a\r\ncookie: b\r\nx: \u{e9}\r\n\r\n";
        let request = request(head.as_bytes()).unwrap();
        assert_eq!(
            (request.method(), request.uri()),
            (&Method::OPTIONS, &Uri::from_static("*"))
        );
        let fields: Vec<_> = request.headers().iter().collect();
        assert_eq!(fields.len(), 4);
        assert_eq!(request.headers().get_all("cookie").iter().count(), 2);
        assert_eq!(request.headers()["x"], "\u{e9}".as_bytes());
        assert!(request.body().is_end_stream());
    }

    #[test]
    fn what_is_idempotent_and_has_no_body_may_go_twice() {
        let is = |method: &str, body: Body, field: (&'static str, &str)| {
            let request = Request::builder().method(method).header(field.0, field.1);
            is_repeatable(&request.body(body).unwrap())
        };
        let accept = ("accept", "a/b");
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
            assert!(is(method, Body::empty(), accept), "{method}");
            assert!(!is(method, Body::new("a".to_owned()), accept), "{method}");
        }
        for method in ["POST", "PATCH", "LINK"] {
            assert!(!is(method, Body::empty(), accept), "{method}");
        }
        assert!(!is("GET", Body::empty(), ("upgrade", "websocket")));
    }

    #[test]
    fn as_many_fields_as_a_client_may_send() {
        let with = |fields: usize| {
            let fields: String = (0..fields).map(|n| format!("x-{n}: {n}\r\n")).collect();
            request(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes())
        };
        assert_eq!(with(1000).unwrap().headers().len(), 1000);
        assert!(with(9000).is_none());
    }

    #[test]
    fn what_is_not_all_of_a_head_is_none() {
        for head in [
            "",
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\n\r\nbody",
            "\0\r\n\r\n",
        ] {
            assert!(request(head.as_bytes()).is_none(), "{head:?}");
        }
    }
}
