//! Every answer that devroute gives itself is made here (rule 12).

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

use bytes::Bytes;
use devroute_core::{
    DecisionError, DecisionErrorKind, Refusal, ServiceName, SignatureError, Target, carrier, via,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
    uri::Authority,
};
use serde_json::json;

use crate::{
    inbound::ResponseBody,
    no_retry,
    outcome::Outcome,
    transport::{self, ErrorKind, is_grpc},
};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A failure on its way to become an answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    /// A stable label: `cause` in the problem, in logs and in metrics.
    pub(crate) cause: &'static str,
    /// The registered error type of RFC 9209, section 2.3.
    pub(crate) proxy_status: &'static str,
    /// What happened, to this request.
    pub(crate) detail: String,
    /// What the person who sent it can do about it.
    pub(crate) help: Cow<'static, str>,
    pub(crate) service: Option<ServiceName>,
    pub(crate) target: Option<Target>,
}

/// How the client wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Problem,
    /// As the answer to HEAD: the same without the body, which not every server holds back.
    Head,
    Grpc,
}

impl Dialect {
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Self {
        if is_grpc(headers) {
            Self::Grpc
        } else if method == Method::HEAD {
            Self::Head
        } else {
            Self::Problem
        }
    }
}

/// What went wrong, with the address or only by its name.
struct Why<'a>(&'a transport::Error, bool);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(error, true) => error.fmt(f),
            Self(error, false) => f.write_str(error.kind().as_str()),
        }
    }
}

