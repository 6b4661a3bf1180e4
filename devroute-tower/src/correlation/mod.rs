//! Contracts for services that pass on one correlating id and nothing else.
//!
//! A sidecar sees the requests that come to its service and the requests that the service makes. Where
//! the service loses the contract in between but keeps an id, the id says which request caused which:
//!
//! 1. [`Remember`] is in front of the service. Of a request with a contract it remembers the contract by
//!    each id that it has. One that has none gets a `traceparent`. A request without a contract costs a
//!    look at its extensions.
//! 2. [`Restore`] is behind the service, in front of a
//!    [`DevRouteClientLayer`](crate::DevRouteClientLayer). A request to an internal host that has no
//!    contract of its own gets the one that is remembered for its ids.
//! 3. [`Correlations`] is what they share.
//!
//! # Ids
//!
//! | field | the id in it |
//! |---|---|
//! | `traceparent` | the trace id (W3C Trace Context, section 3.2.2.3) |
//! | `b3` | the trace id, where there is one |
//! | `x-b3-traceid` | all of it: 16 or 32 hexadecimal digits |
//! | `uber-trace-id` | the trace id |
//! | `x-cloud-trace-context` | the trace id |
//! | `x-datadog-trace-id` | all of it: a decimal number |
//! | `x-request-id` | all of it, up to 128 bytes |
//!
//! Ids are compared exactly. The trace ids of the first five are one kind: a service that takes `b3` and
//! sends `traceparent` is understood. A B3 id of 64 bits and the same one padded to 128 are two
//! different ids: to take one for the other would also take two traces for one that have the same
//! lower half. A field that comes twice, or has no valid id in it, has none.
//!
//! # How long, and how many
//!
//! An id is alive as long as a request that brought it is in flight, to the end of its answer or its
//! tunnel, and for a grace period after that. An id that comes with two different contracts while it
//! is alive is ambiguous, and restores nothing until it is forgotten. The table is bounded in entries and
//! bytes; where it is full those go first whose requests are over, and of them about the quietest.
//!
//! An id has to belong to one request and what that causes. Where clients send one for many requests,
//! those that carry the same id share the contract.
//!
//! # What is lost
//!
//! A request to an internal host that nothing is known about, while a request with a contract is in
//! flight, is counted ([`Loss`]) and written to the log once a minute: there a contract was
//! probably lost. It is a hint only: requests without a contract may be in flight as well.
//!
//! ```
//! use devroute_tower::{DevRouteClientLayer, DevRouteLayer};
//! use devroute_tower::correlation::{Correlations, RememberLayer, RestoreLayer};
//! use devroute_tower::transport::{Forwarder, HttpTransport, Upstream};
//! use tower::ServiceBuilder;
//!
//! // A sidecar with both listeners.
//! let correlations = Correlations::new();
//! let inbound = ServiceBuilder::new()
//!     .layer(DevRouteLayer::new("foo").write_carriers(true))
//!     .layer(RememberLayer::new(correlations.clone()))
//!     .service(Upstream::new(HttpTransport::new(), "127.0.0.1:8080".parse()?));
//! let outbound = ServiceBuilder::new()
//!     .layer(RestoreLayer::new(correlations))
//!     .layer(DevRouteClientLayer::new())
//!     .service(Forwarder::new(HttpTransport::new()));
//! # let _ = (inbound, outbound);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

mod id;
mod in_flight;
mod remember;
mod restore;
mod stats;
mod table;

pub(crate) use self::in_flight::InFlight;
pub use self::{
    id::IdKind,
    remember::{Remember, RememberLayer, RememberedBody, ResponseFuture},
    restore::{Restore, RestoreLayer},
    stats::{Loss, Stats},
    table::Correlations,
};
