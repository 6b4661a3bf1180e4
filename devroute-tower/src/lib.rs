#![doc = include_str!("lib.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use devroute_core as core;

mod abandoned;
mod bounds;
pub mod context;
pub mod correlation;
mod failure;
mod forward;
mod forwarded;
pub mod hop;
pub mod inbound;
mod mode;
mod no_retry;
pub mod outbound;
mod outcome;
#[cfg(feature = "reqwest")]
pub mod reqwest;
mod reroute;
pub mod transport;
mod unwritten;

pub use self::{
    abandoned::OnAbandoned,
    forwarded::{ClientInfo, ForwardedFields},
    inbound::{DevRoute, DevRouteLayer, ResponseBody},
    mode::{Mode, ParseModeError},
    outbound::{DevRouteClient, DevRouteClientLayer},
    outcome::{Outcome, OutcomeKind},
    reroute::OnFailure,
    unwritten::OnUnwritten,
};

/// Any error, boxed.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The README's snippets are tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "tls"))]
#[doc = include_str!("../../docs/tls.md")]
struct Tls;
