//! Load on the built binary: how much memory a connection takes, and whether it stays the same.
//!
//! ```console
//! cargo test --release -p devroute-proxy --test load -- idle
//! cargo test --release -p devroute-proxy --test load -- mixed --seconds 1800
//! cargo test --release -p devroute-proxy --test load -- mix --requests 10000000
//! cargo test --release -p devroute-proxy --test load -- attack all --seconds 60
//! cargo test --release -p devroute-proxy --test load -- tunnel
//! cargo test --release -p devroute-proxy --test load -- cost --connections 2000
//! DEVROUTE_BIN=... cargo test -p devroute-proxy --test load -- profile --seconds 5
//! ```
//!
//! - `idle`: 10,000 connections that had one request each and wait for the next, and 2,000 that do not
//!   stop asking. No request may fail, and an idle connection may take 16 KiB.
//! - `mixed`: HTTP/1.1, HTTP/2, gRPC, WebSocket, reroutes, targets that fail and clients that go away,
//!   all at once. Nothing may be answered with anything but what it should be, and memory and open
//!   files have to be as they were.
//! - `cost`: a router that is asked without a pause: what HTTP/1.1, gRPC and large bodies take of
//!   a core, and what requests that wait take of memory and files, of which there are `--connections`.
//! - `mix`: requests for 64 targets, each with a contract of its own; clients go away, and targets close,
//!   reset and send too much. No answer may be another request's, or another target's.
//! - `attack`: what hostile clients and targets do, one after the other or the one that is named; see
//!   `attack/mod.rs`.
//! - `tunnel`: 500 laptops at one hub with 5 requests each, in 512 MiB; and what a request through hub and laptop costs, in
//!   what it costs at a router: twice its processor time and 300 us at most, which is judged in a release build.
//! - `profile`: every kind of request that is to cost little, and all of the above for a while. It judges nothing but the
//!   answers; `deploy/image/build` has a program run through it that counts what it does.
//!
//! `$DEVROUTE_BIN` is another binary than the one that was built with this program.
//!
//! Everything is on loopback. The service and the laptop are in this process, the proxy is another.
//! What the system does not allow (open files) is said loudly, and done with less.
//!
//! It runs when it is asked for, and not with the other tests.
// For clippy: this is a test.
#![cfg(test)]
#![allow(clippy::print_stdout, reason = "it is a program that reports")]

mod asking;
mod attack;
mod cost;
mod crowd;
mod idle;
mod mix;
mod mixed;
mod peers;
mod profile;
mod proxy;
mod tunnel;

use std::process::ExitCode;
use std::time::Duration;

/// What is asked for on the command line.
#[derive(Debug)]
struct Settings {
    connections: usize,
    active: usize,
    seconds: u64,
    requests: u64,
    targets: usize,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let mut settings = Settings {
        connections: 10_000,
        active: 2_000,
        seconds: 30,
        requests: 100_000,
        targets: 64,
    };
    let mut attack = String::new();
    if what == "attack" {
        attack = arguments.next().unwrap_or_default();
    }
    while let Some(argument) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (&*argument, value) {
            ("--connections", Some(value)) => settings.connections = value,
            ("--active", Some(value)) => settings.active = value,
            ("--seconds", Some(value)) => settings.seconds = value as u64,
            ("--requests", Some(value)) => settings.requests = value as u64,
            ("--targets", Some(value)) => settings.targets = value,
            _ => return usage(),
        }
    }
    let seconds = Duration::from_secs(settings.seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let passed = match &*what {
        "idle" => runtime.block_on(idle::run(&settings)),
        "cost" => runtime.block_on(cost::run(&settings)),
        "mix" => runtime.block_on(mix::run(&settings)),
        "mixed" => runtime.block_on(mixed::run(seconds)),
        "profile" => runtime.block_on(profile::run(&settings)),
        "tunnel" => runtime.block_on(tunnel::run(&settings)),
        "attack" => runtime.block_on(attack::run(&attack, seconds)),
        _ => return usage(),
    };
    println!("{}", if passed { "passed" } else { "FAILED" });
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn usage() -> ExitCode {
    println!(
        "load idle [--connections N] [--active N] [--seconds N] | load mixed [--seconds N] \
         | load mix [--requests N] [--targets N] | load attack NAME|all [--seconds N] \
         | load tunnel [--connections N] [--seconds N] | load cost [--connections N] [--seconds N] \
         | load profile [--seconds N]"
    );
    ExitCode::from(64)
}
