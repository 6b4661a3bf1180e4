//! The command line: what can be given, what it is called, and the help that says so.
//!
//! Everything that is a *setting* (it can also come from the environment or from the configuration
//! file) is taken as text here and nowhere parsed: [`config`](crate::config) does that, because only
//! there is it known where a wrong value came from. What is not a setting (positional arguments,
//! `--json`, `--once`) is typed already.
//!
//! A setting is exactly an argument that has an environment variable; its long name is its key in
//! the configuration file.
//!
//! ```
//! use clap::Parser;
//! use devroute_proxy::cli::{Cli, Mode};
//!
//! let cli = Cli::parse_from(["devroute", "contract", "foo=8001", "--id", "run-7"]);
//! let Mode::Contract(contract) = cli.mode else { unreachable!() };
//! assert_eq!(contract.entries, ["foo=8001"]);
//! ```

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{
    ConnectArgs, EntryArgs, HubArgs, LimitArgs, OutboundArgs, SignatureArgs, TimerArgs,
};
use crate::manifests::IMAGE;

/// Answers one request's call to a service from another address, because the request says so.
#[derive(Debug, Parser)]
#[command(name = "devroute", version, max_term_width = 100, after_help = PRECEDENCE)]
#[non_exhaustive]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub mode: Mode,
}

const PRECEDENCE: &str = "Every setting: flag, else DEVROUTE_* environment variable, else the file \
    given with --config, else its default. An empty variable counts as not set. \
    A wrong value ends the program with status 64 and the place it came from.";

/// The modes of `devroute`.
// Exhaustive: the binary must not compile with a mode that it does not run.
#[derive(Debug, Subcommand)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one, at the start of the program"
)]
pub enum Mode {
    /// Forward requests to the target their contract names for `x-devroute-matched`
    #[command(after_help = PRECEDENCE)]
    Router(RouterArgs),
    /// Stand in front of one service and reroute the requests whose contract names it
    #[command(after_help = PRECEDENCE)]
    Sidecar(SidecarArgs),
    /// Give laptops that the cluster cannot reach an address inside it: they dial in with `connect`
    #[command(after_help = PRECEDENCE)]
    Hub(HubArgs),
    /// Dial a hub, so that the cluster reaches what runs on this machine, and this machine the cluster
    #[command(after_help = PRECEDENCE)]
    Connect(ConnectArgs),
    /// Show the whole story on this machine: A -> B -> C, and a laptop that answers for B
    Demo(DemoArgs),
    /// Make a contract: the header, a curl line and the baggage member
    #[command(visible_alias = "header")]
    Contract(ContractArgs),
    /// Say what a contract means, entry by entry, and what the policy makes of it
    Explain(ExplainArgs),
    /// Print what one service needs in Kubernetes: the router, and a sidecar or Istio's filter
    Manifests(ManifestsArgs),
    /// The laptop's copy of a demo service, a process of its own so that it can be killed
    #[command(hide = true)]
    DemoLaptop(LaptopArgs),
}

