//! A hub and laptops in one process, over loopback.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in tests, helpers included, a panic is the message; clippy.toml covers only #[test]"
)]

mod sessions;
mod streams;
mod support;
