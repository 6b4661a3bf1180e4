//! The layer in front of small services, and the page as a client sees it.
// For clippy: the helpers here are tests as much as the functions that use them.
#![cfg(test)]

mod cost;
mod guard;
mod layer;
mod recorded;
mod replay;
mod support;
