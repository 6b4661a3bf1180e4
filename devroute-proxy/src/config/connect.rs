//! The settings of a laptop.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use devroute_tower::core::ServiceName;
use devroute_tower::outbound::InternalHosts;
use devroute_tower::transport::TlsConfig;
use devroute_tunnel::client::HubUrl;
use devroute_tunnel::hub::Liveness;
use devroute_tunnel::protocol::MAX_NAME;
use http::HeaderValue;
use http::uri::Authority;

use super::{ConfigError, Settings, hub, outbound, tls, value};
use crate::cli::{ConfigArgs, LogArgs};

/// `devroute connect`
#[derive(Args, Debug)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct ConnectArgs {
    /// SERVICE=PORT: the service, and the port of this machine where its copy runs
    #[arg(value_name = "SERVICE=PORT")]
    pub entries: Vec<String>,
    /// The hub: https://HOST, or http://127.0.0.1:PORT behind `kubectl port-forward` (required)
    #[arg(long, env = "DEVROUTE_HUB", value_name = "URL", help_heading = "Hub")]
    pub hub: Option<String>,
    /// Also trust the authorities in this PEM file for an https:// hub
    #[arg(
        long,
        env = "DEVROUTE_HUB_CA",
        value_name = "FILE",
        value_delimiter = ',',
        help_heading = "Hub"
    )]
    pub hub_ca: Vec<String>,
    /// Speak to an http:// hub that is not on this machine: everybody on the way can read and change
    /// everything [default: false]
    #[arg(
        long,
        env = "DEVROUTE_INSECURE_PLAIN",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Hub"
    )]
    pub insecure_plain: Option<String>,
    /// The OpenSSH key that the hub knows this laptop by; ssh-agent signs where the file is encrypted
    /// or the public half [default: ~/.ssh/id_ed25519, else the agent's only Ed25519 key]
    #[arg(
        long,
        env = "DEVROUTE_KEY",
        value_name = "KEYFILE",
        help_heading = "Hub"
    )]
    pub key: Option<String>,
    /// What this session is called, in logs and answers [default: the user at this host]
    #[arg(long, env = "DEVROUTE_NAME", value_name = "NAME", help_heading = "Hub")]
    pub name: Option<String>,
    /// How long to hear nothing of the hub before it is asked for a sign [default: 3s]
    #[arg(
        long,
        env = "DEVROUTE_PING_INTERVAL",
        value_name = "TIME",
        help_heading = "Hub"
    )]
    pub ping_interval: Option<String>,
    /// How long it may take to give one [default: 6s]
    #[arg(
        long,
        env = "DEVROUTE_PING_TIMEOUT",
        value_name = "TIME",
        help_heading = "Hub"
    )]
    pub ping_timeout: Option<String>,
    /// Ask applications with this Host, where they take no other; for one of the services with
    /// SERVICE=HOST (repeatable)
    #[arg(
        long,
        env = "DEVROUTE_HOST_HEADER",
        value_name = "[SERVICE=]HOST[:PORT]",
        help_heading = "Requests to this machine"
    )]
    pub host_header: Vec<String>,
    /// Sign the contract, with the OpenSSH key in this file [default: that of --key]
    #[arg(
        long,
        value_name = "KEYFILE",
        num_args = 0..=1,
        default_missing_value = "",
        help_heading = "Contract"
    )]
    pub sign: Option<String>,
    /// How long a signed contract is good: 30m, 8h, 2d [default: 8h]
    #[arg(
        long,
        value_name = "TIME",
        requires = "sign",
        help_heading = "Contract"
    )]
    pub expires: Option<String>,
    /// Name of the test run ($id): in logs and in the record of reroutes
    #[arg(long, value_name = "RUN", help_heading = "Contract")]
    pub id: Option<String>,
    /// Print one JSON object a line
    #[arg(long, help_heading = "Contract")]
    pub json: bool,
    /// Offer a page that shows the requests to this machine and sends them again, on this address of
    /// loopback, or at a port that is free; what is printed opens it
    #[arg(
        long,
        env = "DEVROUTE_INSPECT",
        value_name = "ADDR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "127.0.0.1:0",
        help_heading = "Requests to this machine"
    )]
    pub inspect: Option<String>,
    /// Offer a proxy for this machine's own requests into the cluster, here: as its http_proxy
    #[arg(
        long,
        env = "DEVROUTE_PROXY",
        value_name = "ADDR",
        help_heading = "Requests of this machine"
    )]
    pub proxy: Option<String>,
    /// Send what comes to this port of 127.0.0.1 to that host of the cluster (repeatable)
    #[arg(
        long,
        env = "DEVROUTE_FORWARD",
        value_name = "PORT=HOST:PORT",
        value_delimiter = ',',
        help_heading = "Requests of this machine"
    )]
    pub forward: Vec<String>,
    /// Where else contracts may go than to single labels, .svc, .local, .internal, .localhost and
    /// private networks; `none` leaves these out (lists take commas or repeat)
    #[arg(
        long,
        env = "DEVROUTE_INTERNAL",
        value_name = ".DOMAIN|CIDR|none",
        value_delimiter = ',',
        help_heading = "Requests of this machine"
    )]
    pub internal: Vec<String>,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// What a `devroute connect` needs to know.
