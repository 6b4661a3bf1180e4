//! What passes the layer is what was sent, watched or not.

use std::convert::Infallible;

use devroute_inspector::{InspectBody, Inspector, Limits};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::support::{Desk, Frames, answering};

/// Both ways of an inspector: nobody looks, and somebody does.
async fn both() -> [(&'static str, Inspector, Option<Desk>); 2] {
    let desk = Desk::open().await;
    let watched = ("watched", desk.inspector.clone(), Some(desk));
    [("closed", Inspector::new(), None), watched]
}

#[tokio::test]
async fn frames_trailers_lengths_and_ends_pass_as_they_are() {
    for (way, inspector, _desk) in both().await {
        let service = inspector.layer("foo").layer(service_fn(
            async |request: Request<InspectBody<Frames>>| {
                let mut body = request.into_body();
                assert_eq!(body.size_hint().exact(), Some(3));
                assert!(!body.is_end_stream());
                let mut frames = Vec::new();
                while let Some(frame) = body.frame().await {
                    frames.push(frame.unwrap().into_data().unwrap());
                }
                assert_eq!(frames, ["a", "bc"], "frame by frame");
                assert!(body.is_end_stream());
                let body = Frames::of(&["x", "yz"]).trailer("grpc-status", "0");
                Ok::<_, Infallible>(Response::new(body.length(3)))
            },
        ));
        let request = Request::new(Frames::of(&["a", "bc"]).length(3));
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.body().size_hint().exact(), Some(3), "{way}");
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0", "{way}");
        assert_eq!(body.to_bytes(), "xyz", "{way}");
    }
}

#[tokio::test]
async fn an_empty_body_is_at_its_end_from_the_beginning() {
    for (way, inspector, _desk) in both().await {
        let service = inspector.layer("foo").layer(service_fn(
            async |request: Request<InspectBody<Frames>>| {
                assert!(request.body().is_end_stream());
                Ok::<_, Infallible>(Response::new(Frames::default()))
            },
        ));
        let response = service
            .oneshot(Request::new(Frames::default()))
            .await
            .unwrap();
        assert!(response.body().is_end_stream(), "{way}");
    }
}

#[tokio::test]
async fn an_error_is_the_services_own() {
    for (way, inspector, _desk) in both().await {
        let service = inspector.layer("foo").layer(service_fn(
            async |_: Request<InspectBody<Frames>>| -> Result<Response<Frames>, &'static str> {
                Err("refused")
            },
        ));
        let error = service.oneshot(Request::new(Frames::default())).await;
        assert_eq!(error.unwrap_err(), "refused", "{way}");
    }
}

/// Extensions are where servers keep the upgrade to come.
#[tokio::test]
async fn extensions_pass_in_both_directions() {
    #[derive(Clone, Debug, PartialEq)]
    struct OnUpgrade(u8);
    for (way, inspector, _desk) in both().await {
        let service = inspector.layer("foo").layer(service_fn(
            async |request: Request<InspectBody<Frames>>| {
                assert_eq!(request.extensions().get(), Some(&OnUpgrade(1)));
                let mut response = Response::new(Frames::default());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.extensions_mut().insert(OnUpgrade(2));
                Ok::<_, Infallible>(response)
            },
        ));
        let mut request = Request::new(Frames::default());
        request.extensions_mut().insert(OnUpgrade(1));
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.extensions().get(), Some(&OnUpgrade(2)), "{way}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_breaks_off() {
    for (way, inspector, _desk) in both().await {
        let service = inspector.layer("foo").layer(service_fn(async |request| {
            answering::<InspectBody<Frames>>(request, Frames::of(&["x"]).fails("cut")).await
        }));
        let response = service
            .oneshot(Request::new(Frames::default()))
            .await
            .unwrap();
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(body.frame().await.unwrap().unwrap_err(), "cut", "{way}");
    }
}

#[test]
fn the_types_go_where_services_go() {
    fn is_layer<T: Clone + Send + Sync + 'static>(_: &T) {}
    let layer = Inspector::with_limits(Limits::default()).layer("foo");
    is_layer(&layer);
    is_layer(&layer.layer(()));
}

#[tokio::test]
async fn what_is_kept_is_not_shown_for_debugging() {
    let desk = Desk::open().await;
    let layer = desk.inspector.layer("foo");
    let service = layer.layer(service_fn(async |request: Request<InspectBody<Frames>>| {
        let body = request.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "a-body");
        let answer = Response::builder().header("set-cookie", "a-cookie");
        Ok::<_, Infallible>(answer.body(Frames::of(&["an-answer"])).unwrap())
    }));
    let request = Request::get("/a-path")
        .header("authorization", "a-token")
        .body(Frames::of(&["a-body"]))
        .unwrap();
    let answer = service.oneshot(request).await.unwrap();
    answer.into_body().collect().await.unwrap();
    let shown = format!("{:?} {layer:?}", desk.inspector);
    assert!(shown.contains("exchanges: 1"), "{shown}");
    for value in ["a-path", "a-token", "a-body", "a-cookie", "an-answer"] {
        assert!(!shown.contains(value), "{value} in {shown}");
        let bytes = format!("{:?}", value.as_bytes());
        assert!(
            !shown.contains(bytes.trim_matches(['[', ']'])),
            "{value} in {shown}"
        );
    }
}