/// `devroute router`
#[derive(Args, Debug)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct RouterArgs {
    /// Address to listen on [default: all addresses at $PORT, else at 8080]
    #[arg(
        long,
        env = "DEVROUTE_LISTEN",
        value_name = "ADDR",
        help_heading = "Traffic"
    )]
    pub listen: Option<String>,
    /// A router has no baseline to fall back to, so only `fail` is accepted [default: fail]
    #[arg(
        long,
        env = "DEVROUTE_ON_FAILURE",
        value_name = "fail",
        help_heading = "Traffic"
    )]
    pub on_failure: Option<String>,
    /// Dial back whoever asks, at the address they come from and nowhere else, so that `devroute
    /// contract --router` can tell them whether they can be reached [default: true]
    #[arg(
        long,
        env = "DEVROUTE_REACH_BACK",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Traffic"
    )]
    pub reach_back: Option<String>,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub reroute: RerouteArgs,
    #[command(flatten)]
    pub entry: EntryArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub signatures: SignatureArgs,
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// `devroute sidecar`
#[derive(Args, Debug)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct SidecarArgs {
    /// Address to listen on, in place of the service (required)
    #[arg(
        long,
        env = "DEVROUTE_LISTEN",
        value_name = "ADDR",
        help_heading = "Traffic"
    )]
    pub listen: Option<String>,
    /// The service's own instance: http://HOST:PORT for HTTP/1.1, h2c://HOST:PORT for HTTP/2,
    /// https://HOST:PORT for TLS; a host is an address or a name (required)
    #[arg(
        long,
        env = "DEVROUTE_UPSTREAM",
        value_name = "URL",
        help_heading = "Traffic"
    )]
    pub upstream: Option<String>,
    /// The service's name in contracts (required)
    #[arg(
        long,
        env = "DEVROUTE_SERVICE",
        value_name = "NAME",
        help_heading = "Traffic"
    )]
    pub service: Option<String>,
    /// Hand rerouted requests to the router at this address, or of this name, instead of dialling
    /// the target
    #[arg(
        long,
        env = "DEVROUTE_VIA",
        value_name = "HOST:PORT",
        help_heading = "Traffic"
    )]
    pub via: Option<String>,
    /// Where a reroute fails: `fail` says so, `fallback` lets the baseline answer [default: fail]
    #[arg(
        long,
        env = "DEVROUTE_ON_FAILURE",
        value_name = "fail|fallback",
        help_heading = "Traffic"
    )]
    pub on_failure: Option<String>,
    /// How long the service may take to begin an answer, or `off`; a target may take for ever
    /// [default: off]
    #[arg(
        long,
        env = "DEVROUTE_RESPONSE_TIMEOUT",
        value_name = "TIME|off",
        help_heading = "Traffic"
    )]
    pub response_timeout: Option<String>,
    /// Whether the service is told who asked, as a target is by --forwarded: `rerouted` leaves
    /// requests to it as they came [default: rerouted]
    #[arg(
        long,
        env = "DEVROUTE_FORWARDED_ON",
        value_name = "rerouted|all",
        help_heading = "Traffic"
    )]
    pub forwarded_on: Option<String>,
    /// Also trust the authorities in this PEM file for an https:// upstream
    #[arg(
        long,
        env = "DEVROUTE_UPSTREAM_CA",
        value_name = "FILE",
        value_delimiter = ',',
        help_heading = "TLS"
    )]
    pub upstream_ca: Vec<String>,
    /// The name that the certificate of an https:// upstream is for [default: its host]
    #[arg(
        long,
        env = "DEVROUTE_UPSTREAM_NAME",
        value_name = "NAME",
        help_heading = "TLS"
    )]
    pub upstream_name: Option<String>,
    #[command(flatten)]
    pub outbound: OutboundArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub reroute: RerouteArgs,
    #[command(flatten)]
    pub entry: EntryArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub signatures: SignatureArgs,
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// `devroute demo`
#[derive(Args, Debug)]
#[non_exhaustive]
pub struct DemoArgs {
    /// Run the story once, check every answer, and exit with 0 or 1
    #[arg(long)]
    pub once: bool,
    /// First port of the demo; ports that are taken are replaced by free ones [default: 7800]
    #[arg(long, env = "DEVROUTE_PORT", value_name = "PORT")]
    pub port: Option<String>,
    /// What B's sidecar does when the laptop is gone: `fail` or `fallback` [default: fail]
    #[arg(long, env = "DEVROUTE_ON_FAILURE", value_name = "fail|fallback")]
    pub on_failure: Option<String>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `devroute contract`
#[derive(Args, Debug)]
#[non_exhaustive]
pub struct ContractArgs {
    /// SERVICE=PORT on this machine, or SERVICE=ADDRESS:PORT
    #[arg(required = true, value_name = "SERVICE=TARGET")]
    pub entries: Vec<String>,
    /// Name of the test run ($id): in logs and in the record of reroutes
    #[arg(long, value_name = "RUN")]
    pub id: Option<String>,
    /// The address others reach this machine at, where the one found is not it
    #[arg(long, value_name = "IP")]
    pub address: Option<String>,
    /// Sign it, with the OpenSSH key in this file, or with the one of ssh-agent where the file is
    /// encrypted or the public half [default: ~/.ssh/id_ed25519, else the agent's only Ed25519 key]
    #[arg(long, value_name = "KEYFILE", num_args = 0..=1, default_missing_value = "")]
    pub sign: Option<String>,
    /// How long a signed contract is good: 30m, 8h, 2d [default: 8h]
    #[arg(long, value_name = "TIME", requires = "sign")]
    pub expires: Option<String>,
    /// Ask the router there whether it can reach the ports of this machine, and say what to do where it
    /// cannot; the status is 1 then
    #[arg(long, env = "DEVROUTE_ROUTER", value_name = "URL")]
    pub router: Option<String>,
    /// Also trust the authorities in this PEM file for a router at https://
    #[arg(
        long,
        env = "DEVROUTE_ROUTER_CA",
        value_name = "FILE",
        value_delimiter = ','
    )]
    pub router_ca: Vec<String>,
    /// Also print the line for a browser's console that sets the cookie, for entries with --cookie
    #[arg(long)]
    pub cookie: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The policy that the warnings are about.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// The configuration file.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `devroute explain`
