//! One binary: every test here talks to real servers on loopback.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in tests, helpers included, a panic is the message; clippy.toml covers only #[test]"
)]

mod connects;
mod context;
mod correlation;
mod egress;
mod forwarder;
mod hyper_util_client;
mod inbound;
mod opentelemetry;
mod outbound;
mod outbound_reroute;
mod outbound_support;
mod panics;
#[cfg(feature = "reqwest")]
mod reqwest;
mod rule_11_outside;
mod rule_12_failures;
mod rule_13_fallback;
#[cfg(feature = "signature")]
mod rule_15_signatures;
mod rule_16_forwarding;
mod rule_17_protocols;
mod rule_20_cookie;
mod scope;
mod servers;
mod span;
mod stress;
mod support;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_support;
#[cfg(feature = "tls")]
mod tls_upstream;
mod tonic_client;
mod transport;
mod transport_h2;
mod wakeups;
