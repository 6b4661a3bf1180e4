//! The settings of a hub.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use devroute_tower::core::TargetPolicy;
use devroute_tunnel::auth::{Authenticator, OfferRule, Offers};
use devroute_tunnel::hub::{self, Liveness, PortRange, Sources};

use super::{
    Bind, ConfigError, DEFAULT_CONNECT_TIMEOUT, ProcessConfig, Settings, policy, signatures, value,
};
use crate::authorized::AuthorizedFile;
use crate::cli::{PolicyArgs, ProcessArgs};
use crate::machine;

/// Where laptops dial in when nothing else is said: where `kubectl port-forward` leads to.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8090);

/// `devroute hub`
#[derive(Args, Debug)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct HubArgs {
    /// Address where laptops dial in [default: 127.0.0.1:8090]
    #[arg(
        long,
        env = "DEVROUTE_LISTEN",
        value_name = "ADDR",
        help_heading = "Laptops"
    )]
    pub listen: Option<String>,
    /// Speak TLS to laptops, with the certificate chain in this PEM file
    #[arg(
        long,
        env = "DEVROUTE_TLS_CERT",
        value_name = "FILE",
        help_heading = "Laptops"
    )]
    pub tls_cert: Option<String>,
    /// The private key of --tls-cert, in PEM
    #[arg(
        long,
        env = "DEVROUTE_TLS_KEY",
        value_name = "FILE",
        help_heading = "Laptops"
    )]
    pub tls_key: Option<String>,
    /// How often to look whether --tls-cert or --tls-key has changed [default: 10s]
    #[arg(
        long,
        env = "DEVROUTE_TLS_RELOAD",
        value_name = "TIME",
        help_heading = "Laptops"
    )]
    pub tls_reload: Option<String>,
    /// Let --listen be an address that other machines reach without TLS: behind an ingress that ends
    /// it [default: false]
    #[arg(
        long,
        env = "DEVROUTE_PLAIN_EXPOSED",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Laptops"
    )]
    pub plain_exposed: Option<String>,
    /// Let laptops in that have a key in this file (authorized_keys of OpenSSH, keys of the type
    /// ssh-ed25519); it is read again when it changes
    #[arg(
        long,
        env = "DEVROUTE_AUTHORIZED_KEYS",
        value_name = "FILE",
        help_heading = "Laptops"
    )]
    pub authorized_keys: Option<String>,
    /// Let everybody in who reaches the hub [default: false]
    #[arg(
        long,
        env = "DEVROUTE_INSECURE_NO_AUTH",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Laptops"
    )]
    pub insecure_no_auth: Option<String>,
    /// Who may offer what, by the comment of the key; either may be `*` (repeatable) [default: everybody
    /// anything]
    #[arg(
        long,
        env = "DEVROUTE_OFFER",
        value_name = "WHO=SERVICE,SERVICE",
        help_heading = "Laptops"
    )]
    pub offer: Vec<String>,
    /// How long the addresses of a laptop that is gone are kept for it [default: 10m]
    #[arg(
        long,
        env = "DEVROUTE_HOLD",
        value_name = "TIME",
        help_heading = "Laptops"
    )]
    pub hold: Option<String>,
    /// How long to hear nothing of a laptop before it is asked for a sign [default: 3s]
    #[arg(
        long,
        env = "DEVROUTE_PING_INTERVAL",
        value_name = "TIME",
        help_heading = "Laptops"
    )]
    pub ping_interval: Option<String>,
    /// How long it may take to give one [default: 6s]
    #[arg(
        long,
        env = "DEVROUTE_PING_TIMEOUT",
        value_name = "TIME",
        help_heading = "Laptops"
    )]
    pub ping_timeout: Option<String>,
    /// Address of this pod, where the services of laptops are reached [default: the likeliest private
    /// address of this machine]
    #[arg(
        long,
        env = "DEVROUTE_ADDRESS",
        value_name = "IP",
        help_heading = "Services of laptops"
    )]
    pub address: Option<String>,
    /// Let --address be a public one [default: false]
    #[arg(
        long,
        env = "DEVROUTE_ADDRESS_PUBLIC",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Services of laptops"
    )]
    pub address_public: Option<String>,
    /// Ports of the addresses of services [default: 43000-43999]
    #[arg(
        long,
        env = "DEVROUTE_PORTS",
        value_name = "FIRST-LAST",
        help_heading = "Services of laptops"
    )]
    pub ports: Option<String>,
    /// Take requests to services from this network, and no others but those that are named [default:
    /// this machine and private networks]
    #[arg(
        long,
        env = "DEVROUTE_FROM",
        value_name = "CIDR",
        value_delimiter = ',',
        help_heading = "Services of laptops"
    )]
    pub from: Vec<String>,
    /// Whether laptops may send requests of their own, to where the policy allows [default: true]
    #[arg(
        long,
        env = "DEVROUTE_WAY_OUT",
        value_name = "true|false",
        help_heading = "Services of laptops"
    )]
    pub way_out: Option<String>,
    /// Longest wait for a connection on behalf of a laptop [default: 2s]
    #[arg(
        long,
        env = "DEVROUTE_CONNECT_TIMEOUT",
        value_name = "TIME",
        help_heading = "Services of laptops"
    )]
    pub connect_timeout: Option<String>,
    /// Sessions at a time [default: 1024]
    #[arg(
        long,
        env = "DEVROUTE_MAX_SESSIONS",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub max_sessions: Option<String>,
    /// Sessions of one key [default: 16]
    #[arg(
        long,
        env = "DEVROUTE_MAX_SESSIONS_PER_KEY",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub max_sessions_per_key: Option<String>,
    /// Services of a session [default: 16]
    #[arg(
        long,
        env = "DEVROUTE_MAX_SERVICES",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub max_services: Option<String>,
    /// Requests at a time to one laptop [default: 128]
    #[arg(
        long,
        env = "DEVROUTE_MAX_LAPTOP_STREAMS",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub max_laptop_streams: Option<String>,
    /// Laptops that are dialling in at a time [default: 128]
    #[arg(
        long,
        env = "DEVROUTE_MAX_PENDING",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub max_pending: Option<String>,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// What a `devroute hub` needs to know.
