//! What a developer sees: the contract, what becomes of the connection, and a line for each request.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use devroute_tower::core::{Contract, ServiceName, carrier};
use devroute_tunnel::client::Event;
use devroute_tunnel::protocol::Grant;
use http::Method;
use serde_json::json;

use super::outward::Outward;
use crate::config::{ConnectConfig, SignContract};
use crate::print;
use crate::records::format_time;
use crate::sign;

/// Prints, for a person or for a script.
#[derive(Clone, Debug)]
pub(super) struct Printer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    json: bool,
    id: Option<String>,
    sign: Option<SignContract>,
    hub: String,
    /// What was printed of a grant, so that it is not printed again.
    last: Mutex<Option<Grant>>,
}

/// A request, and what became of it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) service: Option<ServiceName>,
    pub(super) caller: Option<IpAddr>,
    pub(super) run: Option<String>,
    pub(super) status: u16,
    pub(super) took: Duration,
}

impl Printer {
    pub(super) fn new(config: &ConnectConfig) -> Self {
        Self(Arc::new(Inner {
            json: config.json,
            id: config.id.clone(),
            sign: config.sign.clone(),
            hub: config.hub.to_string(),
            last: Mutex::default(),
        }))
    }

    /// What becomes of the connection.
    pub(super) fn event(&self, event: Event) {
        match event {
            Event::Connected(grant) => {
                let this = self.clone();
                // An agent may ask its user before it signs, and requests must not wait for that.
                tokio::task::spawn_blocking(move || this.connected(&grant));
            }
            Event::Lost { why, retry } => self.interrupted("lost", "the hub is gone", &why, retry),
            Event::Failed { why, retry } => {
                self.interrupted("failed", "the hub cannot be reached", &why, retry);
            }
            Event::Draining => {
                if self.0.json {
                    print_json(&json!({ "event": "draining" }));
                } else {
                    print::error("the hub is going away; dialling again");
                }
            }
            _ => {}
        }
    }

    fn interrupted(&self, event: &str, what: &str, why: &str, retry: Duration) {
        let seconds = (retry.as_secs_f64() * 10.0).round() / 10.0;
        if self.0.json {
            print_json(&json!({ "event": event, "why": why, "retry_seconds": seconds }));
        } else {
            print::error(format_args!("{what}: {why}; dialling again in {seconds} s"));
        }
    }

    fn connected(&self, grant: &Grant) {
        let same = {
            let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
            let same = last
                .as_ref()
                .is_some_and(|last| last.services == grant.services);
            *last = Some(grant.clone());
            same
        };
        if same {
            if self.0.json {
                print_json(&json!({ "event": "resumed", "services": grant.services }));
            } else {
                print::line("connected again; the contract stays as it is");
            }
            return;
        }
        match self.contract(grant) {
            Ok(contract) if self.0.json => print_json(&json!({
                "event": "connected",
                "session": grant.name,
                "who": grant.who,
                "services": grant.services,
                "resumed": grant.resumed,
                "hold_seconds": grant.hold,
                "way_out": grant.outbound,
                "header": contract.as_ref().map(|contract| json!({
                    "name": carrier::CONTRACT.as_str(),
                    "value": contract.0.to_string(),
                })),
                "curl": contract.as_ref().map(|contract| curl(&contract.0)),
            })),
            Ok(contract) => print::line(self.human(grant, contract.as_ref())),
            Err(error) => print::error(format_args!("devroute: {error}")),
        }
    }

    /// The contract, and until when it is good where it is signed; none where nothing is offered.
    fn contract(&self, grant: &Grant) -> Result<Option<(Contract, Option<String>)>, String> {
        if grant.services.is_empty() {
            return Ok(None);
        }
        let mut builder = Contract::builder();
        for (service, address) in &grant.services {
            let service = ServiceName::new(service).map_err(|error| error.to_string())?;
            let target = address.parse().map_err(|_error| {
                format!("the hub says that {service} is at {address:?}, which is no target")
            })?;
            builder = builder.entry(service, target);
        }
        if let Some(id) = &self.0.id {
            builder = builder.id(id.clone());
        }
        let contract = builder.build().map_err(|error| error.to_string())?;
        let Some(how) = &self.0.sign else {
            return Ok(Some((contract, None)));
        };
        let signed = sign::sign(&contract, how.key.as_deref(), how.lifetime)?;
        let until = format!(
            "by {}, good until {}",
            signed.key.name(),
            format_time(signed.expires)
        );
        Ok(Some((signed.contract, Some(until))))
    }

    fn human(&self, grant: &Grant, contract: Option<&(Contract, Option<String>)>) -> String {
        let mut text = String::new();
        if let Some((contract, signed)) = contract {
            let _ = writeln!(text, "{}: {contract}\n", carrier::CONTRACT.as_str());
            let _ = writeln!(text, "curl     {} URL", curl(contract));
            if let Some(signed) = signed {
                let _ = writeln!(text, "signed   {signed}");
            }
        }
        let who = grant.who.as_deref().unwrap_or("nobody in particular");
        let _ = write!(
            text,
            "session  {} at {}, known as {who}; addresses are kept for {} s while this machine is away",
            grant.name, self.0.hub, grant.hold
        );
        text
    }

    /// Where the machine's own requests come in.
    pub(super) fn outward(&self, outward: &Outward) {
        if self.0.json {
            print_json(&json!({
                "event": "listening",
                "proxy": outward.proxy_address().map(|address| address.to_string()),
                "forwards": outward.forwards().map(|(address, to)| json!({
                    "listen": address.to_string(),
                    "to": to.as_str(),
                })).collect::<Vec<_>>(),
            }));
            return;
        }
        if let Some(address) = outward.proxy_address() {
            print::line(format_args!("proxy    http_proxy=http://{address}"));
        }
        for (address, to) in outward.forwards() {
            print::line(format_args!("forward  http://{address} -> {to}"));
        }
    }

    /// Where requests can be looked at.
    pub(super) fn inspector(&self, url: &str) {
        if self.0.json {
            print_json(&json!({ "event": "inspector", "url": url }));
        } else {
            print::line(format_args!("inspect  {url}"));
        }
    }

    /// A request, and what became of it.
    pub(super) fn request(&self, line: &Line) {
        let milliseconds = (line.took.as_secs_f64() * 1e4).round() / 10.0;
        if self.0.json {
            print_json(&json!({
                "event": "request",
                "method": line.method.as_str(),
                "path": line.path,
                "status": line.status,
                "ms": milliseconds,
                "service": line.service.as_ref().map(ServiceName::as_str),
                "caller": line.caller.map(|caller| caller.to_string()),
                "id": line.run,
            }));
            return;
        }
        let Line {
            method,
            path,
            status,
            ..
        } = line;
        let mut text = format!("{status} {milliseconds:>7} ms  ");
        if let Some(service) = &line.service {
            let _ = write!(text, "{service}  ");
        }
        let _ = write!(text, "{method} {path}");
        if let Some(caller) = line.caller {
            let _ = write!(text, "  from {caller}");
        }
        if let Some(run) = &line.run {
            let _ = write!(text, "  ({run})");
        }
        print::line(text);
    }
}

fn curl(contract: &Contract) -> String {
    // Single quotes suffice: no name, target, id or signature can hold one.
    format!("curl -H '{}: {contract}'", carrier::CONTRACT.as_str())
}

/// One line, which a script reads as it comes.
fn print_json(value: &serde_json::Value) {
    print::line(value);
}
