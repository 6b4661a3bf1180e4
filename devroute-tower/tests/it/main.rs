//! The layers against real clients and servers on loopback.

mod context;
mod egress;
mod hyper_util_client;
mod outbound;
mod outbound_support;
#[cfg(feature = "reqwest")]
mod reqwest;
mod stress;
mod tonic_client;
