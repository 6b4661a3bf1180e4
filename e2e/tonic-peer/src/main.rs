//! The service of `echo.proto` on tonic, and a client that uses it in every way there is.
//!
//! ```console
//! $ tonic-peer serve
//! listening on 127.0.0.1:40000
//! $ tonic-peer call 127.0.0.1:40000 'x-devroute: {"checkout":"127.0.0.1:40001"}'
//! ```
//!
//! The client ends with 0 if everything was as it should be, and says what was not. Fields after the
//! address go with each call.

#![allow(clippy::print_stdout, reason = "whoever starts it reads it")]

use std::{env, error::Error};

mod client;
mod echo;
mod server;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["serve"] => server::serve().await,
        ["call", addr, fields @ ..] => client::call(addr, fields).await,
        ["fail", addr, fields @ ..] => client::fail(addr, fields).await,
        _ => Err("serve, call ADDR [FIELD], or fail ADDR [FIELD]".into()),
    }
}
