//! What a router has found and what this machine knows, put together in words.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::local::Listens;
use super::{Answer, Finding};

/// All that is known about one port.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) service: String,
    pub(crate) answer: Answer,
    /// Where this machine takes connections to the port.
    pub(crate) listens: Listens,
    /// The addresses of this machine, without loopback.
    pub(crate) own: Vec<IpAddr>,
    /// The one that it has on its way to the router.
    pub(crate) towards: Option<IpAddr>,
    /// Whether the router is asked by way of this machine's loopback.
    pub(crate) by_loopback: bool,
    /// Whether a connection that the router makes to the address it sees ends on this machine, where
    /// that was tried.
    pub(crate) ends_here: Option<bool>,
}

/// What is said about one port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Report {
    pub(crate) service: String,
    pub(crate) finding: &'static str,
    /// What was found.
    pub(crate) text: String,
    /// What to do, a sentence a line.
    pub(crate) advice: Vec<String>,
    /// The address to put into the contract.
    pub(crate) address: Option<IpAddr>,
}

impl Report {
    /// Of what could not be asked.
    pub(crate) fn unknown(service: &str, text: String) -> Self {
        Self {
            service: service.to_owned(),
            finding: "not_asked",
            text,
            advice: Vec::new(),
            address: None,
        }
    }

    /// Whether the target can be dialled.
    pub(crate) fn is_good(&self) -> bool {
        self.finding == Finding::Reachable.as_str()
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "service": self.service,
            "finding": self.finding,
            "text": self.text,
            "advice": self.advice,
            "address": self.address.map(|ip| ip.to_string()),
        })
    }
}

impl Case {
    pub(crate) fn report(&self) -> Report {
        let mut report = Report {
            service: self.service.clone(),
            finding: self.answer.finding.as_str(),
            text: String::new(),
            advice: Vec::new(),
            address: None,
        };
        match self.answer.finding {
            Finding::Reachable => self.reachable(&mut report),
            Finding::NotAllowed => self.not_allowed(&mut report),
            Finding::Intermediary => {
                let field = self.answer.reason.as_deref().unwrap_or("Forwarded");
                let field = field.escape_debug();
                report.text = format!(
                    "a proxy stands between this machine and the router (it adds {field}), and the \
                     router does not dial that"
                );
                report.advice.push(
                    "ask the router itself, past the ingress or gateway, if it can be reached"
                        .to_owned(),
                );
                self.connect(&mut report);
            }
            Finding::Refused
            | Finding::TimedOut
            | Finding::Unreachable
            | Finding::Failed
            | Finding::Unknown => self.unreachable(&mut report),
        }
        report
    }

    fn reachable(&self, report: &mut Report) {
        let place = self.place();
        let is_known = self.answer.peer.is_some() && self.is_own();
        if is_known || self.ends_here == Some(true) {
            report.text = format!("reachable: the router opened a connection to {place}");
            report.address = self.answer.peer;
            return;
        }
        report.finding = "not_here";
        report.text = format!(
            "something answers at {place}, but a connection there does not end on this machine"
        );
        self.seen_as(report);
        self.connect(report);
    }

    fn not_allowed(&self, report: &mut Report) {
        let detail = self.answer.detail.as_deref();
        let detail = detail
            .unwrap_or("it is a listener of the router")
            .escape_debug();
        report.text = format!("the router's policy refuses {}: {detail}", self.place());
        if let Some(switch) = &self.answer.switch {
            report.advice.push(format!(
                "whoever runs the router can allow it with {}",
                switch.escape_debug()
            ));
        }
        self.seen_as(report);
        self.listening(report);
        self.connect(report);
    }

    fn unreachable(&self, report: &mut Report) {
        let place = self.place();
        report.text = match self.answer.finding {
            Finding::Refused => format!("refused: nobody takes the router's connection to {place}"),
            Finding::TimedOut => {
                format!("timed out: the router's connection to {place} gets no answer")
            }
            Finding::Unreachable => format!("unreachable: the router has no way to {place}"),
            _ => format!("the router could not try {place}"),
        };
        self.seen_as(report);
        let is_listening = self.listening(report);
        if self.is_own() && self.answer.finding == Finding::Refused && !is_listening {
            // Nothing else is known to be wrong.
            return;
        }
        if self.is_own() && is_listening {
            report.advice.push(
                "it listens there, so a firewall, here or on the way, keeps the router out"
                    .to_owned(),
            );
        }
        self.connect(report);
    }

    /// Says what it means that the router sees another address than this machine has.
    fn seen_as(&self, report: &mut Report) {
        let Some(peer) = self.answer.peer.filter(|_| !self.is_own()) else {
            return;
        };
        report.advice.push(if peer.is_loopback() {
            let here = if self.by_loopback {
                "through `kubectl port-forward` or the like, or it runs on this machine"
            } else {
                "from a proxy on its own machine"
            };
            format!("the router sees this request come from {peer}: {here}")
        } else {
            let own = self.towards.filter(|ip| !ip.is_loopback());
            let own = own.map_or_else(String::new, |own| format!(" (it is {own} here)"));
            format!(
                "the cluster sees you as {peer}, which is no address of this machine{own}: a NAT or VPN \
                 gateway has it, and what is sent there ends at the gateway"
            )
        });
    }

