//! What a request meets first: the router's health probe, the requests that are none, the [`Entry`], and
//! "can you reach me?".
//!
//! - `/_healthz` on the router's own port, as the reference implementation has it. Only for probes: a
//!   rerouted request, which names its service, belongs to that service's target whatever its path.
//! - An HTTP/1.1 request without `Host`, with two, or with one that is no host is answered with 400
//!   (RFC 9112, section 3.2), and so is a target that is neither a path, a URI, nor the `*` of OPTIONS; and
//!   one of HTTP/2 with a `Host` that is not its `:authority` (RFC 9113, section 8.3.1). hyper takes them;
//!   two servers that read such a request differently are how requests are smuggled. Each of them is
//!   counted by its reason, and is the last one on a connection of HTTP/1.
//! - Contracts that come from outside are removed where that is configured (rule 20).
//! - `/_reach` on the router's own port dials back whoever asks (`reach/dial.rs`).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use devroute_tower::ClientInfo;
use devroute_tower::core::carrier;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::entry::Entry;
use crate::metrics::Refused;
use crate::reach::dial::{self, Answering, ReachBack};
use crate::server::Words;

/// Puts a [`Front`] before a service.
#[derive(Clone, Debug)]
pub(crate) struct FrontLayer {
    /// Whether health probes are answered.
    pub(crate) health: bool,
    /// Which contracts are removed.
    pub(crate) entry: Entry,
    /// What dials back, for this client.
    pub(crate) reach: Option<ReachBack>,
}

impl<S> Layer<S> for FrontLayer {
    type Service = Front<S>;

    fn layer(&self, inner: S) -> Front<S> {
        Front {
            inner,
            settings: self.clone(),
        }
    }
}

/// The service of [`FrontLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Front<S> {
    inner: S,
    settings: FrontLayer,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Front<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<FrontBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if let Err(reason) = check(&request) {
            let mut refusal = words(reason).response(request.method(), request.headers());
            if request.version() < Version::HTTP_2 {
                // What follows may have been meant to be a part of it.
                let close = HeaderValue::from_static("close");
                refusal.headers_mut().insert(CONNECTION, close);
            }
            return own(refusal, Own::Refused(reason));
        }
        if self.settings.health && is_probe(&request) {
            return own(Response::new(Full::from("OK")), Own::Healthy);
        }
        self.settings.entry.clean(request.headers_mut());
        match &self.settings.reach {
            Some(reach) if dial::is_asked(&request) => {
                let answering = reach.answer(&request);
                return ResponseFuture::Asked { answering };
            }
            _ => {}
        }
        ResponseFuture::Inner {
            future: self.inner.call(request),
        }
    }
}

impl FrontLayer {
    /// The same for the connection of one client.
    pub(crate) fn facing(&self, client: ClientInfo) -> Self {
        Self {
            entry: self.entry.facing(client),
            ..self.clone()
        }
    }
}

/// In the extensions of an answer that was given here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Own {
    /// To a health probe.
    Healthy,
    /// To "can you reach me?".
    Reach,
    /// To what is no request.
    Refused(Refused),
}

fn own<F>(mut response: Response<Full<Bytes>>, own: Own) -> ResponseFuture<F> {
    response.extensions_mut().insert(own);
    ResponseFuture::Own {
        response: Some(response),
    }
}

fn is_probe<B>(request: &Request<B>) -> bool {
    request.uri().path() == "/_healthz" && !request.headers().contains_key(carrier::MATCHED)
}

/// Refuses what RFC 9112 does not let be a request, nor RFC 9113.
fn check<B>(request: &Request<B>) -> Result<(), Refused> {
    let (uri, version) = (request.uri(), request.version());
    let is_http2 = version >= Version::HTTP_2;
    let has_scheme = uri.scheme().is_some();
    let fits = match *request.method() {
        // The authority and nothing else, and with a port.
        Method::CONNECT => is_http2 || (!has_scheme && uri.port().is_some()),
        Method::OPTIONS => has_scheme || uri.authority().is_none(),
        _ => (has_scheme || uri.authority().is_none()) && uri.path() != "*",
    };
    if !fits {
        return Err(Refused::MalformedTarget);
    }
    // Of what is no scheme somebody else may make a path. In HTTP/2 it is a field of its own, and chooses nothing.
    if !is_http2 && uri.scheme_str().is_some_and(|it| !is_scheme(it)) {
        return Err(Refused::MalformedTarget);
    }
    // A path that has no slash would get one.
    let path = uri.path_and_query().map(PathAndQuery::as_str);
    if is_http2 && path.is_some_and(|it| !it.starts_with('/') && it != "*") {
        return Err(Refused::MalformedTarget);
    }
    // Without a user before it (RFC 9110, section 4.2.4), and not without a host (section 4.2.1).
    if uri
        .authority()
        .is_some_and(|it| it.host().is_empty() || !is_host(it.as_str().as_bytes()))
    {
        return Err(Refused::MalformedTarget);
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next(), uri.authority()) {
        (Some(_), Some(_), _) => Err(Refused::SeveralHosts),
        (Some(host), None, _) if !is_host(host.as_bytes()) => Err(Refused::MalformedHost),
        (Some(host), None, Some(authority)) if is_http2 && !is_same(host, authority) => {
            Err(Refused::SeveralHosts)
        }
        (None, ..) if version == Version::HTTP_11 => Err(Refused::NoHost),
        _ => Ok(()),
    }
}

