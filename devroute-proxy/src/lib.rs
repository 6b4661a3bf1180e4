//! The parts of the `devroute` binary: one process, one mode, a short composition of the layers of
//! `devroute-tower`.
//!
//! - [`router`] and [`sidecar`] are what runs in a cluster. What a request goes through there is
//!   written down in `stack.rs`, and decided in `devroute-tower`: nothing here knows how.
//! - [`hub`] and [`connect`] are for laptops that the cluster cannot reach: `devroute-tunnel`, composed.
//! - [`contract`] and [`explain`] are for the command line, [`demo`] is the whole story on loopback.
//! - [`cli`] and [`config`] turn flags, environment and file into typed configuration, once.
//! - [`server`] accepts and drains; [`shutdown`] says when. [`metrics`], [`records`] and [`admin`]
//!   tell what happened.
//!
//! As a library it serves this binary and the tests of it, and is no stable interface. A service
//! that wants to do what a sidecar does embeds `devroute-tower`.
//!
//! A sidecar, in a program of its own:
//!
//! ```
//! use devroute_proxy::config::SidecarConfig;
//! use devroute_proxy::{shutdown, sidecar::Sidecar};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let (listen, upstream) = ("127.0.0.1:0".parse()?, "127.0.0.1:8081".parse()?);
//! let config = SidecarConfig::new("checkout".parse()?, listen, upstream);
//! let (trigger, signal) = shutdown::channel();
//!
//! let sidecar = Sidecar::bind(config).await?;
//! assert_ne!(sidecar.address().port(), 0);
//! trigger.shut_down();
//! assert_eq!(sidecar.serve(signal).await?.abandoned, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod admin;
mod agent;
mod answer;
pub mod authorized;
pub mod cli;
pub mod config;
pub mod connect;
pub mod contract;
pub mod demo;
mod entry;
pub mod explain;
mod files;
mod front;
pub mod hub;
mod log_budget;
mod machine;
pub mod manifests;
pub mod metrics;
mod observe;
mod outbound;
pub mod print;
mod process;
mod reach;
pub mod records;
mod resolve;
pub mod router;
pub mod run;
pub mod server;
pub mod shutdown;
pub mod sidecar;
mod sign;
mod signature;
mod stack;
pub mod telemetry;
mod verdict;

pub use self::process::ServeError;