#[derive(Debug)]
#[non_exhaustive]
pub struct ConnectConfig {
    /// What is offered, and where it runs.
    pub entries: Vec<Entry>,
    /// The hub.
    pub hub: HubUrl,
    /// Whom to believe to be the hub.
    pub tls: TlsConfig,
    /// Whether it may be spoken to in plain text wherever it is.
    pub plain: bool,
    /// The key that the hub knows the laptop by.
    pub key: Option<PathBuf>,
    /// The name of the session.
    pub name: String,
    /// How it is found out that the hub is gone.
    pub liveness: Liveness,
    /// How the contract is signed, if it is.
    pub sign: Option<SignContract>,
    /// The name of the test run.
    pub id: Option<String>,
    /// Whether what is printed is for scripts.
    pub json: bool,
    /// Where the page is that shows requests, if there is one.
    pub inspect: Option<SocketAddr>,
    /// Where the machine's own requests come in.
    pub proxy: Option<SocketAddr>,
    /// Where some of them do.
    pub forwards: Vec<ForwardRule>,
    /// Where contracts may go.
    pub internal: InternalHosts,
}

/// A service, and where its copy runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// The service.
    pub service: ServiceName,
    /// The port of this machine.
    pub port: u16,
    /// The host that it is asked for, in place of the one that the caller asks for.
    pub host: Option<HeaderValue>,
}

/// How a contract is signed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SignContract {
    /// The key.
    pub key: Option<PathBuf>,
    /// How long it is good.
    pub lifetime: Duration,
}

/// A port of this machine that leads to a host of the cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ForwardRule {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it leads to.
    pub to: Authority,
}

impl ConnectConfig {
    /// Parses what a laptop is told.
    ///
    /// # Errors
    ///
    /// When a value is wrong, or there is nothing to do.
    pub fn parse(args: &ConnectArgs, settings: &Settings) -> Result<Self, ConfigError> {
        let entries = entries(
            &args.entries,
            &settings.many("host-header", HostHeader::parse)?,
        )?;
        let forwards = settings.many("forward", forward)?;
        let proxy = settings.one("proxy", local)?;
        if entries.is_empty() && forwards.is_empty() && proxy.is_none() {
            return Err(ConfigError::new(
                "there is nothing to connect: give SERVICE=PORT, or --proxy or --forward"
                    .to_owned(),
            ));
        }
        let meant = [("sign", args.sign.is_some()), ("id", args.id.is_some())];
        if let (true, Some((flag, _))) = (entries.is_empty(), meant.iter().find(|it| it.1)) {
            return Err(ConfigError::new(format!(
                "--{flag}: is for the contract, and there is none where nothing is offered (SERVICE=PORT)"
            )));
        }
        let file = |text: &str| Ok(PathBuf::from(text));
        let key = settings.one("key", file)?;
        let sign = match &args.sign {
            None => None,
            Some(given) => {
                let lifetime = args.expires.as_deref().map(value::lifetime).transpose();
                let lifetime = lifetime
                    .map_err(|message| ConfigError::new(format!("--expires: {message}")))?;
                Some(SignContract {
                    key: if given.is_empty() {
                        key.clone()
                    } else {
                        Some(PathBuf::from(given))
                    },
                    lifetime: lifetime.unwrap_or(crate::sign::LIFETIME),
                })
            }
        };
        Ok(Self {
            entries,
            hub: settings.required("hub", |text| {
                HubUrl::from_str(text).map_err(|error| format!("{text:?}: {error}"))
            })?,
            tls: tls::trusting(settings, "hub-ca")?,
            plain: settings
                .one("insecure-plain", value::boolean)?
                .unwrap_or(false),
            key,
            name: settings
                .one("name", name)?
                .unwrap_or_else(|| usual_name(std::env::var("USER").ok(), hostname())),
            liveness: hub::liveness(settings)?,
            sign,
            id: args.id.clone(),
            json: args.json,
            inspect: settings.one("inspect", local)?,
            proxy,
            forwards,
            internal: outbound::internal(&settings.many("internal", outbound::internal_host)?),
        })
    }

