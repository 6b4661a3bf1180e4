//! Configuration: flags, `DEVROUTE_*` environment, a TOML file, defaults; in that order.
//!
//! Values arrive as text with the place they came from ([`Settings`]) and leave as the typed structs
//! below, once, at the start: nothing behind this module sees an unparsed setting. Whatever is wrong
//! is a [`ConfigError`] that names its source, and ends the process with status 64:
//!
//! ```text
//! --listen: "8080" is not an address and port (such as 127.0.0.1:8080, …)
//! DEVROUTE_WORKERS: "many" is not a number from 1 to 1024
//! devroute.toml: connect-timeout: "2" is not a time with its unit (such as …), line 4
//! ```
//!
//! Refused on purpose: unknown keys in the file, a list where one value belongs, `fallback` at a
//! router. Not checked: what a higher source has replaced.

mod connect;
mod entry;
mod file;
mod hub;
mod outbound;
mod serving;
mod settings;
mod signature;
mod tls;
mod value;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use devroute_tower::core::{NetworkRule, ServiceName, TargetPolicy};
use devroute_tower::transport::{Connects, TlsConfig, TlsName};
use devroute_tower::{ForwardedFields, OnFailure};
use tracing_subscriber::filter::{LevelFilter, Targets};

pub use self::connect::{ConnectArgs, ConnectConfig, Entry, ForwardRule, SignContract};
pub use self::entry::{EntryArgs, EntryConfig, Strip};
pub use self::hub::{HubArgs, HubConfig};
pub use self::outbound::{CorrelationConfig, OutboundArgs, OutboundConfig};
pub use self::serving::{LimitArgs, TimerArgs};
pub use self::settings::Settings;
use self::settings::Source;
pub use self::signature::{SignatureArgs, signatures};
pub use self::tls::ListenerTls;
pub(crate) use self::tls::trusting;
pub(crate) use self::value::ip as parse_ip;
pub(crate) use self::value::lifetime as parse_lifetime;
pub(crate) use self::value::port as parse_port;
use crate::authorized::AuthorizedFile;
use crate::server::{Drain, HalfClose, Limits, Timers, inherited};

/// Where the admin listener is when nothing else is said.
///
/// On loopback, because the record of reroutes is nobody else's business by default.
pub const DEFAULT_ADMIN: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)), 15099);

/// The port of a router that is told none, as the reference implementation has it.
pub const DEFAULT_ROUTER_PORT: u16 = 8080;

/// A setting that cannot be used; its text names the place the value came from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    message: String,
}

impl ConfigError {
    pub(crate) fn new(message: String) -> Self {
        Self { message }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// What a `devroute router` needs to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouterConfig {
    /// How it runs.
    pub process: ProcessConfig,
    /// How it reroutes.
    pub reroute: RerouteConfig,
    /// Whether it dials back whoever asks to know if it can.
    pub reach_back: bool,
}

impl RouterConfig {
    /// The configuration of a router that listens on `listen`, with one worker, no admin listener,
    /// and defaults for everything else.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            process: ProcessConfig::new(listen),
            reroute: RerouteConfig::default(),
            reach_back: true,
        }
    }

    /// Parses the settings of a router.
    ///
    /// # Errors
    ///
    /// When a value is wrong, or asks for a fallback, which a router does not have.
    pub fn parse(settings: &Settings) -> Result<Self, ConfigError> {
        settings.one("on-failure", value::only_fail)?;
        let listen = match settings.one("listen", value::address)? {
            Some(address) => Bind::Address(address),
            None => Bind::Everywhere(port_variable()?.unwrap_or(DEFAULT_ROUTER_PORT)),
        };
        Ok(Self {
            process: ProcessConfig::parse(settings, listen)?,
            reroute: RerouteConfig::parse(settings)?,
            reach_back: settings.one("reach-back", value::boolean)?.unwrap_or(true),
        })
    }
}

