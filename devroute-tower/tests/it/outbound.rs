//! The client layer on its own: precedence, the guard, what is left untouched (rules 7, 10, 11).

use std::{
    convert::Infallible,
    future::Ready,
    sync::{Arc, Mutex},
};

use devroute_core::{
    Contract,
    carrier::{self, Unwritten},
};
use devroute_tower::{
    DevRouteClient, DevRouteClientLayer, Mode, context,
    outbound::{InternalHosts, outgoing_headers},
};
use http::{HeaderMap, Request, Response};
use tower::{Layer as _, Service, ServiceExt as _, buffer::Buffer, service_fn};
use tower_test::mock;

use crate::outbound_support::{assert_carries, assert_carries_nothing, carried, contract, text};

/// What a client below `layer` gets to send.
fn sent(layer: &DevRouteClientLayer, request: Request<()>) -> HeaderMap {
    let inner = service_fn(|request: Request<()>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(
            request.headers().clone(),
        )))
    });
    let mut service = layer.layer(inner);
    let future: Ready<_> = service.call(request);
    future.into_inner().unwrap().into_body()
}

fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

fn with(mut request: Request<()>, fields: &[(&'static str, &str)]) -> Request<()> {
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

fn member(number: u16) -> String {
    let mut headers = HeaderMap::new();
    carrier::write(&mut headers, &contract(number));
    headers[carrier::BAGGAGE].to_str().unwrap().to_owned()
}

#[test]
fn without_a_contract_nothing_is_touched() {
    let fields = [
        ("baggage", "a=1, b=2;p"),
        ("baggage", "devroutes=3"),
        ("x-other", "x-devroute"),
    ];
    for uri in ["http://checkout/", "http://example.com/", "/"] {
        let headers = sent(&DevRouteClientLayer::new(), with(get(uri), &fields));
        assert_eq!(&headers, with(get(uri), &fields).headers(), "{uri}");
    }
}

#[test]
fn from_env_is_off_where_nothing_is_set_and_leaves_requests_alone() {
    assert!(
        std::env::var_os("DEVROUTE").is_none(),
        "this test is about the variable not being set"
    );
    let copied = text(2);
    let fields = [
        ("x-devroute", &*copied),
        ("x-devroute-matched", "foo"),
        ("baggage", "devroute=%7B%7D"),
    ];
    for uri in ["http://checkout/", "http://example.com/"] {
        let mut request = with(get(uri), &fields);
        request.extensions_mut().insert(contract(1));
        let headers = context::sync_scope(contract(1), || {
            sent(&DevRouteClientLayer::from_env(), request)
        });
        assert_eq!(&headers, with(get(uri), &fields).headers(), "{uri}");
    }
}

#[test]
fn a_layer_that_carries_sends_contracts_on() {
    let carry = DevRouteClientLayer::new().mode(Mode::Carry);
    let headers = context::sync_scope(contract(1), || sent(&carry, get("http://checkout/")));
    assert_carries(&headers, 1);
}

#[test]
fn rule_10_who_asks_is_told_of_each_contract_without_a_member() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let layer = DevRouteClientLayer::new().on_unwritten({
        let told = Arc::clone(&told);
        move |reason| told.lock().unwrap().push(reason)
    });
    let full = (0..64).map(|number| format!("m{number}=1"));
    let full = full.collect::<Vec<_>>().join(",");
    for (uri, baggage, expected) in [
        ("http://checkout/", "a=1", None),
        ("http://example.com/", &*full, None),
        ("http://checkout/", &*full, Some(Unwritten::TooManyMembers)),
    ] {
        let request = with(get(uri), &[("baggage", baggage)]);
        context::sync_scope(contract(1), || sent(&layer, request));
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert_eq!(told, Vec::from_iter(expected), "{uri} {baggage}");
    }
}

#[test]
fn rule_10_the_contract_in_scope_goes_out_in_both_carriers() {
    let headers = context::sync_scope(contract(1), || {
        sent(&DevRouteClientLayer::new(), get("http://checkout/"))
    });
    assert_carries(&headers, 1);
}

#[test]
fn rule_10_other_members_are_kept() {
    let request = with(get("http://checkout/"), &[("baggage", "a=1 ,  b=%20;p=q")]);
    let headers = context::sync_scope(contract(1), || sent(&DevRouteClientLayer::new(), request));
    assert_carries(&headers, 1);
    let line = headers[carrier::BAGGAGE].to_str().unwrap();
    assert!(line.contains("a=1 ,  b=%20;p=q"), "{line}");
}

#[test]
fn rule_10_a_contract_too_long_for_baggage_goes_in_the_field_alone() {
    let entries: Vec<String> = (0..60)
        .map(|number| format!(r#""service-{number}-{}":"10.0.0.1:80""#, "x".repeat(40)))
        .collect();
    let long: Contract = format!("{{{}}}", entries.join(",")).parse().unwrap();
    let headers = context::sync_scope(long.clone(), || {
        sent(&DevRouteClientLayer::new(), get("http://checkout/"))
    });
    assert_eq!(carried(&headers), (Some(long.to_string()), None));
}

#[test]
fn extensions_come_before_the_scope() {
    let mut request = get("http://checkout/");
    request.extensions_mut().insert(contract(2));
    let headers = context::sync_scope(contract(1), || sent(&DevRouteClientLayer::new(), request));
    assert_carries(&headers, 2);
}

#[test]
fn rule_11_what_the_application_set_comes_first_and_is_completed() {
    let (same, other) = (member(3), member(4));
    for fields in [
        &[("x-devroute", text(3).as_str())][..],
        &[("x-devroute", text(3).as_str()), ("baggage", same.as_str())],
        &[
            ("x-devroute", text(3).as_str()),
            ("baggage", other.as_str()),
        ],
        &[
            ("x-devroute", text(3).as_str()),
            ("baggage", "devroute=%7B"),
        ],
    ] {
        let mut request = with(get("http://checkout/"), fields);
        request.extensions_mut().insert(contract(2));
        let headers =
            context::sync_scope(contract(1), || sent(&DevRouteClientLayer::new(), request));
        assert_carries(&headers, 3);
    }
}

/// As a service does whose OpenTelemetry SDK copies what came in: the contract beside that member
/// was another one, or the application has entered another scope since.
#[test]
fn rule_11_a_member_alone_comes_after_extensions_and_scope() {
    for baggage in [member(3).as_str(), "devroute=%7B", "devroute"] {
        let line = format!("a=1,{baggage},b=2");
        let copied = || with(get("http://checkout/"), &[("baggage", &line)]);
        context::sync_scope(contract(1), || {
            let headers = sent(&DevRouteClientLayer::new(), copied());
            assert_carries(&headers, 1);
            let ours = member(1);
            assert_eq!(headers[carrier::BAGGAGE], format!("a=1,{ours},b=2"));

            let mut request = copied();
            request.extensions_mut().insert(contract(2));
            assert_carries(&sent(&DevRouteClientLayer::new(), request), 2);
        });
    }
}

#[test]
fn rule_11_without_a_scope_the_missing_carrier_is_completed_as_well() {
    let member = member(3);
    let request = with(get("http://checkout/"), &[("baggage", &member)]);
    assert_carries(&sent(&DevRouteClientLayer::new(), request), 3);
}

#[test]
fn rule_11_a_malformed_contract_of_the_application_is_left_alone() {
    for fields in [
        &[("x-devroute", "{")][..],
        &[("x-devroute", "{}"), ("x-devroute", "{}")],
        &[("x-devroute", "{"), ("baggage", "devroute=%7B%7D")],
    ] {
        let request = with(get("http://checkout/"), fields);
        let before = request.headers().clone();
        let headers =
            context::sync_scope(contract(1), || sent(&DevRouteClientLayer::new(), request));
        assert_eq!(headers, before);
    }
    let fields = [("baggage", "a=1,devroute=%7B")];
    let request = with(get("http://checkout/"), &fields);
    let before = request.headers().clone();
    assert_eq!(sent(&DevRouteClientLayer::new(), request), before);
}

#[test]
fn an_empty_contract_of_the_application_opts_out() {
    let request = with(get("http://checkout/"), &[("x-devroute", "{}")]);
    let headers = context::sync_scope(contract(1), || sent(&DevRouteClientLayer::new(), request));
    assert_eq!(headers[carrier::CONTRACT], "{}");
    let own = carrier::read(&headers).unwrap().unwrap();
    assert!(own.is_empty());
}

#[test]
fn rule_11_to_an_external_host_nothing_of_ours_goes() {
    let member = member(3);
    let line = format!("a=1 ,{member};p, b=2");
    for (fields, other) in [
        (&[][..], None),
        (&[("x-devroute", text(3).as_str())], None),
        (&[("baggage", member.as_str())], None),
        (&[("x-devroute", "{"), ("baggage", "a=1")], Some("a=1")),
        (&[("baggage", line.as_str())], Some("a=1 , b=2")),
    ] {
        let mut request = with(get("http://example.com/"), fields);
        request.extensions_mut().insert(contract(2));
        let headers =
            context::sync_scope(contract(1), || sent(&DevRouteClientLayer::new(), request));
        assert_carries_nothing(&headers);
        let left = headers
            .get(carrier::BAGGAGE)
            .map(|line| line.to_str().unwrap());
        assert_eq!(left, other, "{fields:?}");
    }
}

#[test]
fn rule_11_the_list_of_internal_hosts_is_the_layers() {
    let layer = DevRouteClientLayer::new()
        .internal_hosts(InternalHosts::none().suffix("partner.example".parse().unwrap()));
    context::sync_scope(contract(1), || {
        assert_carries(&sent(&layer, get("https://partner.example/")), 1);
        assert_carries_nothing(&sent(&layer, get("http://checkout/")));
    });
}

#[test]
fn rule_11_the_destination_is_the_authority_then_the_layers_then_host() {
    let plain = DevRouteClientLayer::new();
    let inside = DevRouteClientLayer::new().destination(&"http://greeter:50051".parse().unwrap());
    let outside = DevRouteClientLayer::new().destination(&"https://example.com".parse().unwrap());
    let untold = DevRouteClientLayer::new().destination(&"/".parse().unwrap());
    let internal_host = [("host", "checkout:80")];
    let external_host = [("host", "example.com")];

    context::sync_scope(contract(1), || {
        // The request's own authority wins over all.
        let request = with(get("http://checkout/"), &external_host);
        assert_carries(&sent(&outside, request), 1);
        let request = with(get("http://example.com/"), &internal_host);
        assert_carries_nothing(&sent(&inside, request));

        // Then what the layer was told.
        assert_carries(&sent(&inside, with(get("/"), &external_host)), 1);
        assert_carries_nothing(&sent(&outside, with(get("/"), &internal_host)));

        // Then `Host`.
        assert_carries(&sent(&plain, with(get("/"), &internal_host)), 1);
        assert_carries(&sent(&untold, with(get("/"), &internal_host)), 1);
        assert_carries_nothing(&sent(&plain, with(get("/"), &external_host)));
    });
}

#[test]
fn rule_11_to_an_unknown_destination_nothing_is_attached_or_removed() {
    let layer = DevRouteClientLayer::new();
    context::sync_scope(contract(1), || {
        assert_carries_nothing(&sent(&layer, get("/")));
        for hosts in [
            &[("host", "checkout"), ("host", "checkout")][..],
            &[("host", "")],
            &[("host", "check out")],
        ] {
            assert_carries_nothing(&sent(&layer, with(get("/"), hosts)));
        }
        let own = with(get("/"), &[("x-devroute", &text(3))]);
        let before = own.headers().clone();
        assert_eq!(sent(&layer, own), before);
    });
}

#[test]
fn rule_07_a_copied_matched_field_goes_no_further() {
    for uri in ["http://checkout/", "http://example.com/", "/"] {
        let request = with(get(uri), &[("x-devroute-matched", "foo"), ("x-other", "1")]);
        let headers = sent(&DevRouteClientLayer::new(), request);
        assert!(!headers.contains_key(carrier::MATCHED), "{uri}");
        assert_eq!(headers["x-other"], "1");
    }
}

#[tokio::test]
async fn poll_ready_and_the_error_are_the_inner_services() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Request<()>, &'static str, _>(DevRouteClientLayer::new());
    handle.allow(0);
    tokio_test::assert_pending!(service.poll_ready());
    handle.allow(1);
    tokio_test::assert_ready_ok!(service.poll_ready());

    let response = service.call(get("/"));
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_error("as it came");
    assert_eq!(response.await.unwrap_err().to_string(), "as it came");
}

#[tokio::test]
async fn method_uri_body_and_extensions_pass_unchanged() {
    let inner =
        service_fn(|request: Request<&'static str>| async move { Ok::<_, Infallible>(request) });
    let request = Request::put("http://checkout:80/a%2Fb?c#d")
        .extension(7u8)
        .body("body")
        .unwrap();
    let service = DevRouteClientLayer::new().layer(inner);
    let request = context::scope(contract(1), service.oneshot(request))
        .await
        .unwrap();
    assert_eq!(request.method(), "PUT");
    assert_eq!(request.uri(), "http://checkout:80/a%2Fb?c");
    assert_eq!(request.extensions().get::<u8>(), Some(&7));
    assert_eq!(*request.body(), "body");
}

#[test]
fn outgoing_headers_follow_the_same_guard() {
    let inside = "http://checkout/".parse().unwrap();
    assert!(outgoing_headers(&inside).is_empty());

    context::sync_scope(contract(1), || {
        assert_carries(&outgoing_headers(&inside), 1);
        for uri in ["http://example.com/", "https://8.8.8.8/", "/checkout"] {
            assert!(outgoing_headers(&uri.parse().unwrap()).is_empty(), "{uri}");
        }

        let hosts = InternalHosts::none().suffix(".partner.example".parse().unwrap());
        assert!(hosts.outgoing_headers(&inside).is_empty());
        let partner = "https://api.partner.example/".parse().unwrap();
        assert_carries(&hosts.outgoing_headers(&partner), 1);
    });
}

/// Documented: tower's `Buffer` calls what is inside of it on a task of its own.
#[tokio::test]
async fn a_buffer_belongs_below_the_layer() {
    let client = service_fn(|request: Request<()>| async move {
        Ok::<_, Infallible>(Response::new(request.headers().clone()))
    });
    let below = DevRouteClientLayer::new().layer(Buffer::new(client, 1));
    let call = below.oneshot(get("http://checkout/"));
    let response = context::scope(contract(1), call).await.unwrap();
    assert_carries(response.body(), 1);

    let around = Buffer::new(DevRouteClientLayer::new().layer(client), 1);
    let call = around.clone().oneshot(get("http://checkout/"));
    let response = context::scope(contract(1), call).await.unwrap();
    assert_carries_nothing(response.body());
    // The way out where it cannot be moved.
    let mut request = get("http://checkout/");
    request.extensions_mut().insert(contract(1));
    assert_carries(around.oneshot(request).await.unwrap().body(), 1);
}

#[test]
fn prepare_does_what_the_service_does() {
    let layer = DevRouteClientLayer::new().destination(&"http://greeter".parse().unwrap());
    let member = member(3);
    let cases: [&[(&'static str, &str)]; 5] = [
        &[],
        &[("x-devroute", &text(3))],
        &[("baggage", &member)],
        &[("baggage", "a=1"), ("baggage", "b=2")],
        &[("x-devroute", "{"), ("x-devroute-matched", "foo")],
    ];
    let all = || {
        for fields in cases {
            for uri in ["http://checkout/", "http://example.com/", "/"] {
                let request = with(get(uri), fields);
                let mut headers = request.headers().clone();
                layer.prepare(request.uri(), &mut headers);
                assert_eq!(headers, sent(&layer, request), "{uri} {fields:?}");
            }
        }
    };
    all();
    context::sync_scope(contract(1), all);
}

#[test]
fn rule_11_a_redirect_may_be_followed_where_the_contract_does_not_leave() {
    let hosts = InternalHosts::default();
    let [inside, other, outside, nowhere] = [
        "http://checkout/",
        "https://10.0.0.1:8443/",
        "http://example.com/",
        "/",
    ]
    .map(|uri| uri.parse().unwrap());
    assert!(hosts.may_follow(&inside, &outside), "without a contract");
    context::sync_scope(contract(1), || {
        for (from, to, may) in [
            (&inside, &other, true),
            (&inside, &outside, false),
            (&inside, &nowhere, false),
            (&outside, &outside, true),
            (&outside, &inside, true),
        ] {
            assert_eq!(hosts.may_follow(from, to), may, "{from} -> {to}");
        }
    });
}

#[test]
fn auto_traits() {
    fn layer<T: Clone + Send + Sync + 'static>() {}
    layer::<DevRouteClientLayer>();
    layer::<DevRouteClient<()>>();
    layer::<InternalHosts>();
    fn same_future<S: Service<Request<()>>>()
    where
        DevRouteClient<S>:
            Service<Request<()>, Response = S::Response, Error = S::Error, Future = S::Future>,
    {
    }
    same_future::<tower::util::BoxService<Request<()>, (), Infallible>>();
}
