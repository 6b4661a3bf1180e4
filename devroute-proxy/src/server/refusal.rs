//! What the server answers in place of its service.
//!
//! ```text
//! HTTP/1.1 503 Service Unavailable
//! content-type: application/problem+json
//! retry-after: 1
//! ```

use bytes::Bytes;
use devroute_tower::transport::Protocol;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{Method, Response, StatusCode};
use http_body::Body as _;
use http_body_util::Full;

/// Why a request is not given to the service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// There are as many connections as there may be.
    Connections,
    /// There are more fields than there may be.
    Head,
    /// The body is longer than it may be.
    Body,
}

/// What is said about a refusal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    pub(crate) status: StatusCode,
    pub(crate) grpc_status: &'static str,
    /// The error type of RFC 9209, section 2.3.
    pub(crate) proxy_status: &'static str,
    pub(crate) cause: &'static str,
    pub(crate) detail: &'static str,
    pub(crate) help: &'static str,
}

impl Refusal {
    /// The answer, in the dialect that such a request is asked in (rule 12).
    pub(super) fn response(self, method: &Method, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let mut response = self.words().response(method, headers);
        if self == Self::Connections {
            // A second is long for a connection to end, and short for whoever waits.
            let second = HeaderValue::from_static("1");
            response.headers_mut().insert(RETRY_AFTER, second);
        }
        response
    }

    fn words(self) -> Words {
        match self {
            Self::Connections => Words {
                status: StatusCode::SERVICE_UNAVAILABLE,
                grpc_status: "14",
                proxy_status: "http_request_denied",
                cause: "too_many_connections",
                detail: "There are as many connections to this proxy, or from this client, as there may be.",
                help: "Try again, use fewer connections, or allow more with --max-connections and \
                       --max-connections-per-client.",
            },
            Self::Head => Words {
                status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                grpc_status: "8",
                proxy_status: "http_request_denied",
                cause: "too_many_fields",
                detail: "The request has more header fields than this proxy takes.",
                help: "Send fewer, or allow more with --max-headers.",
            },
            Self::Body => Words {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                grpc_status: "8",
                proxy_status: "http_request_denied",
                cause: "body_too_large",
                detail: "The body of the request is longer than this proxy takes.",
                help: "Send less, or allow more with --max-body.",
            },
        }
    }
}

impl Words {
    /// The answer, in the dialect that such a request is asked in (rule 12).
    pub(crate) fn response(&self, method: &Method, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let mut response = match Protocol::of(headers) {
            // Only gRPC is HTTP/2 by its headers alone.
            Protocol::Http2 => self.trailers_only(),
            _ => self.problem(),
        };
        if method == Method::HEAD {
            // HTTP/2 would send it, and the client take it for an error.
            let length = HeaderValue::from(response.body().size_hint().lower());
            response.headers_mut().insert(CONTENT_LENGTH, length);
            *response.body_mut() = Full::default();
        }
        let fields = response.headers_mut();
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let Self {
            proxy_status,
            detail,
            ..
        } = self;
        let proxy_status = format!("devroute; error={proxy_status}; details=\"{detail}\"");
        if let Ok(proxy_status) = HeaderValue::try_from(proxy_status) {
            fields.insert(HeaderName::from_static("proxy-status"), proxy_status);
        }
        response
    }

    fn problem(&self) -> Response<Full<Bytes>> {
        let problem = serde_json::json!({
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "cause": self.cause,
            "help": self.help,
        });
        let mut response = Response::new(Full::from(format!("{problem}\n")));
        *response.status_mut() = self.status;
        let content_type = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }

    /// gRPC over HTTP/2, "Trailers-Only": everything is in the one header block.
    fn trailers_only(&self) -> Response<Full<Bytes>> {
        let mut response = Response::default();
        for (name, value) in [
            (CONTENT_TYPE, "application/grpc"),
            (HeaderName::from_static("grpc-status"), self.grpc_status),
            (HeaderName::from_static("grpc-message"), self.detail),
        ] {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_refusal_is_a_problem_that_says_when_to_come_back() {
        let response = Refusal::Connections.response(&Method::GET, &HeaderMap::new());
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["status"], 503);
        assert_eq!(problem["cause"], "too_many_connections");
    }

    #[test]
    fn rule_12_a_refusal_of_grpc_is_trailers_only() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let response = Refusal::Head.response(&Method::POST, &headers);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "8");
        assert_eq!(response.headers().get(RETRY_AFTER), None);
    }
}
