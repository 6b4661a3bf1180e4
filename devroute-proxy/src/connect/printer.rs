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
    /// Whether this machine's own requests are to go through the hub.
    calls: bool,
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
    pub(super) caller_service: Option<ServiceName>,
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
            calls: config.has_way_out(),
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
            } else if grant.services.is_empty() {
                print::line("connected again");
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
        } else {
            let _ = writeln!(
                text,
                "offered  nothing (SERVICE=PORT offers), so there is no contract: this machine calls, and is not called"
            );
        }
        if self.0.calls && !grant.outbound {
            let _ = writeln!(
                text,
                "refused  the hub lets no requests of this machine out (--way-out there): what is sent to the addresses \
                 above fails"
            );
        }
        let who = grant.who.as_deref().unwrap_or("nobody in particular");
        let (name, hub) = (&grant.name, &self.0.hub);
        let _ = write!(text, "session  {name} at {hub}, known as {who}");
        if contract.is_some() {
            let hold = grant.hold;
            let _ = write!(
                text,
                "; addresses are kept for {hold} s while this machine is away"
            );
        }
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
        if self.0.json {
            print_json(&line.json());
        } else {
            print::line(line.human());
        }
    }
}

impl Line {
    fn milliseconds(&self) -> f64 {
        (self.took.as_secs_f64() * 1e4).round() / 10.0
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "event": "request",
            "method": self.method.as_str(),
            "path": self.path,
            "status": self.status,
            "ms": self.milliseconds(),
            "service": self.service.as_ref().map(ServiceName::as_str),
            "caller": self.caller.map(|caller| caller.to_string()),
            "caller_service": self.caller_service.as_ref().map(ServiceName::as_str),
            "id": self.run,
        })
    }

    fn human(&self) -> String {
        let mut text = format!("{} {:>7} ms  ", self.status, self.milliseconds());
        if let Some(service) = &self.service {
            let _ = write!(text, "{service}  ");
        }
        let _ = write!(text, "{} {}", self.method, self.path);
        match (&self.caller_service, self.caller) {
            (Some(name), _) => {
                let _ = write!(text, "  from {name}");
            }
            (None, Some(address)) => {
                let _ = write!(text, "  from {address}");
            }
            (None, None) => {}
        }
        if let Some(run) = &self.run {
            let _ = write!(text, "  ({run})");
        }
        text
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_request_is_from_a_service_where_that_is_known_and_from_an_address_elsewhere() {
        let name = |name| Some(ServiceName::new(name).unwrap());
        let mut line = Line {
            method: Method::GET,
            path: "/cart?x=1".to_owned(),
            service: name("foo"),
            caller: Some(Ipv4Addr::new(10, 0, 0, 7).into()),
            caller_service: name("bar"),
            run: Some("run-7".to_owned()),
            status: 200,
            took: Duration::from_micros(1430),
        };
        let expected = "200     1.4 ms  foo  GET /cart?x=1  from bar  (run-7)";
        assert_eq!(line.human(), expected);
        let event = line.json();
        assert_eq!(event["caller_service"], "bar");
        assert_eq!(event["caller"], "10.0.0.7");

        line.caller_service = None;
        let expected = "200     1.4 ms  foo  GET /cart?x=1  from 10.0.0.7  (run-7)";
        assert_eq!(line.human(), expected);
        assert!(line.json()["caller_service"].is_null());
    }

    fn said(services: &[(&str, &str)], calls: bool, outbound: bool) -> String {
        let printer = Printer(Arc::new(Inner {
            json: false,
            id: None,
            sign: None,
            hub: "https://hub.qa".to_owned(),
            calls,
            last: Mutex::default(),
        }));
        let services = services.iter();
        let services = services.map(|(name, at)| ((*name).to_owned(), (*at).to_owned()));
        let mut grant = Grant::default();
        grant.name = "alice".to_owned();
        grant.who = Some("alice@laptop".to_owned());
        grant.services = services.collect();
        grant.hold = 600;
        grant.outbound = outbound;
        let contract = printer.contract(&grant).unwrap();
        printer.human(&grant, contract.as_ref())
    }

    #[test]
    fn who_offers_nothing_is_told_so_and_no_contract() {
        let session = "session  alice at https://hub.qa, known as alice@laptop";
        let text = said(&[], true, true);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("offered  nothing"), "{text}");
        assert_eq!(lines[1..], [session], "no addresses are kept");

        let text = said(&[("foo", "10.0.0.1:43000")], false, true);
        assert!(text.starts_with("x-devroute: {"), "{text}");
        assert!(text.contains(&format!("{session}; addresses are kept for 600 s")));
        assert!(
            !text.contains("offered") && !text.contains("refused"),
            "{text}"
        );
    }

    #[test]
    fn a_way_out_that_the_hub_does_not_give_is_said() {
        for (calls, outbound, expected) in [(true, false, true), (false, false, false)] {
            let text = said(&[("foo", "10.0.0.1:43000")], calls, outbound);
            assert_eq!(
                text.contains("refused  the hub lets no"),
                expected,
                "{text}"
            );
        }
    }
}