/// What a `devroute sidecar` needs to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SidecarConfig {
    /// How it runs.
    pub process: ProcessConfig,
    /// How it reroutes.
    pub reroute: RerouteConfig,
    /// The service it stands in front of.
    pub service: ServiceName,
    /// The service's own instance.
    pub upstream: Upstream,
    /// Whom to believe to be that instance, where it speaks TLS.
    pub upstream_tls: Option<TlsConfig>,
    /// The router that dials targets, if not the sidecar itself.
    pub via: Option<Location>,
    /// What happens when a reroute fails.
    pub on_failure: OnFailure,
    /// How long the service may take to begin an answer; `None` for ever.
    pub response_timeout: Option<Duration>,
    /// Whether the service is told who asked, as targets are.
    pub forwarded_to_baseline: bool,
    /// The listener for the service's own requests, if there is one.
    pub outbound: Option<OutboundConfig>,
}

impl SidecarConfig {
    /// Parses the settings of a sidecar.
    ///
    /// # Errors
    ///
    /// When a value is wrong or a required one is missing.
    pub fn parse(settings: &Settings) -> Result<Self, ConfigError> {
        let listen = match settings.one("listen", value::address)? {
            None if inherited::are_there() => Bind::Inherited,
            _ => {
                settings.require(&["listen", "upstream", "service"])?;
                Bind::Address(settings.required("listen", value::address)?)
            }
        };
        let mut upstream = settings.required("upstream", value::upstream)?;
        if is_at(&listen, &upstream.at) {
            settings.one("upstream", |text| {
                Err::<(), _>(format!(
                    "{text:?} is where this sidecar listens itself: let the service listen at another \
                     port, and give that here"
                ))
            })?;
        }
        Ok(Self {
            upstream_tls: tls::upstream(settings, &mut upstream)?,
            upstream,
            service: settings.required("service", value::service)?,
            via: settings.one("via", value::location)?,
            on_failure: settings
                .one("on-failure", value::on_failure)?
                .unwrap_or_default(),
            response_timeout: settings
                .one("response-timeout", value::positive_duration_or_off)?
                .flatten(),
            forwarded_to_baseline: settings
                .one("forwarded-on", value::forwarded_on_all)?
                .unwrap_or(false),
            outbound: OutboundConfig::parse(settings)?,
            process: ProcessConfig::parse(settings, listen)?,
            reroute: RerouteConfig::parse(settings)?,
        })
    }

    /// The configuration of a sidecar for `service` that listens on `listen`, with one worker, no
    /// admin listener, and defaults for everything else.
    #[must_use]
    pub fn new(service: ServiceName, listen: SocketAddr, upstream: SocketAddr) -> Self {
        Self {
            process: ProcessConfig::new(listen),
            reroute: RerouteConfig::default(),
            service,
            upstream: Upstream {
                at: Location::Address(upstream),
                h2c: false,
                tls_name: None,
            },
            upstream_tls: None,
            via: None,
            on_failure: OnFailure::Fail,
            response_timeout: None,
            forwarded_to_baseline: false,
            outbound: None,
        }
    }
}

/// Whether who connects to `location` comes to a listener at `listen`.
fn is_at(listen: &Bind, location: &Location) -> bool {
    let (Bind::Address(listen), Location::Address(address)) = (listen, location) else {
        return false;
    };
    let is_here =
        listen.ip() == address.ip() || (listen.ip().is_unspecified() && address.ip().is_loopback());
    listen.port() == address.port() && is_here
}

/// What a `devroute demo` needs to know.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DemoConfig {
    /// The first port of its range.
    pub port: u16,
    /// What B's sidecar does when the laptop is gone.
    pub on_failure: OnFailure,
}

