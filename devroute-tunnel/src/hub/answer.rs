//! What a hub answers in place of a laptop (rule 12).

use std::time::SystemTime;

use devroute_tower::core::ServiceName;
use devroute_tower::hop::Problem;
use http::StatusCode;

use super::session::Holder;

/// The laptop is not there.
pub(super) fn gone(service: &ServiceName, holder: &Holder, since: SystemTime) -> Problem {
    let since = httpdate::fmt_http_date(since);
    Problem::new(
        StatusCode::BAD_GATEWAY,
        "laptop_disconnected",
        "destination_unavailable",
    )
    .detail(format!(
        "{service} is to be answered by the laptop of {holder}, which disconnected at {since}."
    ))
    .help(
        "See whether `devroute connect` still runs there: as soon as it is back, this address answers again.",
    )
    .service(service.clone())
}

/// The laptop went away while it was answering.
pub(super) fn cut(service: &ServiceName, holder: &Holder) -> Problem {
    Problem::new(
        StatusCode::BAD_GATEWAY,
        "laptop_disconnected",
        "connection_terminated",
    )
    .detail(format!(
        "{service} was being answered by the laptop of {holder}, which disconnected meanwhile."
    ))
    .help("It may have done some of what was asked for. See whether `devroute connect` still runs there.")
    .service(service.clone())
}

/// The laptop has given up on this request.
pub(super) fn reset(service: &ServiceName, holder: &Holder) -> Problem {
    Problem::new(
        StatusCode::BAD_GATEWAY,
        "laptop_reset",
        "connection_terminated",
    )
    .detail(format!(
        "{service} was being answered by the laptop of {holder}, which broke off."
    ))
    .help("See what `devroute connect` says there.")
    .service(service.clone())
}

/// There are as many requests to the laptop as there may be.
pub(super) fn busy(service: &ServiceName, holder: &Holder, limit: u32) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too_many_requests_to_laptop",
        "connection_limit_reached",
    )
    .detail(format!(
        "The laptop of {holder} answers {limit} requests already, and may not get more at a time."
    ))
    .help("Try again, or allow more with --max-laptop-streams at the hub.")
    .service(service.clone())
}

/// Whoever asks is not from a network that may.
pub(super) fn source(service: &ServiceName) -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "source_not_allowed",
        "http_request_denied",
    )
    .detail(format!(
        "Requests for {service} are not taken from this address."
    ))
    .help("Call it from the cluster, or name this network with --from at the hub.")
    .service(service.clone())
}

/// The request was rerouted for another service.
pub(super) fn misdirected(service: &ServiceName, holder: &Holder) -> Problem {
    Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        "other_service",
        "destination_not_found",
    )
    .detail(format!(
        "At this address is {service} of {holder}, and the request is for another service."
    ))
    .help(
        "The contract is an old one, whose address has another holder now: take the one that `devroute connect` \
         prints.",
    )
    .service(service.clone())
}
