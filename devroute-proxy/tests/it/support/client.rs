//! A client that sends what it is told, header by header.

use std::net::SocketAddr;

use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

use super::PATIENCE;

/// A request to be sent on a connection of its own.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    request: http::request::Builder,
    h2: bool,
    body: Bytes,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Client {
    pub(crate) fn get(address: SocketAddr, path: &str) -> Self {
        let request = Request::get(path).header("host", "foo.example");
        Self {
            address,
            request,
            h2: false,
            body: Bytes::new(),
        }
    }

    /// For another host than foo.example.
    pub(crate) fn host(mut self, host: &str) -> Self {
        let headers = self.request.headers_mut().unwrap();
        headers.insert("host", host.parse().unwrap());
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn contract(self, contract: &str) -> Self {
        self.header("x-devroute", contract)
    }

    pub(crate) fn post(mut self, body: &'static str) -> Self {
        self.request = self.request.method("POST");
        self.body = body.into();
        self
    }

    /// Over HTTP/2, which is known beforehand.
    pub(crate) fn h2(mut self) -> Self {
        self.h2 = true;
        self
    }

    pub(crate) async fn send(self) -> Answer {
        tokio::time::timeout(PATIENCE, self.exchange())
            .await
            .expect("an answer comes")
    }

    async fn exchange(self) -> Answer {
        let io = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let mut request = self.request.body(Full::new(self.body)).unwrap();
        let response = if self.h2 {
            if request.uri().authority().is_none() {
                let host = request.headers()["host"].to_str().unwrap();
                let path = request.uri().path_and_query().unwrap().as_str();
                *request.uri_mut() = format!("http://{host}{path}").parse().unwrap();
            }
            request.headers_mut().remove("host");
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                    .await
                    .unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text,
        }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(|value| value.to_str().unwrap())
            .unwrap_or_default()
    }
}