impl Failure {
    /// A target that could not be reached, or did not answer.
    pub(crate) fn of_target(
        error: &(dyn std::error::Error + 'static),
        service: ServiceName,
        target: Target,
        through: &str,
        reveal_addresses: bool,
    ) -> Self {
        let known = transport::Error::find(error);
        let kind = known.map_or(ErrorKind::ConnectionClosed, transport::Error::kind);
        let cause = known.map_or("transport_error", |known| known.kind().as_str());
        let detail = match (known, reveal_addresses) {
            (Some(known), true) => {
                format!(
                    "The request for {service} was to be answered by {target}{through}: {known}."
                )
            }
            _ => format!(
                "The request for {service} was to be answered by its target{through}: {cause}."
            ),
        };
        Self {
            status: kind.status(),
            cause,
            proxy_status: kind.proxy_status(),
            detail,
            help: help_for(kind, &service).into(),
            service: Some(service),
            target: Some(target),
        }
    }

    /// A contract that cannot be obeyed.
    pub(crate) fn of_decision(error: &DecisionError, reveal_addresses: bool) -> Self {
        let malformed = error.contract_error();
        let (status, proxy_status, help) = match error.kind() {
            DecisionErrorKind::Refused => {
                let advice = error.refusal().map_or("", Refusal::advice);
                (StatusCode::FORBIDDEN, "destination_ip_prohibited", advice)
            }
            DecisionErrorKind::Signature => {
                let advice = error.signature_error().map_or("", SignatureError::advice);
                (StatusCode::FORBIDDEN, "http_request_denied", advice)
            }
            DecisionErrorKind::Loop => (
                StatusCode::LOOP_DETECTED,
                "proxy_loop_detected",
                "Two entries of the contract lead to each other: name the laptops themselves.",
            ),
            DecisionErrorKind::MissingContract => (
                StatusCode::BAD_REQUEST,
                "http_request_error",
                "A router answers only rerouted requests: send x-devroute, or ask the service itself.",
            ),
            DecisionErrorKind::MissingService => (
                StatusCode::BAD_REQUEST,
                "http_request_error",
                "Name the service in x-devroute-matched, once; the mesh's filter or a sidecar does.",
            ),
            DecisionErrorKind::NoEntry => (
                StatusCode::BAD_REQUEST,
                "http_request_error",
                "Only requests whose contract names the service are sent to a router.",
            ),
            _ => (
                StatusCode::BAD_REQUEST,
                "http_request_error",
                "Send one JSON object of service names and addresses, such as \
                 {\"foo\":\"192.168.1.12:8001\"}; `devroute explain` shows what is wrong with it.",
            ),
        };
        let signature = error.signature_error();
        let what = capitalized(&error.to_string());
        let detail = match (malformed, signature, error.refusal()) {
            (Some(malformed), _, _) if reveal_addresses => format!("{what}: {malformed}."),
            // Its text may be an address.
            (Some(malformed), _, _) => match malformed.offset() {
                Some(offset) => format!("{what}, at byte {offset}."),
                None => format!("{what}."),
            },
            (None, Some(signature), _) => format!("{what}: {signature}."),
            (None, None, Some(refusal)) if reveal_addresses => format!("{what}: {refusal}."),
            _ => format!("{what}."),
        };
        let cause = match (error.refusal(), signature) {
            (Some(refusal), _) => refusal.reason().as_str(),
            (None, Some(signature)) => signature.kind().as_str(),
            (None, None) => error.kind().as_str(),
        };
        Self {
            status,
            cause,
            proxy_status,
            detail,
            help: help.into(),
            service: error.service().cloned(),
            target: error.target().cloned(),
        }
    }

    /// A host name that turned out to have an address which is not allowed.
    pub(crate) fn refused(
        refusal: &Refusal,
        service: ServiceName,
        target: Target,
        reveal_addresses: bool,
    ) -> Self {
        let detail = if reveal_addresses {
            format!("The target for {service} is not allowed: {target} is {refusal}.")
        } else {
            format!("The target for {service} is not allowed.")
        };
        Self {
            status: StatusCode::FORBIDDEN,
            cause: refusal.reason().as_str(),
            proxy_status: "destination_ip_prohibited",
            detail,
            help: refusal.advice().into(),
            service: Some(service),
            target: Some(target),
        }
    }

    /// The target cannot be reached, and there is no baseline to fall back to.
    pub(crate) fn no_baseline(service: ServiceName, target: Target) -> Self {
        let error = transport::Error::without_addr(ErrorKind::ConnectFailed);
        Self::of_target(&error, service, target, "", false)
    }

    /// A tunnel is not a request to a service, and would reach what no policy has judged.
    pub(crate) fn of_connect() -> Self {
        Self {
            status: StatusCode::NOT_IMPLEMENTED,
            cause: "connect",
            proxy_status: "http_request_denied",
            detail: "CONNECT asks for a tunnel, and there is none here.".into(),
            help: "Send the request itself to this address.".into(),
            service: None,
            target: None,
        }
    }

    /// The request is more than one to who wants to see it so.
    pub(crate) fn of_ambiguity() -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            cause: "ambiguous",
            proxy_status: "http_request_error",
            detail: "The request has several hosts, or a transfer coding other than chunked."
                .into(),
            help: "Send one Host, and the body as it is.".into(),
            service: None,
            target: None,
        }
    }

    /// The baseline itself cannot be reached.
    pub(crate) fn of_upstream(error: &transport::Error, reveal_addresses: bool) -> Self {
        let kind = error.kind();
        let why = Why(error, reveal_addresses);
        Self {
            status: kind.status(),
            cause: kind.as_str(),
            proxy_status: kind.proxy_status(),
            detail: format!("The service itself does not answer: {why}."),
            help: match kind {
                ErrorKind::TlsCertificate => {
                    "This is not about a contract: trust the issuer of the service's certificate \
                     (--upstream-ca FILE), or say what name it is for (--upstream-name NAME)."
                }
                ErrorKind::ResponseTimeout => {
                    "This is not about a contract: see what the service does, or give it more time \
                     (--response-timeout TIME)."
                }
                ErrorKind::OwnListener => {
                    "This is not about a contract: --upstream leads back to this process, and has to \
                     lead to the service."
                }
                ErrorKind::DnsFailed | ErrorKind::DnsTimeout => {
                    "This is not about a contract: the name in --upstream has no address yet, and is \
                     looked up again and again; see whether it is spelled right."
                }
                _ => "This is not about a contract: see whether the service is up.",
            }
            .into(),
            service: None,
            target: None,
        }
    }

    /// A forward proxy cannot reach what a request is for.
    pub(crate) fn of_destination(
        error: &transport::Error,
        authority: &Authority,
        reveal_addresses: bool,
    ) -> Self {
        let kind = error.kind();
        let why = Why(error, reveal_addresses);
        Self {
            status: kind.status(),
            cause: kind.as_str(),
            proxy_status: kind.proxy_status(),
            detail: format!("The request for {authority} cannot be sent on: {why}."),
            help: match kind {
                ErrorKind::DnsFailed | ErrorKind::DnsTimeout => {
                    "This is not about a contract: check the name of the host. It is looked up here, \
                     by the resolver of the sidecar."
                }
                ErrorKind::OwnListener => {
                    "Ask for the host that is to answer, and not for the proxy itself."
                }
                ErrorKind::Prohibited => {
                    "A proxy that others can reach sends nothing to such an address."
                }
                _ => "This is not about a contract: see whether something answers there.",
            }
            .into(),
            service: None,
            target: None,
        }
    }

    /// A request to a forward proxy that does not say what it is for.
    pub(crate) fn no_destination(cause: &'static str, detail: &'static str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            cause,
            proxy_status: "http_request_error",
            detail: detail.into(),
            help: "Name the host in an absolute request target or in Host, or ask for a tunnel to \
                   host and port with CONNECT, which is how https:// goes through a proxy."
                .into(),
            service: None,
            target: None,
        }
    }

    /// A request that has come round.
    pub(crate) fn of_loop() -> Self {
        Self {
            status: StatusCode::LOOP_DETECTED,
            cause: "loop",
            proxy_status: "proxy_loop_detected",
            detail: format!(
                "The request has passed {} proxies like this one.",
                via::MAX_HOPS
            ),
            help:
                "Where outgoing traffic is redirected to the proxy, leave out what the proxy sends \
                   itself (by its user id, say)."
                    .into(),
            service: None,
            target: None,
        }
    }

    pub(crate) fn into_response<B>(
        self,
        dialect: Dialect,
        reveal_addresses: bool,
        mut outcome: Option<Outcome>,
    ) -> Response<ResponseBody<B>> {
        let target = self.target.as_ref().filter(|_| reveal_addresses);
        let mut response = match dialect {
            Dialect::Problem => self.problem(target, true),
            Dialect::Head => self.problem(target, false),
            Dialect::Grpc => self.trailers_only(),
        };
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::try_from(self.proxy_status_field(target)) {
            headers.insert(PROXY_STATUS, value);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(outcome) = &mut outcome {
            no_retry::mark(headers);
            outcome.cause = Some(self.cause);
            if let Some(mark) = outcome.mark(reveal_addresses) {
                headers.insert(carrier::ROUTED, mark);
            }
        }
        if let Some(outcome) = outcome {
            response.extensions_mut().insert(outcome);
        }
        response
    }

    /// RFC 9457. There is one type of problem a status, so `type` is left to its default.
    fn problem<B>(&self, target: Option<&Target>, with_body: bool) -> Response<ResponseBody<B>> {
        let mut problem = json!({
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "cause": self.cause,
            "help": self.help,
        });
        if let Some(members) = problem.as_object_mut() {
            if let Some(service) = &self.service {
                members.insert("service".into(), service.as_str().into());
            }
            if let Some(target) = target {
                members.insert("target".into(), target.to_string().into());
            }
        }
        let text = format!("{problem}\n");
        let length = HeaderValue::from(text.len());
        let text = if with_body { text } else { String::new() };
        let mut response = Response::new(ResponseBody::text(Bytes::from(text)));
        *response.status_mut() = self.status;
        let problem_json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, problem_json);
        response.headers_mut().insert(CONTENT_LENGTH, length);
        response
    }

    /// gRPC over HTTP/2, "Trailers-Only": everything is in the one header block.
    fn trailers_only<B>(&self) -> Response<ResponseBody<B>> {
        let status = match self.status {
            StatusCode::BAD_REQUEST => "3",
            StatusCode::FORBIDDEN => "7",
            StatusCode::LOOP_DETECTED => "9",
            _ => "14",
        };
        let mut response = Response::new(ResponseBody::text(Bytes::new()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from_static(status));
        let message = grpc_message(&format!("{} {}", self.detail, self.help));
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert(GRPC_MESSAGE, message);
        }
        response
    }

    /// RFC 9209: an item with the error, the next hop, and the detail as a quoted string.
    fn proxy_status_field(&self, target: Option<&Target>) -> String {
        let mut field = format!("devroute; error={}", self.proxy_status);
        if let Some(target) = target {
            let _ = write!(field, "; next-hop=\"{target}\"");
        }
        field.push_str("; details=\"");
        for c in self.detail.chars() {
            match c {
                '"' | '\\' => field.extend(['\\', c]),
                ' '..='~' => field.push(c),
                _ => field.push('?'),
            }
        }
        field.push('"');
        field
    }
}