/// RFC 3986, section 3.1, which the type of schemes is more generous than.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn is_same(host: &HeaderValue, authority: &Authority) -> bool {
    host.as_bytes()
        .eq_ignore_ascii_case(authority.as_str().as_bytes())
}

/// What is said about a refusal (rule 12).
fn words(reason: Refused) -> Words {
    let (detail, help) = match reason {
        Refused::NoHost => (
            "The request has no Host field.",
            "Name the service in one, as HTTP/1.1 asks for (RFC 9112, section 3.2).",
        ),
        Refused::SeveralHosts => (
            "The request has more than one Host, or one that is not its authority.",
            "Send one: with two, nobody knows which service is meant.",
        ),
        Refused::MalformedHost => (
            "The Host field of the request is no host.",
            "Send a name or an address, with or without a port, and nothing else.",
        ),
        _ => (
            "The request target is neither a path, a URI, nor the asterisk of OPTIONS.",
            "Begin it with a slash, or with http:// where this is used as a proxy.",
        ),
    };
    Words {
        status: StatusCode::BAD_REQUEST,
        grpc_status: "3",
        proxy_status: "http_request_error",
        cause: reason.as_str(),
        detail,
        help,
    }
}

/// Whether it can be a host with or without a port; an empty one can (RFC 9110, section 7.2).
///
/// By its characters only: what is behind knows which hosts there are. Brackets are around an address of IPv6, and
/// nowhere else (RFC 3986, section 3.2.2).
fn is_host(host: &[u8]) -> bool {
    let end = |of: &[u8], byte: u8| of.iter().position(|it| *it == byte);
    let (name, port, is_literal) = match host.strip_prefix(b"[") {
        Some(literal) => {
            let (name, behind) = literal.split_at(end(literal, b']').unwrap_or(0));
            match behind.strip_prefix(b"]") {
                Some(port) if !name.is_empty() => (name, port, true),
                _ => return false,
            }
        }
        None => {
            let (name, port) = host.split_at(end(host, b':').unwrap_or(host.len()));
            (name, port, false)
        }
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_port
        && name
            .iter()
            .all(|byte| is_of_host(*byte) || (is_literal && *byte == b':'))
}

fn is_of_host(byte: u8) -> bool {
    matches!(
        byte,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
            // unreserved, pct-encoded and sub-delims of RFC 3986, section 3.2.2
            | b'-' | b'.' | b'_' | b'~' | b'%'
            | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
    )
}

pin_project! {
    /// The future of [`Front`].
    #[derive(Debug)]
    #[project = ResponseFutureProj]
    pub(crate) enum ResponseFuture<F> {
        Own { response: Option<Response<Full<Bytes>>> },
        Asked { #[pin] answering: Answering },
        Inner { #[pin] future: F },
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<FrontBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            ResponseFutureProj::Own { response } => {
                let response = response.take().unwrap_or_default();
                Ok(response.map(|body| FrontBody::Own { body }))
            }
            ResponseFutureProj::Asked { answering } => {
                let mut response = ready!(answering.poll(cx));
                response.extensions_mut().insert(Own::Reach);
                Ok(response.map(|body| FrontBody::Own { body }))
            }
            ResponseFutureProj::Inner { future } => ready!(future.poll(cx))
                .map(|response| response.map(|body| FrontBody::Inner { body })),
        })
    }
}

pin_project! {
    /// The body of an answer of [`Front`].
    #[derive(Debug)]
    #[project = FrontBodyProj]
    pub(crate) enum FrontBody<B> {
        Own { #[pin] body: Full<Bytes> },
        Inner { #[pin] body: B },
    }
}

impl<B: Body<Data = Bytes>> Body for FrontBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project() {
            FrontBodyProj::Own { body } => body.poll_frame(cx).map_err(|never| match never {}),
            FrontBodyProj::Inner { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { body } => body.is_end_stream(),
            Self::Inner { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { body } => body.size_hint(),
            Self::Inner { body } => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use devroute_tower::core::NetworkRule;
    use http::Uri;
    use http_body_util::BodyExt as _;
    use tower::{ServiceExt as _, service_fn};

    use super::*;
    use crate::config::{EntryConfig, Strip};

    fn request(target: &str, hosts: &[&str], version: Version) -> Request<()> {
        let mut request = Request::builder().uri(target).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_request_has_one_host() {
        for hosts in [
            &["foo"][..],
            &["foo.svc:8080"],
            &["[::1]:80"],
            &["[::1]"],
            &[""],
        ] {
            assert!(
                check(&request("/", hosts, Version::HTTP_11)).is_ok(),
                "{hosts:?}"
            );
        }
        for (hosts, reason) in [
            (&[][..], Refused::NoHost),
            (&["a", "a"], Refused::SeveralHosts),
            (&["a b"], Refused::MalformedHost),
            (&["a/b"], Refused::MalformedHost),
            (&["a@b"], Refused::MalformedHost),
            (&["a,b"], Refused::MalformedHost),
            (&["a:b"], Refused::MalformedHost),
            (&["a:1:2"], Refused::MalformedHost),
            (&["[::1]x"], Refused::MalformedHost),
            (&["[::1"], Refused::MalformedHost),
            (&["::1]"], Refused::MalformedHost),
            (&["[[::1]]"], Refused::MalformedHost),
            (&["[]"], Refused::MalformedHost),
            (&["foo["], Refused::MalformedHost),
            (&["[foo"], Refused::MalformedHost),
            (&["[a/b]"], Refused::MalformedHost),
        ] {
            let checked = check(&request("/", hosts, Version::HTTP_11));
            assert_eq!(checked, Err(reason), "{hosts:?}");
        }
        assert!(
            check(&request("/", &[], Version::HTTP_10)).is_ok(),
            "which has none"
        );
        assert!(
            check(&request("http://foo/", &[], Version::HTTP_2)).is_ok(),
            "which has :authority"
        );
        for (hosts, checked) in [
            (&["FOO"][..], Ok(())),
            (&["bar"], Err(Refused::SeveralHosts)),
            (&["foo", "foo"], Err(Refused::SeveralHosts)),
        ] {
            let request = request("http://foo/", hosts, Version::HTTP_2);
            assert_eq!(check(&request), checked, "{hosts:?}");
        }
    }

    #[test]
    fn a_target_is_a_path_a_uri_or_an_asterisk() {
        let check = |method: Method, target| {
            let mut request = request(target, &["foo"], Version::HTTP_11);
            *request.method_mut() = method;
            check(&request)
        };
        for target in ["/", "http://bar/x", "http://bar:1/"] {
            assert_eq!(check(Method::GET, target), Ok(()), "{target}");
        }
        assert_eq!(check(Method::OPTIONS, "*"), Ok(()));
        // What becomes of it is decided behind.
        assert_eq!(check(Method::CONNECT, "foo:443"), Ok(()));
        for (method, target) in [
            (Method::GET, "!"),
            (Method::GET, "*"),
            (Method::GET, "foo:80"),
            (Method::OPTIONS, "foo:80"),
            (Method::GET, "http://foo:x/"),
            (Method::GET, "http://:/x"),
            (Method::GET, "http://:80/x"),
            (Method::GET, "~ttp://foo/"),
            (Method::GET, "1http://foo/"),
            (Method::GET, "http://foo@bar/"),
            (Method::CONNECT, "/"),
            (Method::CONNECT, "foo"),
            (Method::CONNECT, "http://foo:80/"),
        ] {
            assert_eq!(
                check(method, target),
                Err(Refused::MalformedTarget),
                "{target}"
            );
        }
    }

    #[test]
    fn a_path_of_http_2_has_a_slash_or_is_the_asterisk() {
        for (path, checked) in [
            ("/", Ok(())),
            ("/x", Ok(())),
            ("*", Ok(())),
            ("?x", Err(Refused::MalformedTarget)),
        ] {
            let mut parts = Uri::from_static("http://foo/").into_parts();
            parts.path_and_query = Some(PathAndQuery::from_static(path));
            let mut request = request("/", &[], Version::HTTP_2);
            *request.method_mut() = Method::OPTIONS;
            *request.uri_mut() = Uri::from_parts(parts).unwrap();
            assert_eq!(check(&request), checked, "{path}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        for (reason, wrong) in [
            (Refused::NoHost, "no Host field"),
            (Refused::SeveralHosts, "more than one Host"),
            (Refused::MalformedHost, "is no host"),
            (Refused::MalformedTarget, "The request target"),
        ] {
            let words = words(reason);
            assert!(words.detail.contains(wrong), "{}", words.detail);
            assert_eq!(words.cause, reason.as_str());
        }
    }

    fn layer() -> FrontLayer {
        FrontLayer {
            health: true,
            entry: Entry::default(),
            reach: None,
        }
    }

    /// What comes of a request, and whether what is behind has seen it, and a contract in it.
    async fn answer(front: &FrontLayer, request: Request<()>) -> (Response<()>, String) {
        let inner = service_fn(|request: Request<()>| async move {
            let seen = match carrier::is_present(request.headers()) {
                true => "a contract",
                false => "a request",
            };
            Ok::<_, Infallible>(Response::new(Full::from(seen)))
        });
        let (parts, body) = front
            .layer(inner)
            .oneshot(request)
            .await
            .unwrap()
            .into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        (Response::from_parts(parts, ()), text)
    }

    #[tokio::test]
    async fn what_is_no_request_ends_a_connection_of_http_1() {
        for (version, closes) in [
            (Version::HTTP_10, true),
            (Version::HTTP_11, true),
            (Version::HTTP_2, false),
        ] {
            let (answer, _) = answer(&layer(), request("/", &["a", "a"], version)).await;
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{version:?}");
            let close = closes.then_some("close");
            let found = answer.headers().get(CONNECTION);
            assert_eq!(
                found.map(HeaderValue::as_bytes),
                close.map(str::as_bytes),
                "{version:?}"
            );
            assert_eq!(
                answer.extensions().get(),
                Some(&Own::Refused(Refused::SeveralHosts))
            );
        }
    }

    #[tokio::test]
    async fn a_probe_is_answered_unless_it_is_a_services() {
        let probe = || request("/_healthz", &["foo"], Version::HTTP_11);
        let (healthy, text) = answer(&layer(), probe()).await;
        assert_eq!(
            (healthy.extensions().get(), &*text),
            (Some(&Own::Healthy), "OK")
        );

        let mut of_service = probe();
        let foo = HeaderValue::from_static("foo");
        of_service.headers_mut().insert(carrier::MATCHED, foo);
        assert_eq!(answer(&layer(), of_service).await.1, "a request");
        let no_probes = FrontLayer {
            health: false,
            ..layer()
        };
        assert_eq!(answer(&no_probes, probe()).await.1, "a request");
    }

    #[tokio::test]
    async fn rule_20_what_is_trusted_is_said_for_each_client() {
        let trusted: NetworkRule = "10.0.0.0/8".parse().unwrap();
        let config = EntryConfig {
            strip: Strip::Everything,
            trust: [trusted].into(),
            ..EntryConfig::default()
        };
        let front = FrontLayer {
            entry: Entry::new(config, None),
            ..layer()
        };
        for (client, seen) in [("10.0.0.1:9", "a contract"), ("192.0.2.1:9", "a request")] {
            let mut request = request("/", &["foo"], Version::HTTP_11);
            let contract = HeaderValue::from_static("{}");
            request.headers_mut().insert(carrier::CONTRACT, contract);
            let facing = front.facing(ClientInfo::new(client.parse().unwrap()));
            assert_eq!(answer(&facing, request).await.1, seen, "{client}");
        }
    }

    #[test]
    fn a_body_knows_its_length_and_its_end() {
        for text in ["", "abc"] {
            let body = || Full::<Bytes>::from(text);
            for body in [
                FrontBody::Own { body: body() },
                FrontBody::Inner { body: body() },
            ] {
                assert_eq!(body.size_hint().exact(), Some(text.len() as u64));
                assert_eq!(body.is_end_stream(), text.is_empty());
            }
        }
    }

    #[test]
    fn it_is_ready_when_what_is_behind_is() {
        struct Busy;

        impl Service<Request<()>> for Busy {
            type Response = Response<Full<Bytes>>;
            type Error = Infallible;
            type Future = std::future::Ready<Result<Self::Response, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Pending
            }

            fn call(&mut self, _: Request<()>) -> Self::Future {
                std::future::ready(Ok(Response::default()))
            }
        }

        let mut front = layer().layer(Busy);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(front.poll_ready(&mut cx).is_pending());
    }
}