impl DemoConfig {
    /// Parses the settings of the demo.
    ///
    /// # Errors
    ///
    /// When a value is wrong.
    pub fn parse(settings: &Settings) -> Result<Self, ConfigError> {
        Ok(Self {
            port: settings.one("port", value::port)?.unwrap_or(7800),
            on_failure: settings
                .one("on-failure", value::on_failure)?
                .unwrap_or_default(),
        })
    }
}

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How a process serves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProcessConfig {
    /// Where traffic comes in.
    pub listen: Bind,
    /// TLS there.
    pub tls: Option<ListenerTls>,
    /// Where health, metrics and records are, if anywhere.
    pub admin: Option<SocketAddr>,
    /// The number of worker threads.
    pub workers: NonZeroUsize,
    /// How long clients may take.
    pub timers: Timers,
    /// How much they may take.
    pub limits: Limits,
    /// What it means that one sends nothing more while it is answered.
    pub half_close: HalfClose,
    /// How it ends.
    pub drain: Drain,
    /// Whether other processes may listen at the same addresses.
    pub reuse_port: bool,
}

impl ProcessConfig {
    pub(super) fn new(listen: SocketAddr) -> Self {
        Self {
            listen: Bind::Address(listen),
            tls: None,
            admin: None,
            workers: NonZeroUsize::MIN,
            timers: Timers::default(),
            limits: Limits::default(),
            half_close: HalfClose::default(),
            drain: Drain::default(),
            reuse_port: false,
        }
    }

    fn parse(settings: &Settings, listen: Bind) -> Result<Self, ConfigError> {
        let workers = match settings.one("workers", value::count)? {
            Some(workers) => workers,
            None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        };
        Ok(Self {
            listen,
            tls: tls::listener(settings)?,
            admin: settings
                .one("admin", value::address_or_off)?
                .unwrap_or(Some(DEFAULT_ADMIN)),
            workers,
            timers: serving::timers(settings)?,
            limits: serving::limits(settings)?,
            half_close: settings
                .one("half-close", value::half_close)?
                .unwrap_or_default(),
            drain: serving::drain(settings)?,
            reuse_port: settings.one("reuse-port", value::boolean)?.unwrap_or(false),
        })
    }
}

/// What to listen on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Bind {
    /// One address; port 0 takes a free one.
    Address(SocketAddr),
    /// This port on every address of the machine, IPv6 and IPv4.
    Everywhere(u16),
    /// The socket that whoever started the process has opened for it (`LISTEN_FDS`).
    ///
    /// Where there is one it is used in any case; this says that nothing else is known.
    Inherited,
}

/// The service's own instance.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Upstream {
    /// Where it is.
    pub at: Location,
    /// Whether it speaks HTTP/2 with prior knowledge, and not HTTP/1.1.
    pub h2c: bool,
    /// The name its certificate has to be for, where it speaks TLS.
    pub tls_name: Option<TlsName>,
}

/// Where something is.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Location {
    /// At an address.
    Address(SocketAddr),
    /// At whatever address a name has, on a port.
    Name(String, u16),
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (&self.tls_name, self.h2c) {
            (Some(_), _) => "https",
            (None, true) => "h2c",
            (None, false) => "http",
        };
        write!(f, "{scheme}://{}", self.at)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// How requests are rerouted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RerouteConfig {
    /// Which targets are allowed.
    pub policy: TargetPolicy,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// How many connections are opened at a time, by all workers together.
    pub connects: Connects,
    /// Whether answers name addresses.
    pub reveal_addresses: bool,
    /// What tells a target who asked.
    pub forwarded: ForwardedFields,
    /// Which contracts may come in.
    pub entry: EntryConfig,
    /// Whose contracts are obeyed, where they have to be signed.
    pub signatures: Option<AuthorizedFile>,
    /// Whom to believe to be a target; without it `https://` targets are refused.
    pub tls: Option<TlsConfig>,
}