    /// Whether requests of this machine go through the hub.
    #[must_use]
    pub fn has_way_out(&self) -> bool {
        self.proxy.is_some() || !self.forwards.is_empty()
    }
}

/// The services that are offered.
fn entries(texts: &[String], hosts: &[HostHeader]) -> Result<Vec<Entry>, ConfigError> {
    let mut entries: Vec<Entry> = Vec::new();
    for text in texts {
        let wrong = |message: String| ConfigError::new(format!("{text:?}: {message}"));
        let (service, port) = text
            .split_once('=')
            .ok_or_else(|| wrong("is not SERVICE=PORT".to_owned()))?;
        let service = value::service(service).map_err(wrong)?;
        let port = port.strip_prefix(':').unwrap_or(port);
        let port = value::port(port).map_err(|message| {
            wrong(format!(
                "{message}; what is offered is a port of this machine"
            ))
        })?;
        if entries.iter().any(|entry| entry.service == service) {
            return Err(wrong(format!("{service} has a port already")));
        }
        entries.push(Entry {
            service,
            port,
            host: None,
        });
    }
    for host in hosts {
        if let Some(service) = &host.service {
            let known = entries.iter_mut().find(|entry| entry.service == *service);
            let known = known.ok_or_else(|| {
                ConfigError::new(format!("--host-header: {service} is not offered"))
            })?;
            known.host = Some(host.host.clone());
        }
    }
    if let Some(all) = hosts.iter().find(|host| host.service.is_none()) {
        for entry in &mut entries {
            entry.host.get_or_insert_with(|| all.host.clone());
        }
    }
    Ok(entries)
}

/// What an application is asked for.
#[derive(Clone, Debug)]
struct HostHeader {
    /// None for all of them.
    service: Option<ServiceName>,
    host: HeaderValue,
}

impl HostHeader {
    fn parse(text: &str) -> Result<Self, String> {
        let (service, host) = match text.split_once('=') {
            Some((service, host)) => (Some(value::service(service)?), host),
            None => (None, text),
        };
        let authority = host.parse::<Authority>().ok();
        let is_host = authority.is_some_and(|authority| !authority.as_str().contains('@'));
        match HeaderValue::from_str(host) {
            Ok(host) if is_host => Ok(Self { service, host }),
            _ => Err(format!(
                "{text:?} is not a host, with or without a port (such as localhost:8001)"
            )),
        }
    }
}

/// A way to one host.
fn forward(text: &str) -> Result<ForwardRule, String> {
    let expected = || format!("{text:?} is not PORT=HOST:PORT (such as 9000=bar.qa:80)");
    let (port, to) = text.split_once('=').ok_or_else(expected)?;
    let port = value::port(port).map_err(|_message| expected())?;
    let to: Authority = to.parse().map_err(|_malformed| expected())?;
    if to.port_u16().is_none_or(|port| port == 0) || to.as_str().contains('@') {
        return Err(expected());
    }
    Ok(ForwardRule {
        listen: (Ipv4Addr::LOCALHOST, port).into(),
        to,
    })
}

/// An address of this machine that others do not reach: whoever does could use it.
fn local(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = value::port(text) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    match value::address(text)? {
        address if address.ip().is_loopback() => Ok(address),
        _ => Err(format!(
            "{text:?} is reached by other machines, and whoever reaches it could use it: listen on 127.0.0.1"
        )),
    }
}

fn name(text: &str) -> Result<String, String> {
    let named = sanitized(text);
    if named == text && !text.is_empty() {
        return Ok(named);
    }
    Err(format!(
        "{text:?} has not 1 to {MAX_NAME} of A-Z a-z 0-9 . _ @ + -"
    ))
}

/// The name of a session that is not called anything: the same each time on this machine.
fn usual_name(user: Option<String>, host: Option<String>) -> String {
    let part = |part: Option<String>, instead: &str| {
        let part = part.as_deref().map(sanitized).filter(|it| !it.is_empty());
        part.unwrap_or_else(|| instead.to_owned())
    };
    let name = format!("{}@{}", part(user, "somebody"), part(host, "laptop"));
    name.chars().take(MAX_NAME).collect()
}

fn sanitized(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._@+-".contains(*c))
        .take(MAX_NAME)
        .collect()
}

fn hostname() -> Option<String> {
    let name = rustix::system::uname();
    Some(name.nodename().to_str().ok()?.to_owned())
}