    /// Says what is wrong on this machine; whether somebody listens where it is needed.
    fn listening(&self, report: &mut Report) -> bool {
        let (service, port) = (&self.service, self.answer.port);
        match self.listens {
            Listens::Outside => return true,
            Listens::LoopbackOnly => report.advice.push(format!(
                "{service} is bound to loopback only: let it listen on 0.0.0.0:{port}, not on \
                 127.0.0.1:{port} or localhost"
            )),
            Listens::Nowhere => report.advice.push(format!(
                "nothing listens on port {port} of this machine: start {service}, and ask again"
            )),
        }
        false
    }

    fn connect(&self, report: &mut Report) {
        report.advice.push(format!(
            "`devroute connect {}={} --hub URL` needs no connection to this machine",
            self.service, self.answer.port
        ));
    }

    /// What the router has dialled.
    fn place(&self) -> String {
        match self.answer.peer {
            Some(peer) => std::net::SocketAddr::new(peer, self.answer.port).to_string(),
            None => format!("port {} of the address it sees", self.answer.port),
        }
    }

    /// Whether the router sees an address of this machine, or may do so.
    fn is_own(&self) -> bool {
        self.answer.peer.is_none_or(|peer| self.own.contains(&peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(finding: Finding, peer: &str) -> Case {
        Case {
            service: "foo".to_owned(),
            answer: Answer {
                finding,
                port: 8001,
                peer: Some(peer.parse().unwrap()),
                reason: None,
                detail: None,
                switch: None,
            },
            listens: Listens::Outside,
            own: vec!["192.168.1.12".parse().unwrap(), "10.8.0.7".parse().unwrap()],
            towards: Some("192.168.1.12".parse().unwrap()),
            by_loopback: false,
            ends_here: None,
        }
    }

    fn said(case: &Case) -> String {
        let report = case.report();
        format!("{}\n{}", report.text, report.advice.join("\n"))
    }

    #[test]
    fn what_is_reachable_goes_into_the_contract_as_the_router_sees_it() {
        let report = case(Finding::Reachable, "10.8.0.7").report();
        assert!(report.is_good());
        assert_eq!(report.address, "10.8.0.7".parse().ok());
        assert_eq!(report.advice, [""; 0]);
        // NAT that lets the port through.
        let mut forwarded = case(Finding::Reachable, "203.0.113.7");
        forwarded.ends_here = Some(true);
        assert_eq!(forwarded.report().address, "203.0.113.7".parse().ok());
    }

    #[test]
    fn an_open_port_of_somebody_else_is_not_this_machine() {
        for peer in ["10.9.9.1", "127.0.0.1"] {
            let mut case = case(Finding::Reachable, peer);
            case.ends_here = Some(false);
            let report = case.report();
            assert!(!report.is_good());
            assert_eq!((report.finding, report.address), ("not_here", None));
            assert!(said(&case).contains("devroute connect foo=8001"));
        }
    }

    #[test]
    fn what_is_wrong_here_is_said_and_nothing_else() {
        let mut case = case(Finding::Refused, "192.168.1.12");
        case.listens = Listens::LoopbackOnly;
        assert!(said(&case).contains("bound to loopback only"));
        assert!(!said(&case).contains("connect foo"), "{}", said(&case));
        case.listens = Listens::Nowhere;
        assert!(said(&case).contains("start foo"));
        assert!(!said(&case).contains("connect foo"), "{}", said(&case));
    }

    #[test]
    fn a_firewall_is_guessed_where_it_listens_and_cannot_be_reached() {
        for finding in [Finding::Refused, Finding::TimedOut] {
            let said = said(&case(finding, "192.168.1.12"));
            assert!(said.contains("a firewall"), "{said}");
            assert!(said.contains("devroute connect foo=8001"), "{said}");
        }
    }

    #[test]
    fn behind_nat_both_addresses_are_told() {
        let said = said(&case(Finding::TimedOut, "10.9.9.1"));
        assert!(said.contains("the cluster sees you as 10.9.9.1"), "{said}");
        assert!(said.contains("(it is 192.168.1.12 here)"), "{said}");
        assert!(!said.contains("a firewall"), "{said}");
    }

    #[test]
    fn a_refusal_names_the_switch() {
        let mut case = case(Finding::NotAllowed, "127.0.0.1");
        case.answer.detail = Some("loopback is not allowed here".to_owned());
        case.answer.switch = Some("--allow loopback".to_owned());
        case.by_loopback = true;
        let said = said(&case);
        assert!(
            said.contains("can allow it with --allow loopback"),
            "{said}"
        );
        assert!(said.contains("kubectl port-forward"), "{said}");
    }

    #[test]
    fn nothing_that_a_router_says_moves_the_cursor() {
        let mut case = case(Finding::NotAllowed, "10.8.0.7");
        case.answer.detail = Some("\u{1b}[2J".to_owned());
        case.answer.switch = Some("\u{1b}[2J".to_owned());
        assert!(!said(&case).contains('\u{1b}'));
    }
}