#[derive(Debug)]
#[non_exhaustive]
pub struct HubConfig {
    /// How it runs.
    pub process: ProcessConfig,
    /// What it does.
    pub hub: hub::Config,
    /// Where requests of laptops may go.
    pub policy: TargetPolicy,
    /// The longest wait for a connection there.
    pub connect_timeout: Duration,
    /// Who may dial in, if they are asked.
    pub keys: Option<AuthorizedFile>,
}

impl HubConfig {
    /// The configuration of a hub where laptops dial in at `listen`, and whose addresses are at `ip`: with one worker, no
    /// admin listener, nobody asked for a key, and defaults for everything else.
    #[must_use]
    pub fn new(listen: SocketAddr, ip: IpAddr) -> Self {
        Self {
            process: ProcessConfig::new(listen),
            hub: hub::Config::new(ip),
            policy: TargetPolicy::default(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            keys: None,
        }
    }

    /// Parses the settings of a hub.
    ///
    /// # Errors
    ///
    /// When a value is wrong; when nobody is authorized, and that is not said to be meant; when the hub would be reached
    /// in plain text, or its services from the internet.
    pub fn parse(settings: &Settings) -> Result<Self, ConfigError> {
        let listen = settings
            .one("listen", value::address)?
            .unwrap_or(DEFAULT_LISTEN);
        let process = ProcessConfig::parse(settings, Bind::Address(listen))?;
        let exposed = settings
            .one("plain-exposed", value::boolean)?
            .unwrap_or(false);
        if process.tls.is_none() && !exposed && !listen.ip().is_loopback() {
            return Err(ConfigError::new(format!(
                "--listen: {listen} is reached by other machines, and in plain text: give a certificate \
                 (--tls-cert, --tls-key), listen on 127.0.0.1, or say --plain-exposed where an ingress ends TLS"
            )));
        }
        let keys = signatures(settings)?;
        let anybody = settings
            .one("insecure-no-auth", value::boolean)?
            .unwrap_or(false);
        let rules = settings.many("offer", |text| {
            text.parse::<OfferRule>()
                .map_err(|error| format!("{text:?}: {error}"))
        })?;
        let offers = rules.into_iter().fold(Offers::anything(), Offers::with);
        let mut hub = hub::Config::new(address(settings)?);
        hub.authenticator = match (&keys, anybody) {
            (Some(keys), false) => Some(Authenticator::new(keys.verifier().clone(), offers)),
            (None, true) => None,
            (None, false) => {
                return Err(ConfigError::new(
                    "--authorized-keys: is required, or everybody who reaches the hub could answer for any service; \
                     --insecure-no-auth says that this is meant"
                        .to_owned(),
                ));
            }
            (Some(_), true) => {
                return Err(ConfigError::new(
                    "--insecure-no-auth: there are --authorized-keys, which nobody would be asked for".to_owned(),
                ));
            }
        };
        let default = hub::Limits::default();
        hub.ports = settings
            .one("ports", |text| {
                text.parse::<PortRange>()
                    .map_err(|error| format!("{text:?}: {error}"))
            })?
            .unwrap_or_default();
        hub.sources = settings
            .many("from", value::network)?
            .into_iter()
            .fold(Sources::default(), Sources::only);
        hub.hold = settings
            .one("hold", value::positive_duration)?
            .unwrap_or(hub::Config::HOLD);
        hub.liveness = liveness(settings)?;
        hub.outbound = settings.one("way-out", value::boolean)?.unwrap_or(true);
        let count = |name, default| {
            let count = settings.one(name, |text| value::number(text, 1..=1 << 20));
            count.map(|count| count.unwrap_or(default))
        };
        hub.limits.sessions = count("max-sessions", default.sessions)?;
        hub.limits.sessions_per_key = count("max-sessions-per-key", default.sessions_per_key)?;
        hub.limits.services = count("max-services", default.services)?;
        hub.limits.pending = count("max-pending", default.pending)?;
        hub.limits.streams = settings
            .one("max-laptop-streams", |text| value::number(text, 1..=4096))?
            .unwrap_or(default.streams);
        hub.limits.head_size = process.limits.head_size;
        Ok(Self {
            process,
            hub,
            policy: policy(settings)?,
            connect_timeout: settings
                .one("connect-timeout", value::positive_duration)?
                .unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            keys,
        })
    }
}

/// How it is found out that the other end is gone.
pub(super) fn liveness(settings: &Settings) -> Result<Liveness, ConfigError> {
    let default = Liveness::default();
    let interval = settings.one("ping-interval", value::positive_duration)?;
    let timeout = settings.one("ping-timeout", value::positive_duration)?;
    Ok(Liveness::new(
        interval.unwrap_or(default.interval),
        timeout.unwrap_or(default.timeout),
    ))
}

/// Where the addresses of services are.
fn address(settings: &Settings) -> Result<IpAddr, ConfigError> {
    let public = settings
        .one("address-public", value::boolean)?
        .unwrap_or(false);
    let may_be = |ip: IpAddr| {
        let policy = TargetPolicy::default()
            .allow_loopback(true)
            .allow_cgnat(true);
        public || policy.judge_addr(SocketAddr::new(ip, 1)).is_ok()
    };
    let given = settings.one("address", |text| match value::ip(text)? {
        ip if ip.is_unspecified() => Err(format!(
            "{text:?} is no address that could stand in a contract: give the one of this pod"
        )),
        ip if may_be(ip) => Ok(ip),
        _ => Err(format!(
            "{text:?} is a public address, and whoever reaches it would reach laptops; --address-public says that this is \
             meant"
        )),
    })?;
    if let Some(ip) = given {
        return Ok(ip);
    }
    let found = machine::addresses()
        .map_err(|error| ConfigError::new(format!("--address: none is found: {error}")))?;
    let private = found
        .into_iter()
        .map(|found| found.ip)
        .find(|ip| may_be(*ip));
    private.ok_or_else(|| {
        ConfigError::new(
            "--address: this machine has no private address; give the one that services of laptops are to be \
             reached at"
                .to_owned(),
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    fn parse(flags: &[&str]) -> Result<HubConfig, String> {
        let program = Cli::command();
        let line = ["devroute", "hub", "--workers", "1"].iter().chain(flags);
        let matches = program.clone().try_get_matches_from(line).unwrap();
        let settings = Settings::gather(&program, &matches).unwrap();
        HubConfig::parse(&settings).map_err(|error| error.to_string())
    }

    #[test]
    fn without_keys_it_does_not_start_unless_it_is_told_to() {
        let error = parse(&["--address", "10.0.0.7"]).unwrap_err();
        assert!(
            error.starts_with("--authorized-keys: is required"),
            "{error}"
        );
        let anybody = parse(&["--address", "10.0.0.7", "--insecure-no-auth"]).unwrap();
        assert!(anybody.hub.authenticator.is_none());
        let keys = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../devroute-core/tests/vectors/alice.pub"
        );
        let asked = parse(&["--address", "10.0.0.7", "--authorized-keys", keys]).unwrap();
        assert!(asked.hub.authenticator.is_some());
        let both = [
            "--address",
            "10.0.0.7",
            "--authorized-keys",
            keys,
            "--insecure-no-auth",
        ];
        assert!(parse(&both).unwrap_err().contains("nobody would be asked"));
    }

    #[test]
    fn it_is_not_reached_in_plain_text_or_its_services_from_everywhere_by_mistake() {
        let listen = |address: &'static str, more: &'static str| {
            parse(&[
                "--insecure-no-auth",
                "--address",
                "10.0.0.7",
                "--listen",
                address,
                more,
            ])
        };
        let error = listen("0.0.0.0:8090", "--way-out=true").unwrap_err();
        assert!(error.contains("in plain text"), "{error}");
        assert!(listen("0.0.0.0:8090", "--plain-exposed").is_ok());
        assert!(listen("[::1]:8090", "--way-out=true").is_ok());

        let address = |ip: &'static str, more: &'static str| {
            parse(&["--insecure-no-auth", "--address", ip, more])
        };
        for public in ["203.0.113.7", "8.8.8.8", "2a00::1"] {
            let error = address(public, "--way-out=true").unwrap_err();
            assert!(error.contains("public"), "{error}");
        }
        assert!(address("8.8.8.8", "--address-public").is_ok());
        assert!(
            address("0.0.0.0", "--address-public")
                .unwrap_err()
                .contains("no address")
        );
        assert!(address("127.0.0.1", "--way-out=true").is_ok());
    }

    #[test]
    fn what_is_wrong_names_its_place() {
        for (flag, wrong) in [
            ("--ports", "9-1"),
            ("--offer", "alice"),
            ("--from", "10.0.0.1/8"),
            ("--hold", "0s"),
            ("--max-services", "0"),
        ] {
            let error = parse(&["--insecure-no-auth", "--address", "10.0.0.7", flag, wrong]);
            assert!(error.unwrap_err().starts_with(flag), "{flag}");
        }
    }
}
