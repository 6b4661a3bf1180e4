//! The whole question about a contract: each port of this machine that it names.

use std::fmt::Write as _;
use std::net::IpAddr;

use devroute_tower::core::{Contract, Target};
use devroute_tower::transport::TlsConfig;
use serde_json::{Value, json};

use super::Finding;
use super::advice::{Case, Report};
use super::ask::{Asker, RouterUrl};
use super::local::{Decoy, Listens};
use crate::config::{ConfigError, Settings, trusting};
use crate::machine;

/// Whom to ask.
#[derive(Debug)]
pub(crate) struct Question {
    url: RouterUrl,
    tls: TlsConfig,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) url: RouterUrl,
    /// The address that the router sees.
    pub(crate) peer: Option<IpAddr>,
    /// One for each entry of the contract.
    pub(crate) reports: Vec<Report>,
}

impl Question {
    /// Parses the settings; nothing where no router is to be asked.
    ///
    /// # Errors
    ///
    /// When a value is wrong.
    pub(crate) fn parse(settings: &Settings) -> Result<Option<Self>, ConfigError> {
        let Some(url) = settings.one("router", RouterUrl::parse)? else {
            return Ok(None);
        };
        let tls = trusting(settings, "router-ca")?;
        Ok(Some(Self { url, tls }))
    }

    /// Asks about every target of `contract` that is on this machine, of which `address` is known to be.
    pub(crate) fn ask(self, contract: &Contract, address: Option<IpAddr>) -> Answers {
        let url = self.url.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let asked = match runtime {
            Ok(runtime) => runtime.block_on(self.ask_all(contract, address)),
            Err(error) => Err(error.to_string()),
        };
        asked.unwrap_or_else(|reason| Answers {
            url,
            peer: None,
            reports: contract
                .iter()
                .map(|(service, _)| Report::unknown(service.as_str(), reason.clone()))
                .collect(),
        })
    }

    async fn ask_all(
        self,
        contract: &Contract,
        address: Option<IpAddr>,
    ) -> Result<Answers, String> {
        let Self { url, tls } = self;
        let mut own: Vec<IpAddr> = machine::addresses()
            .map_err(|error| format!("cannot find this machine's addresses: {error}"))?
            .into_iter()
            .map(|address| address.ip)
            .collect();
        let mut asker = Asker::new(url.clone(), tls).await?;
        // An address of the machine on its way there may be one that interfaces do not show.
        let towards = asker.own_address();
        own.extend(towards.filter(|ip| !ip.is_loopback()));

        let mut peer = None;
        let mut reports = Vec::new();
        for (service, target) in contract.iter() {
            let service = service.as_str();
            let here = |ip: &IpAddr| Some(*ip) == address || own.contains(ip);
            let Some(port) = of_this_machine(&target, here) else {
                let text = format!(
                    "{target} is another machine: a router dials back nobody but whoever asks"
                );
                reports.push(Report::unknown(service, text));
                continue;
            };
            let signed = contract.reserved().any(|(name, _)| name == "$sig");
            let contract = Some(contract).filter(|_| signed);
            let answer = match asker.ask(port, contract).await {
                Ok(answer) => answer,
                Err(reason) => {
                    reports.push(Report::unknown(service, reason));
                    continue;
                }
            };
            peer = answer.peer.or(peer);
            let is_own = answer.peer.is_some_and(|ip| own.contains(&ip));
            let ends_here = match answer.finding {
                Finding::Reachable if !is_own => {
                    ends_here(&mut asker, answer.peer.or(towards), contract).await
                }
                _ => None,
            };
            let outside = answer.peer.filter(|_| is_own).or(towards).or(address);
            let case = Case {
                service: service.to_owned(),
                listens: match outside {
                    Some(outside) => Listens::on(port, outside).await,
                    None => Listens::Outside,
                },
                own: own.clone(),
                towards,
                by_loopback: asker.is_on_loopback(),
                ends_here,
                answer,
            };
            reports.push(case.report());
        }
        Ok(Answers { url, peer, reports })
    }
}

impl Answers {
    /// The address that all ports that can be reached have been reached at.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let mut addresses = self.reports.iter().filter_map(|report| report.address);
        let first = addresses.next()?;
        addresses.all(|other| other == first).then_some(first)
    }

    /// Whether all of them can be.
    pub(crate) fn are_good(&self) -> bool {
        self.reports.iter().all(Report::is_good)
    }

    pub(crate) fn human(&self) -> String {
        let mut text = format!("router   {}", self.url);
        if let Some(peer) = self.peer {
            let _ = write!(text, " sees you as {peer}");
        }
        for report in &self.reports {
            let _ = write!(text, "\nreach    {}: {}", report.service, report.text);
            for line in &report.advice {
                let _ = write!(text, "\n         - {line}");
            }
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let reports = self.reports.iter().map(Report::json);
        json!({
            "router": self.url.to_string(),
            "peer": self.peer.map(|ip| ip.to_string()),
            "ok": self.are_good(),
            "entries": reports.collect::<Vec<_>>(),
        })
    }
}

/// The port of a target that is on this machine.
fn of_this_machine(target: &Target, here: impl Fn(&IpAddr) -> bool) -> Option<u16> {
    let address = target.socket_addr()?;
    let ip = address.ip().to_canonical();
    (here(&ip) || ip.is_loopback()).then_some(address.port())
}

/// Whether a connection that the router makes to the address it sees ends on this machine.
async fn ends_here(
    asker: &mut Asker,
    seen: Option<IpAddr>,
    contract: Option<&Contract>,
) -> Option<bool> {
    let decoy = Decoy::open(seen?).await?;
    let answer = asker.ask(decoy.port, contract).await.ok()?;
    if answer.finding != Finding::Reachable {
        return Some(false);
    }
    Some(decoy.was_reached().await)
}