impl ConnectConfig {
    /// How TLS is spoken to the hub.
    pub(crate) fn client_config(&self) -> Arc<rustls::ClientConfig> {
        Arc::new(self.tls.clone().into_client_config(&[b"http/1.1"]))
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;
    use crate::cli::{Cli, Mode};

    fn parse(flags: &[&str]) -> Result<ConnectConfig, String> {
        let program = Cli::command();
        let line = ["devroute", "connect"].iter().chain(flags);
        let matches = program.clone().try_get_matches_from(line).unwrap();
        let settings = Settings::gather(&program, &matches).unwrap();
        let Mode::Connect(args) = Cli::from_arg_matches(&matches).unwrap().mode else {
            panic!("asked for it")
        };
        ConnectConfig::parse(&args, &settings).map_err(|error| error.to_string())
    }

    const HUB: [&str; 2] = ["--hub", "https://hub.qa"];

    #[test]
    fn services_have_ports_of_this_machine() {
        let config = parse(&[&["foo=8001", "bar=:8002"], &HUB[..]].concat()).unwrap();
        let entries: Vec<_> = config
            .entries
            .iter()
            .map(|entry| (entry.service.as_str(), entry.port))
            .collect();
        assert_eq!(entries, [("foo", 8001), ("bar", 8002)]);
        for wrong in ["foo", "foo=", "foo=0", "foo=10.0.0.1:80", "f o=1"] {
            let error = parse(&[&[wrong], &HUB[..]].concat()).unwrap_err();
            assert!(error.starts_with(&format!("{wrong:?}: ")), "{error}");
        }
        assert!(parse(&[&["foo=1", "foo=2"], &HUB[..]].concat()).is_err());
        assert!(parse(&HUB).unwrap_err().contains("nothing to connect"));
        assert!(
            parse(&["foo=1"])
                .unwrap_err()
                .contains("--hub: is required")
        );
    }

    #[test]
    fn a_host_is_for_one_service_or_for_all() {
        let flags = [
            "foo=1",
            "bar=2",
            "--host-header",
            "localhost:8001",
            "--host-header",
            "bar=b",
        ];
        let config = parse(&[&flags, &HUB[..]].concat()).unwrap();
        let hosts: Vec<_> = config
            .entries
            .iter()
            .map(|it| it.host.clone().unwrap())
            .collect();
        assert_eq!(hosts, ["localhost:8001", "b"]);
        for wrong in ["baz=b", "a b", "u@h"] {
            let flags = ["foo=1", "--host-header", wrong];
            assert!(parse(&[&flags, &HUB[..]].concat()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ways_out_are_of_this_machine_alone() {
        let config = parse(
            &[
                &["--forward", "9000=bar.qa:80", "--proxy", "3128"],
                &HUB[..],
            ]
            .concat(),
        );
        let config = config.unwrap();
        assert_eq!(config.forwards[0].to, "bar.qa:80");
        assert_eq!(config.proxy, Some("127.0.0.1:3128".parse().unwrap()));
        for (flag, wrong) in [
            ("--forward", "9000"),
            ("--forward", "9000=bar"),
            ("--forward", "9000=bar:0"),
            ("--proxy", "0.0.0.0:3128"),
            ("--inspect", "0.0.0.0:4040"),
        ] {
            let flag_and_value = format!("{flag}={wrong}");
            let error = parse(&[&["foo=1", &*flag_and_value], &HUB[..]].concat()).unwrap_err();
            assert!(error.starts_with(flag), "{error}");
        }
    }

    #[test]
    fn what_is_for_the_contract_needs_something_offered() {
        for (flag, name) in [("--id=run-7", "--id: "), ("--sign", "--sign: ")] {
            let error = parse(&[&["--proxy=3128", flag], &HUB[..]].concat()).unwrap_err();
            assert!(error.starts_with(name), "{error}");
            assert!(
                parse(&[&["foo=1", flag], &HUB[..]].concat()).is_ok(),
                "{flag}"
            );
        }
    }

    #[test]
    fn the_inspector_has_a_port_that_is_free_or_that_is_said() {
        for (flag, expected) in [
            (&[][..], None),
            (&["--inspect"], Some("127.0.0.1:0")),
            (&["--inspect=4040"], Some("127.0.0.1:4040")),
            (&["--inspect=[::1]:4040"], Some("[::1]:4040")),
        ] {
            let config = parse(&[flag, &["foo=1"], &HUB[..]].concat()).unwrap();
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(config.inspect, expected, "{flag:?}");
        }
    }

    #[test]
    fn a_session_has_a_name_that_stays() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            usual_name(some("alice"), some("laptop.lan")),
            "alice@laptop.lan"
        );
        assert_eq!(usual_name(some("Ä"), None), "somebody@laptop");
        assert_eq!(usual_name(some(&"a".repeat(99)), None).len(), MAX_NAME);
        assert_eq!(name("alice@laptop"), Ok("alice@laptop".to_owned()));
        for wrong in ["", "a b", &"a".repeat(65)] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }
}