#[derive(Args, Debug)]
#[non_exhaustive]
pub struct ExplainArgs {
    /// The contract, or `-` to read it from standard input
    #[arg(value_name = "VALUE|-", required_unless_present_any = ["header", "baggage"])]
    pub value: Option<String>,
    /// A whole header line, as curl's -H takes it: `x-devroute: …`, `baggage: …` or `cookie: …`
    /// (repeatable)
    #[arg(long, value_name = "LINE", conflicts_with = "value")]
    pub header: Vec<String>,
    /// The value of a baggage header (repeatable)
    #[arg(long, value_name = "VALUE", conflicts_with = "value")]
    pub baggage: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The policy that judges.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// The keys that signatures are verified with.
    #[command(flatten)]
    pub signatures: SignatureArgs,
    /// The configuration file.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `devroute manifests`
#[derive(Args, Debug)]
#[non_exhaustive]
pub struct ManifestsArgs {
    /// The service: its name in contracts, of its Service and, without a mesh, of its Deployment
    #[arg(long, value_name = "NAME")]
    pub service: String,
    /// The port of its Service
    #[arg(long, value_name = "PORT")]
    pub port: String,
    /// A network that the laptops are in, and the router may dial (lists take commas or repeat)
    #[arg(long, value_name = "CIDR", required = true, value_delimiter = ',')]
    pub laptops: Vec<String>,
    /// `istio` reroutes at the callers of the service, `none` by a sidecar in front of it
    #[arg(
        long,
        value_name = "istio|none",
        default_value = "none",
        hide_possible_values = true
    )]
    pub mesh: Mesh,
    /// The namespace of the service
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub namespace: String,
    /// The port that the application listens on, for the sidecar [default: --port]
    #[arg(long, value_name = "PORT")]
    pub target_port: Option<String>,
    /// Names of laptops with this ending are targets as well, so that the router needs DNS
    #[arg(long, value_name = ".DOMAIN", value_delimiter = ',')]
    pub allow_suffix: Vec<String>,
    /// The image, built from deploy/image/Dockerfile
    #[arg(long, value_name = "IMAGE", default_value = IMAGE)]
    pub image: String,
    /// The hub as well, for laptops with a key in this file (authorized_keys of OpenSSH)
    #[arg(long, value_name = "FILE", required_if_eq("part", "hub"))]
    pub authorized_keys: Option<std::path::PathBuf>,
    /// Print only what a cluster needs once (`router`, or `hub`), or only what the service needs (`service`)
    #[arg(
        long,
        value_name = "all|router|hub|service",
        default_value = "all",
        hide_possible_values = true
    )]
    pub part: Part,
}

/// What carries requests between services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[non_exhaustive]
pub enum Mesh {
    /// Istio, with a proxy in each pod.
    Istio,
    /// Nothing.
    None,
}

/// Which manifests are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[non_exhaustive]
pub enum Part {
    /// Everything.
    All,
    /// What there is once in a cluster.
    Router,
    /// What laptops dial in at.
    Hub,
    /// What there is for each service.
    Service,
}

/// `devroute demo-laptop`, started by the demo only.
#[derive(Args, Debug)]
#[non_exhaustive]
pub struct LaptopArgs {
    /// Address to listen on; the one taken is printed
    #[arg(long, value_name = "ADDR")]
    pub listen: std::net::SocketAddr,
    /// Where C is
    #[arg(long, value_name = "ADDR")]
    pub next: std::net::SocketAddr,
}

/// How requests are rerouted.
#[derive(Args, Debug)]
#[command(next_help_heading = "Rerouting")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct RerouteArgs {
    /// Longest wait for a connection to a target [default: 2s]
    #[arg(long, env = "DEVROUTE_CONNECT_TIMEOUT", value_name = "TIME")]
    pub connect_timeout: Option<String>,
    /// Connections that are opened to one target at a time; others wait [default: 64]
    #[arg(long, env = "DEVROUTE_MAX_CONNECTS", value_name = "N")]
    pub max_connects: Option<String>,
    /// How long a target is not tried again that did not answer a connection attempt, or `off`
    /// [default: 1s]
    #[arg(long, env = "DEVROUTE_TIMEOUT_MEMORY", value_name = "TIME|off")]
    pub timeout_memory: Option<String>,
    /// Whether answers name the target's address [default: true]
    #[arg(long, env = "DEVROUTE_REVEAL_ADDRESSES", value_name = "true|false")]
    pub reveal_addresses: Option<String>,
    /// What tells a target who asked, beside Via: X-Forwarded-For, -Host and -Proto, or Forwarded
    /// (RFC 7239) [default: x-forwarded]
    #[arg(
        long,
        env = "DEVROUTE_FORWARDED",
        value_name = "x-forwarded|forwarded|both|none"
    )]
    pub forwarded: Option<String>,
}

