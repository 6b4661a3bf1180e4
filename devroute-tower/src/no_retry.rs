//! A rerouted request is sent once: what failed is marked so that nobody on the way sends it again.
//!
//! Meshes repeat what failed. By Istio's defaults a gRPC call that ends as `unavailable` is sent three times, by many a
//! route everything that ends in 5xx. A laptop that is not there is not there the second time either, and one that
//! answers 500, or takes half an hour at a breakpoint, has had its request. So a failure says that it is final, in
//! the words that are understood:
//!
//! - `x-envoy-ratelimited`: Envoy does not retry an answer with this field, whatever its value (unless the policy
//!   names `envoy-ratelimited`).
//! - `grpc-retry-pushback-ms: -1`: a gRPC client with a retry policy of its own does not retry (gRFC A6). It goes on
//!   our own answers only; what a laptop tells its clients is its own business.
//!
//! What has nothing to do with a contract, a baseline that is down say, is not marked: there a retry may help.

use http::{HeaderMap, HeaderName, HeaderValue, Response};

const ENVOY: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const GRPC: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Marks an answer of ours.
pub(crate) fn mark(headers: &mut HeaderMap) {
    headers.insert(ENVOY, HeaderValue::from_static("true"));
    if headers.contains_key(GRPC_STATUS) {
        headers.insert(GRPC, HeaderValue::from_static("-1"));
    }
}

/// Marks a target's answer, if a proxy could take it for a failure by its head.
pub(crate) fn mark_if_failed<B>(response: &mut Response<B>) {
    let is_grpc_failure = response
        .headers()
        .get(GRPC_STATUS)
        .is_some_and(|status| status != "0");
    if response.status().is_server_error() || is_grpc_failure {
        response
            .headers_mut()
            .insert(ENVOY, HeaderValue::from_static("true"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(status: u16, grpc_status: Option<&str>) -> HeaderMap {
        let mut response = Response::builder().status(status);
        if let Some(grpc_status) = grpc_status {
            response = response.header(GRPC_STATUS, grpc_status);
        }
        let mut response = response.body(()).unwrap();
        mark_if_failed(&mut response);
        response.into_parts().0.headers
    }

    #[test]
    fn a_targets_answer_is_marked_only_if_its_head_says_that_it_failed() {
        for (status, grpc_status) in [(500, None), (503, None), (200, Some("14"))] {
            let headers = marked(status, grpc_status);
            assert!(headers.contains_key(ENVOY), "{status} {grpc_status:?}");
            assert!(!headers.contains_key(GRPC), "{status} {grpc_status:?}");
        }
        for (status, grpc_status) in [(200, None), (404, None), (101, None), (200, Some("0"))] {
            let headers = marked(status, grpc_status);
            assert!(!headers.contains_key(ENVOY), "{status} {grpc_status:?}");
        }
    }
}
