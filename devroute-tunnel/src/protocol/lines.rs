//! The events of a session: lines of JSON on the control stream.
//!
//! A line that is not known is passed over, so that either side may be the older one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use devroute_tower::transport::Body;
use http_body::Frame;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::BoxError;

/// The longest line that is read.
const MAX_LINE: usize = 64 * 1024;

/// What a hub says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FromHub {
    /// The first line: where the session's services are.
    Grant(Grant),
    /// This hub is going away: dial again, perhaps there is another. Requests in flight are still answered.
    Draining,
}

/// What a laptop says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FromLaptop {
    /// It will not come back: its addresses are free.
    Bye,
    /// The body of the request with this number is wanted (RFC 9110, section 10.1.1).
    Continue(u64),
}

/// What a session has got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Grant {
    /// The name of the session.
    pub name: String,
    /// Who the laptop is, by its key; none where the hub asks for none.
    #[serde(default)]
    pub who: Option<String>,
    /// Where each service is reached: `address:port`.
    pub services: BTreeMap<String, String>,
    /// Whether the session was there already, so that its addresses are those it had.
    #[serde(default)]
    pub resumed: bool,
    /// How long the addresses are kept for a laptop that is gone, in seconds.
    #[serde(default)]
    pub hold: u64,
    /// Whether the laptop's own requests are taken.
    #[serde(default)]
    pub outbound: bool,
}

/// A body of events, and what puts events into it; it ends when that is dropped.
pub(crate) fn lines() -> (LineSender, LinesBody) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (LineSender(sender), LinesBody(receiver))
}

/// Puts events into a body.
///
/// Their number is bounded by what they are about: a grant and an end for a session, a word for a request.
#[derive(Clone, Debug)]
pub(crate) struct LineSender(mpsc::UnboundedSender<Bytes>);

impl LineSender {
    /// Sends an event, if there is still somebody who listens.
    pub(crate) fn send<T: Serialize>(&self, event: &T) {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        let _ = self.0.send(line.into());
    }
}

/// The body of [`lines`].
#[derive(Debug)]
pub(crate) struct LinesBody(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for LinesBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// Reads events out of a body.
#[derive(Debug)]
pub(crate) struct LineReader {
    body: Body,
    read: BytesMut,
}

impl LineReader {
    pub(crate) fn new(body: Body) -> Self {
        Self {
            body,
            read: BytesMut::new(),
        }
    }

    /// The next event; none at the end.
    ///
    /// # Errors
    ///
    /// When the stream breaks off, or a line is too long.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, BoxError> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                match serde_json::from_slice(&line) {
                    Ok(event) => return Ok(Some(event)),
                    // Newer than this side.
                    Err(_unknown) => continue,
                }
            }
            if self.read.len() > MAX_LINE {
                return Err("a line of the control stream is too long".into());
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(pieces: Vec<Bytes>) -> Body {
        let (sender, body) = lines();
        for piece in pieces {
            sender.0.send(piece).unwrap();
        }
        Body::new(body)
    }

    #[tokio::test]
    async fn lines_are_read_whatever_pieces_they_come_in() {
        let text = r#"{"continue":7}
"bye"
{"of_tomorrow":{"a":1}}
"of_tomorrow"
not json
"bye"
"rest"#;
        for size in [1, 7, 1000] {
            let pieces: Vec<Bytes> = text
                .as_bytes()
                .chunks(size)
                .map(Bytes::copy_from_slice)
                .collect();
            let mut reader = LineReader::new(body_of(pieces));
            let mut read = Vec::new();
            while let Some(event) = reader.next::<FromLaptop>().await.unwrap() {
                read.push(event);
            }
            assert_eq!(
                read,
                [FromLaptop::Continue(7), FromLaptop::Bye, FromLaptop::Bye]
            );
        }
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused() {
        let long = Bytes::from(vec![b'x'; MAX_LINE + 1]);
        let mut reader = LineReader::new(body_of(vec![long]));
        assert!(reader.next::<FromHub>().await.is_err());
    }

    #[test]
    fn an_event_is_one_line() {
        let grant = Grant {
            name: "alice@laptop".into(),
            services: BTreeMap::from([("foo".into(), "10.0.3.7:43121".into())]),
            ..Grant::default()
        };
        let text = serde_json::to_string(&FromHub::Grant(grant.clone())).unwrap();
        assert!(!text.contains('\n'));
        let read: FromHub = serde_json::from_str(&text).unwrap();
        assert_eq!(read, FromHub::Grant(grant));
    }
}
