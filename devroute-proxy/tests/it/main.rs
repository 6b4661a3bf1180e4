//! The proxy from outside: real listeners on loopback, real clients, and the built binary.
//!
//! `support` is a small language of fake clients and servers, so that a test reads as a story.
// For clippy: the helpers here are tests as much as the functions that use them.
#![cfg(test)]

mod abuse;
mod admin;
mod black_holes;
mod bodies;
mod config;
mod correlation;
mod demo;
mod exchanges;
mod gone;
mod lifecycle;
mod limits;
mod outbound;
mod panics;
mod reach;
mod restart;
mod router;
mod sidecar;
mod signatures;
mod signing;
mod streaming;
mod support;
mod tls;
mod tools;
