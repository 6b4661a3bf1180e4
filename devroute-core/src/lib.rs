//! Contracts of devroute: bytes in, decision out.
//!
//! A request can say which services it wants answered by something else than their ordinary instances, by a
//! laptop for example:
//!
//! ```text
//! x-devroute: {"foo":"192.168.1.12:8001","bar":"10.8.0.7:9000"}
//! ```
//!
//! That is its *contract*. This crate reads contracts, decides with them, and carries them, by the rules in
//! `docs/contract.md`. It opens no connection, resolves no name, needs no runtime, and allocates nothing for a
//! request that carries no contract.
//!
//! | to | use |
//! |---|---|
//! | decide who answers a request | [`Selector`] with a [`TargetPolicy`] |
//! | read, inspect, or make a contract | [`Contract`] |
//! | take a contract from header fields, or put it into them | [`carrier`] |
//! | count how often a request was rerouted | [`via`] |
//! | sign contracts, and obey signed ones only | `signature`, with the feature of that name |
//!
//! # A decision
//!
//! ```
//! use devroute_core::{Decision, Permit, Selector, ServiceName, TargetPolicy};
//!
//! let foo = Selector::new(ServiceName::new("foo")?, TargetPolicy::default());
//!
//! let mut headers = http::HeaderMap::new();
//! headers.insert("x-devroute", r#"{"foo":"192.168.1.12:8001"}"#.parse()?);
//!
//! match foo.decide(&headers)? {
//!     Decision::Reroute(reroute) => {
//!         assert_eq!(reroute.permit, Permit::Address("192.168.1.12:8001".parse()?));
//!     }
//!     other => panic!("{other:?}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The service `bar` sees the same contract, finds no entry of its own, and answers itself. A contract that names
//! an address outside the policy is an error that says what to do:
//!
//! ```
//! # use devroute_core::{DecisionErrorKind, Selector, ServiceName, TargetPolicy};
//! # let foo = Selector::new(ServiceName::new("foo")?, TargetPolicy::default());
//! # let mut headers = http::HeaderMap::new();
//! headers.insert("x-devroute", r#"{"foo":"69.145.32.56:9001"}"#.parse()?);
//!
//! let error = foo.decide(&headers).unwrap_err();
//! assert_eq!(error.kind(), DecisionErrorKind::Refused);
//! assert_eq!(
//!     error.refusal().unwrap().to_string(),
//!     "69.145.32.56:9001 is refused: a public address is not allowed here; use a private one, \
//!      or the deployment can allow its network"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod carrier;
mod contract;
mod decision;
mod error;
mod parse;
mod policy;
mod service_name;
#[cfg(feature = "signature")]
#[cfg_attr(docsrs, doc(cfg(feature = "signature")))]
pub mod signature;
#[cfg(not(feature = "signature"))]
mod signature;
mod target;
mod text;
pub mod via;

pub use self::contract::{Contract, ContractBuilder, Entries, Reserved};
pub use self::decision::{
    BaselineReason, Decision, DecisionError, DecisionErrorKind, Reroute, Selector, decide,
};
pub use self::error::{
    ContractError, ContractErrorKind, ServiceNameError, ServiceNameErrorKind, TargetError,
    TargetErrorKind,
};
pub use self::policy::{
    HostSuffix, HostSuffixError, NetworkRule, NetworkRuleError, Permit, Refusal, RefusalReason,
    TargetPolicy,
};
pub use self::service_name::ServiceName;
pub use self::signature::{SignatureError, SignatureErrorKind};
pub use self::target::{Host, HostName, Scheme, Target};