impl Default for RerouteConfig {
    fn default() -> Self {
        Self {
            policy: TargetPolicy::default(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            connects: Connects::new(),
            reveal_addresses: true,
            forwarded: ForwardedFields::default(),
            entry: EntryConfig::default(),
            signatures: None,
            tls: None,
        }
    }
}

impl RerouteConfig {
    fn parse(settings: &Settings) -> Result<Self, ConfigError> {
        let default = Self::default();
        let signatures = signatures(settings)?;
        Ok(Self {
            policy: policy(settings)?,
            connect_timeout: settings
                .one("connect-timeout", value::positive_duration)?
                .unwrap_or(default.connect_timeout),
            connects: connects(settings)?,
            reveal_addresses: settings
                .one("reveal-addresses", value::boolean)?
                .unwrap_or(default.reveal_addresses),
            forwarded: settings
                .one("forwarded", value::forwarded)?
                .unwrap_or(default.forwarded),
            entry: EntryConfig::parse(settings, signatures.is_some())?,
            signatures,
            tls: Some(tls::targets(settings)?),
        })
    }
}

fn connects(settings: &Settings) -> Result<Connects, ConfigError> {
    let connects = Connects::new();
    let connects = match settings.one("max-connects", |text| value::number(text, 1..=1 << 14))? {
        Some(connections) => connects.per_target(connections),
        None => connects,
    };
    Ok(
        match settings.one("timeout-memory", value::positive_duration_or_off)? {
            Some(time) => connects.memory(time.unwrap_or_default()),
            None => connects,
        },
    )
}

/// Something the policy is to allow.
#[derive(Clone, Debug)]
pub(crate) enum Allow {
    Loopback,
    Cgnat,
    Network(NetworkRule),
}

/// The policy that the settings describe.
///
/// Inside Kubernetes, which is known by the variable every pod has, the API server and the ports of
/// the control plane are refused too (rule 5).
///
/// # Errors
///
/// When a network or a suffix is wrong.
pub fn policy(settings: &Settings) -> Result<TargetPolicy, ConfigError> {
    let mut policy = TargetPolicy::default();
    if let Some(host) = std::env::var_os("KUBERNETES_SERVICE_HOST") {
        policy = policy.kubernetes(host.to_str().and_then(|host| host.parse().ok()));
    }
    for allow in settings.many("allow", value::allow)? {
        policy = match allow {
            Allow::Loopback => policy.allow_loopback(true),
            Allow::Cgnat => policy.allow_cgnat(true),
            Allow::Network(rule) => policy.allow(rule),
        };
    }
    for rule in settings.many("deny", value::network)? {
        policy = policy.deny(rule);
    }
    for suffix in settings.many("allow-suffix", value::suffix)? {
        policy = policy.allow_suffix(suffix);
    }
    Ok(policy)
}

/// What is logged, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// Which are written.
    pub filter: Targets,
}

impl LogConfig {
    /// Parses the settings of logging; `default` is the level where none is set.
    ///
    /// # Errors
    ///
    /// When a value is wrong.
    pub fn parse(settings: &Settings, default: LevelFilter) -> Result<Self, ConfigError> {
        Ok(Self {
            format: settings
                .one("log-format", value::log_format)?
                .unwrap_or(LogFormat::Auto),
            filter: settings
                .one("log-level", value::log_filter)?
                .unwrap_or_else(|| {
                    // The crate h2 warns of each flood that it ends; there is a counter for those.
                    Targets::new()
                        .with_default(default)
                        .with_target("h2", default.min(LevelFilter::ERROR))
                }),
        })
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
    /// For people on a terminal, else JSON.
    Auto,
}

/// The port that platforms hand to a process as `PORT`.
fn port_variable() -> Result<Option<u16>, ConfigError> {
    match std::env::var("PORT") {
        Ok(text) if !text.is_empty() => value::port(&text)
            .map(Some)
            .map_err(|message| Source::Variable("PORT".to_owned()).error(message)),
        _ => Ok(None),
    }
}

/// The policy of a command line with these flags alone.
#[cfg(test)]
pub(crate) fn policy_of_flags(flags: &[&str]) -> TargetPolicy {
    use clap::CommandFactory as _;

    let program = crate::cli::Cli::command();
    let line = ["devroute", "explain", "{}"].iter().chain(flags);
    let matches = program.clone().try_get_matches_from(line).unwrap();
    policy(&Settings::gather(&program, &matches).unwrap()).unwrap()
}
