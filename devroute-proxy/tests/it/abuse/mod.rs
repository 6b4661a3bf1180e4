//! Input that is made to be read in two ways: one request in is at most one request out, and means to the
//! target what it means here; else it is refused and the connection closed.
//!
//! The payloads are data (`tests/payloads/`). What a client has sent, and what the target got, is told by
//! the same reader of RFC 9112 (`reader.rs`), which has nothing to do with what is tested.

mod payloads;
mod reader;
mod recorder;
mod requests;
mod responses;
mod same;