fn help_for(kind: ErrorKind, service: &ServiceName) -> String {
    match kind {
        ErrorKind::ConnectionRefused => format!(
            "Nothing listens there: start {service} on that machine, let it listen on an address \
             that the cluster can reach and not just on loopback, or take {service} out of \
             the contract."
        ),
        ErrorKind::ConnectTimeout | ErrorKind::Unreachable => format!(
            "No way leads there: check the address, the VPN and the firewall of that machine, or \
             take {service} out of the contract."
        ),
        ErrorKind::ConnectFailed => {
            "The proxy could not open a connection: see its log for the reason.".into()
        }
        ErrorKind::ConnectLimit => format!(
            "Others are asking for the same machine, and it does not take their connections fast enough: \
             try again in a second, and check that {service} can be reached there."
        ),
        ErrorKind::DnsFailed | ErrorKind::DnsTimeout => {
            "Use an IP address in the contract, or a name that the cluster can resolve.".into()
        }
        ErrorKind::DnsLimit => {
            "Try again in a second, or use an IP address in the contract: many names are being looked up."
                .into()
        }
        ErrorKind::OwnListener => {
            "A contract must not name the proxy itself: name the machine that is to answer.".into()
        }
        ErrorKind::Prohibited => "Name an address that requests may be sent to from here.".into(),
        ErrorKind::TlsUnavailable => {
            "Use http:// or h2c:// for this target, or let https:// be spoken here: the binary does, \
             and the library with its feature `tls` and HttpTransport::tls."
                .into()
        }
        ErrorKind::TlsCertificate => format!(
            "Give {service} on that machine a certificate for the name or address that the contract \
             has, and trust its issuer here (--target-ca FILE, TlsConfig::ca_file); for a \
             certificate that nobody has issued there is --target-insecure \
             (TlsConfig::danger_accept_any_certificate). Or use http:// for this target."
        ),
        ErrorKind::TlsAlert => format!(
            "Look into the log of {service} on that machine: it knows why it refused the handshake."
        ),
        ErrorKind::TlsProtocol => format!(
            "Check that {service} speaks TLS at that port, and the protocol: gRPC needs HTTP/2 (h2 in \
             ALPN), an upgrade such as WebSocket HTTP/1.1. Without TLS use http:// or h2c:// for this \
             target."
        ),
        ErrorKind::Protocol => format!(
            "Check that it is {service} that listens there, and the protocol: h2c:// in front of \
             the target speaks HTTP/2 with prior knowledge, http:// speaks HTTP/1.1."
        ),
        ErrorKind::ResponseTimeout => {
            format!("Look into {service} on that machine: it took the request, and does not answer.")
        }
        ErrorKind::RequestBody => "Send the whole body of the request.".into(),
        ErrorKind::ConnectionClosed => {
            format!("Look into the log of {service} on that machine: it may have crashed.")
        }
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

/// Percent-encoding of `grpc-message`: everything but visible ASCII, and the percent sign.
fn grpc_message(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => encoded.push_str("%25"),
            b' '..=b'~' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure {
            status: StatusCode::BAD_GATEWAY,
            cause: "connection_refused",
            proxy_status: "connection_refused",
            detail: "a \"quoted\" 100% süß".into(),
            help: "none".into(),
            service: Some("foo".parse().unwrap()),
            target: Some("10.0.0.1:80".parse().unwrap()),
        }
    }

    #[test]
    fn rule_12_proxy_status_is_a_structured_field() {
        let failure = failure();
        assert_eq!(
            failure.proxy_status_field(failure.target.as_ref()),
            r#"devroute; error=connection_refused; next-hop="10.0.0.1:80"; details="a \"quoted\" 100% s??""#
        );
    }

    #[test]
    fn rule_12_grpc_messages_are_percent_encoded() {
        assert_eq!(grpc_message("100% süß\n"), "100%25 s%C3%BC%C3%9F%0A");
    }

    #[test]
    fn rule_12_addresses_can_be_kept_back() {
        let response = failure().into_response::<crate::transport::ResponseBody>(
            Dialect::Problem,
            false,
            None,
        );
        assert!(!format!("{:?}", response.headers()).contains("10.0.0.1"));
    }
}
