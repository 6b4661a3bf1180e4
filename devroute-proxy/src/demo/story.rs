//! What the demo shows, and whether it was so.

use std::time::Duration;

use devroute_tower::OnFailure;
use devroute_tower::core::carrier;
use devroute_tower::transport::{Body, HttpTransport};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use tower::ServiceExt as _;

use super::world::{Hop, RUN, World};
use crate::print;

const BASELINE: &str = "A (cluster) -> B (cluster) -> C (cluster)";
const REROUTED: &str = "A (cluster) -> B (laptop) -> C (cluster)";

/// Longer than anything in the demo takes.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The story as far as it is told.
#[derive(Debug)]
pub(super) struct Story {
    client: HttpTransport,
    on_failure: OnFailure,
    plain: String,
    with_contract: String,
    step: usize,
    failures: usize,
}

/// What a request was answered with.
#[derive(Debug)]
struct Answer {
    status: Option<StatusCode>,
    text: String,
}

impl Story {
    pub(super) fn new(world: &World, on_failure: OnFailure) -> Self {
        let url = format!("http://{}/", world.a.address);
        let (name, contract) = (carrier::CONTRACT, &world.contract);
        Self {
            client: HttpTransport::new(),
            on_failure,
            plain: format!("curl {url}"),
            with_contract: format!("curl -H '{name}: {contract}' {url}"),
            step: 0,
            failures: 0,
        }
    }

    /// Whether every check so far was good.
    pub(super) fn is_good(&self) -> bool {
        self.failures == 0
    }

    pub(super) fn introduce(&self, world: &World) {
        print::line("Three services of a cluster, each behind its sidecar, and a laptop:\n");
        for Hop {
            name,
            address,
            admin,
        } in [world.a, world.b, world.c]
        {
            let name = name.to_uppercase();
            print::line(format_args!(
                "  {name}  {address}  (its sidecar; admin at {admin})"
            ));
        }
        let (address, pid) = (world.laptop.address, world.laptop.pid);
        print::line(format_args!(
            "  B  {address}  (the laptop's own copy, process {pid})\n"
        ));
    }

    /// The same path twice: answered by the cluster's B, then by the laptop's.
    pub(super) async fn with_and_without(&mut self, world: &World) {
        self.tell(
            "Without a contract the cluster answers:",
            &self.plain.clone(),
        );
        let answer = self.ask(world, false).await;
        self.expect(&answer, StatusCode::OK, BASELINE);

        self.tell(
            "With a contract for b, the laptop answers for B:",
            &self.with_contract.clone(),
        );
        let answer = self.ask(world, true).await;
        self.expect(&answer, StatusCode::OK, REROUTED);
    }

    /// The end of the laptop: the answer names it, or the baseline steps in.
    pub(super) async fn kill_the_laptop(&mut self, world: &mut World) {
        self.tell("B's sidecar kept a record of it:", &reroutes(&world.b));
        let records = self.records(world).await;
        let target = world.laptop.address.to_string();
        let recorded = records.iter().any(|record| {
            is(record, "service", "b")
                && is(record, "target", &target)
                && is(record, "outcome", "rerouted")
        });
        self.check(recorded, "a reroute of b to the laptop, with its run");

        self.tell(
            "The laptop goes away:",
            &format!("kill -9 {}", world.laptop.pid),
        );
        if let Err(error) = world.laptop.kill().await {
            self.check(false, &format!("the laptop's process ends ({error})"));
        }
        print::line(format_args!("     $ {}", self.with_contract));
        let answer = self.ask(world, true).await;
        if self.on_failure == OnFailure::Fallback {
            self.expect(&answer, StatusCode::OK, BASELINE);
        } else {
            print::line(format_args!("     {}", answer.text));
            let problem: Value = serde_json::from_str(&answer.text).unwrap_or_default();
            self.check(answer.status == Some(StatusCode::BAD_GATEWAY), "status 502");
            self.check(is(&problem, "service", "b"), "it names the service, b");
            self.check(
                is(&problem, "target", &target),
                &format!("it names the address, {target}"),
            );
            self.check(
                is(&problem, "cause", "connection_refused"),
                "it says why: the connection was refused",
            );
        }

        self.tell("Nobody else noticed:", &self.plain.clone());
        let answer = self.ask(world, false).await;
        self.expect(&answer, StatusCode::OK, BASELINE);
    }

