//! The settings of time-outs, limits and drains.

use clap::Args;

use super::{ConfigError, Settings, value};
use crate::server::{Drain, Limits, Timers};

/// How long clients may take.
#[derive(Args, Debug)]
#[command(next_help_heading = "Time-outs (none of them ends a request that is being answered)")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct TimerArgs {
    /// Longest wait for the first byte on a connection [default: 30s]
    #[arg(long, env = "DEVROUTE_FIRST_BYTE_TIMEOUT", value_name = "TIME")]
    pub first_byte_timeout: Option<String>,
    /// Longest time for a TLS handshake, and for a head from its first byte to its last
    /// [default: 10s]
    #[arg(long, env = "DEVROUTE_HEAD_TIMEOUT", value_name = "TIME")]
    pub head_timeout: Option<String>,
    /// How long a connection may have no request on it, or `off` [default: 65m]
    #[arg(long, env = "DEVROUTE_IDLE_TIMEOUT", value_name = "TIME|off")]
    pub idle_timeout: Option<String>,
    /// How long to accept connections after SIGTERM, when readiness is gone already [default: 0s]
    #[arg(long, env = "DEVROUTE_DRAIN_DELAY", value_name = "TIME")]
    pub drain_delay: Option<String>,
    /// How long idle HTTP/1 connections may bring one more request after that [default: 2s]
    #[arg(long, env = "DEVROUTE_DRAIN_GRACE", value_name = "TIME")]
    pub drain_grace: Option<String>,
    /// How long requests and tunnels may finish after that [default: 30s]
    #[arg(long, env = "DEVROUTE_DRAIN_TIMEOUT", value_name = "TIME")]
    pub drain_timeout: Option<String>,
}

/// How much clients may take.
#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct LimitArgs {
    /// Connections of clients at a time; more get 503 [default: 16384, or what the limit of open
    /// files leaves room for]
    #[arg(long, env = "DEVROUTE_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<String>,
    /// Connections at a time of one client (an IPv4 address, a /64 of IPv6), or `off`; more get 503
    /// [default: off]
    #[arg(
        long,
        env = "DEVROUTE_MAX_CONNECTIONS_PER_CLIENT",
        value_name = "N|off"
    )]
    pub max_connections_per_client: Option<String>,
    /// Concurrent streams of an HTTP/2 connection [default: 256]
    #[arg(long, env = "DEVROUTE_MAX_STREAMS", value_name = "N")]
    pub max_streams: Option<String>,
    /// Size of a request's head, or of its header list in HTTP/2; more gets 431 [default: 64KiB]
    #[arg(long, env = "DEVROUTE_MAX_HEAD_SIZE", value_name = "SIZE")]
    pub max_head_size: Option<String>,
    /// Header fields of a request; more get 431 [default: 100]
    #[arg(long, env = "DEVROUTE_MAX_HEADERS", value_name = "N")]
    pub max_headers: Option<String>,
    /// Size of a request's body, or `off`; more gets 413 [default: off]
    #[arg(long, env = "DEVROUTE_MAX_BODY", value_name = "SIZE|off")]
    pub max_body: Option<String>,
}

pub(super) fn drain(settings: &Settings) -> Result<Drain, ConfigError> {
    let default = Drain::default();
    Ok(Drain {
        delay: settings
            .one("drain-delay", value::duration)?
            .unwrap_or(default.delay),
        grace: settings
            .one("drain-grace", value::duration)?
            .unwrap_or(default.grace),
        timeout: settings
            .one("drain-timeout", value::duration)?
            .unwrap_or(default.timeout),
    })
}

pub(super) fn timers(settings: &Settings) -> Result<Timers, ConfigError> {
    let default = Timers::default();
    Ok(Timers {
        first_byte: settings
            .one("first-byte-timeout", value::positive_duration)?
            .unwrap_or(default.first_byte),
        head: settings
            .one("head-timeout", value::positive_duration)?
            .unwrap_or(default.head),
        idle: settings
            .one("idle-timeout", value::positive_duration_or_off)?
            .unwrap_or(default.idle),
    })
}

pub(super) fn limits(settings: &Settings) -> Result<Limits, ConfigError> {
    let default = Limits::default();
    Ok(Limits {
        connections: settings
            .one("max-connections", |text| value::number(text, 1..=1 << 20))?
            .or(default.connections),
        client_connections: settings
            .one("max-connections-per-client", value::number_or_off)?
            .unwrap_or(default.client_connections),
        streams: settings
            .one("max-streams", |text| value::number(text, 1..=1 << 20))?
            .unwrap_or(default.streams),
        head_size: settings
            .one("max-head-size", value::head_size)?
            .unwrap_or(default.head_size),
        headers: settings
            .one("max-headers", |text| value::number(text, 1..=1 << 14))?
            .unwrap_or(default.headers),
        body: settings
            .one("max-body", value::body_size)?
            .unwrap_or(default.body),
    })
}