/// What is encrypted, and who is believed.
#[derive(Args, Debug)]
#[command(next_help_heading = "TLS")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct TlsArgs {
    /// Speak TLS to clients, with the certificate chain in this PEM file
    #[arg(long, env = "DEVROUTE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// The private key of --tls-cert, in PEM
    #[arg(long, env = "DEVROUTE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<String>,
    /// How often to look whether --tls-cert or --tls-key has changed [default: 10s]
    #[arg(long, env = "DEVROUTE_TLS_RELOAD", value_name = "TIME")]
    pub tls_reload: Option<String>,
    /// Also trust the authorities in this PEM file for https:// targets
    #[arg(
        long,
        env = "DEVROUTE_TARGET_CA",
        value_name = "FILE",
        value_delimiter = ','
    )]
    pub target_ca: Vec<String>,
    /// Take any certificate of an https:// target: whoever answers at the address is believed
    /// [default: false]
    #[arg(
        long,
        env = "DEVROUTE_TARGET_INSECURE",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub target_insecure: Option<String>,
}

/// Which targets are allowed.
#[derive(Args, Debug)]
#[command(next_help_heading = "Policy (private networks are allowed; lists take commas or repeat)")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct PolicyArgs {
    /// Also allow: `loopback`, `cgnat` (or `tailscale`: 100.64.0.0/10), or a network
    #[arg(
        long,
        env = "DEVROUTE_ALLOW",
        value_name = "loopback|cgnat|CIDR[:PORTS]",
        value_delimiter = ','
    )]
    pub allow: Vec<String>,
    /// Refuse a network, whatever is allowed
    #[arg(
        long,
        env = "DEVROUTE_DENY",
        value_name = "CIDR[:PORTS]",
        value_delimiter = ','
    )]
    pub deny: Vec<String>,
    /// Allow host names with this ending as targets; each address is judged like any other
    #[arg(
        long,
        env = "DEVROUTE_ALLOW_SUFFIX",
        value_name = ".DOMAIN",
        value_delimiter = ','
    )]
    pub allow_suffix: Vec<String>,
}

/// How the process runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Process")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct ProcessArgs {
    /// Health, readiness, metrics and the record of reroutes [default: 127.0.0.1:15099]
    #[arg(long, env = "DEVROUTE_ADMIN", value_name = "ADDR|off")]
    pub admin: Option<String>,
    /// Worker threads [default: as many as there are cores]
    #[arg(long, env = "DEVROUTE_WORKERS", value_name = "N")]
    pub workers: Option<String>,
    /// Share the listening address with other processes that do so, such as the next version
    /// [default: false]
    #[arg(
        long,
        env = "DEVROUTE_REUSE_PORT",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub reuse_port: Option<String>,
    /// An HTTP/1 client that sends nothing more while it is answered: `gone`, or `keep` it
    /// [default: gone]
    #[arg(long, env = "DEVROUTE_HALF_CLOSE", value_name = "gone|keep")]
    pub half_close: Option<String>,
    #[command(flatten)]
    pub timers: TimerArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// What is logged, and how; always to standard error.
#[derive(Args, Debug)]
#[command(next_help_heading = "Process")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct LogArgs {
    /// `human`, `json`, or `auto`: human on a terminal [default: auto]
    #[arg(long, env = "DEVROUTE_LOG_FORMAT", value_name = "human|json|auto")]
    pub log_format: Option<String>,
    /// A level, or a list such as `warn,devroute_proxy=debug` [default: info]
    #[arg(long, env = "DEVROUTE_LOG_LEVEL", value_name = "FILTER")]
    pub log_level: Option<String>,
}

/// Where settings may come from besides flags and environment.
#[derive(Args, Debug)]
#[command(next_help_heading = "Process")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct ConfigArgs {
    /// TOML file with settings, named as the flags are: `listen = "127.0.0.1:8080"`
    #[arg(long, env = "DEVROUTE_CONFIG", value_name = "FILE")]
    pub config: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_is_named_alike_as_flag_and_variable() {
        for mode in Cli::command().get_subcommands() {
            for arg in mode.get_arguments() {
                let (Some(flag), Some(variable)) = (arg.get_long(), arg.get_env()) else {
                    continue;
                };
                let expected = format!("DEVROUTE_{}", flag.to_uppercase().replace('-', "_"));
                assert_eq!(variable.to_str(), Some(&*expected), "{}", mode.get_name());
            }
        }
    }

    #[test]
    fn a_switch_may_stand_alone_or_be_told_false() {
        for (line, expected) in [("--strip", "true"), ("--strip=false", "false")] {
            let cli = Cli::parse_from(["devroute", "router", line]);
            let Mode::Router(router) = cli.mode else {
                panic!("router was asked for")
            };
            assert_eq!(router.entry.strip.as_deref(), Some(expected));
        }
    }
}