    pub(super) fn conclude(&self) {
        print::line(match self.failures {
            0 => "All of it as it should be.".to_owned(),
            1 => "One check FAILED.".to_owned(),
            failures => format!("{failures} checks FAILED."),
        });
    }

    /// What a reader can do while the demo stays up.
    pub(super) fn suggest(&self, world: &World) {
        let Self {
            plain,
            with_contract,
            ..
        } = self;
        let contract = &world.contract;
        // As it was called: with `cargo run` there is no `devroute` to be found.
        let program = std::env::args()
            .next()
            .unwrap_or_else(|| "devroute".to_owned());
        let (b, pid) = (world.b, world.laptop.pid);
        let then = match self.on_failure {
            OnFailure::Fallback => "then the second line again: the cluster's B answers instead",
            OnFailure::Fail => "then the second line again: the answer says what is wrong",
        };
        print::line(format_args!(
            "It stays up; end it with Ctrl-C. To try:\n\n  \
             the two lines again\n      {plain}\n      {with_contract}\n  \
             kill the laptop, {then}\n      kill {pid}\n  \
             what B's sidecar has rerouted, and its page\n      {}\n      http://{}/\n  \
             its counters\n      curl http://{}/metrics\n  \
             what the contract means\n      {program} explain --allow loopback '{contract}'\n",
            reroutes(&b),
            b.admin,
            b.admin,
        ));
    }

    /// Somebody has killed it.
    pub(super) fn laptop_gone(&self, world: &World) {
        let pid = world.laptop.pid;
        print::line(format_args!("The laptop (process {pid}) is gone. Now:"));
        print::line(format_args!("      {}", self.with_contract));
    }

    fn tell(&mut self, what: &str, command: &str) {
        self.step += 1;
        print::line(format_args!("{}. {what}\n     $ {command}", self.step));
    }

    fn expect(&mut self, answer: &Answer, status: StatusCode, text: &str) {
        print::line(format_args!("     {}", answer.text));
        self.check(
            answer.status == Some(status) && answer.text == text,
            &format!("{text:?}"),
        );
    }

    fn check(&mut self, good: bool, what: &str) {
        if good {
            print::line(format_args!("     ok: {what}"));
        } else {
            self.failures += 1;
            print::line(format_args!("     FAILED: expected {what}"));
        }
    }

    async fn ask(&self, world: &World, with_contract: bool) -> Answer {
        let mut request = Request::get(format!("http://{}/", world.a.address));
        if with_contract {
            request = request.header(carrier::CONTRACT, world.contract.header_value());
        }
        self.send(request).await
    }

    async fn records(&self, world: &World) -> Vec<Value> {
        let url = format!("http://{}/reroutes?id={RUN}", world.b.admin);
        let answer = self.send(Request::get(url)).await;
        print::line(format_args!("     {}", answer.text));
        let mut json: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        json.get_mut("reroutes")
            .and_then(Value::as_array_mut)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    async fn send(&self, request: http::request::Builder) -> Answer {
        let exchange = async {
            let request = request.body(Body::empty())?;
            let response = self.client.clone().oneshot(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), 64 * 1024)
                .collect()
                .await?
                .to_bytes();
            Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
        };
        let failed: Result<_, Box<dyn std::error::Error + Send + Sync>> =
            match tokio::time::timeout(TIMEOUT, exchange).await {
                Ok(result) => result,
                Err(elapsed) => Err(elapsed.into()),
            };
        match failed {
            Ok((status, text)) => Answer {
                status: Some(status),
                text,
            },
            Err(error) => Answer {
                status: None,
                text: error.to_string(),
            },
        }
    }
}

fn reroutes(hop: &Hop) -> String {
    format!("curl 'http://{}/reroutes?id={RUN}'", hop.admin)
}

fn is(json: &Value, member: &str, expected: &str) -> bool {
    json.get(member).is_some_and(|value| value == expected)
}
