//! Attacks on a proxy, each by itself, and what becomes of everybody else meanwhile.
//!
//! Two proxies stand side by side: one is attacked, and one is not. Both have victims, clients that ask
//! at a steady pace (`victims.rs`). Of each attack is asserted:
//!
//! - it took place, and the attacked proxy serves afterwards;
//! - every request of a victim is answered, and the 99th percentile of their times stays under four
//!   times the undisturbed one: that of the other proxy at the same time, or of the same one before,
//!   whichever is larger, so that the attacker's own share of the cores is not taken for the proxy's;
//! - the proxy's memory grows by no more than what is allowed for it, and comes to rest;
//! - its log says next to nothing, and the counter that is meant for the attack has counted it.
//!
//! The processor time that the attacked proxy takes is printed. Where only the times are wrong, the attack
//! is made once more: they have to be wrong twice.

mod clients;
mod frames;
mod http2;
mod targets;
mod tls;
mod victims;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};
use tokio_rustls::TlsConnector;

use self::targets::{BlackHoles, Says};
use self::victims::Victims;
use crate::peers;
use crate::proxy::Proxy;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Result = std::result::Result<(), BoxError>;
type Attacking = Pin<Box<dyn Future<Output = Result> + Send>>;

/// How much longer an answer may take than an undisturbed one.
const SLOWER: u32 = 4;
/// What cannot be told apart from the noise of a machine that has other things to do.
const NOISE: Duration = Duration::from_millis(10);
/// Where it takes as long as that before an attack, a machine is busy with something else.
const BUSY: Duration = Duration::from_millis(40);
/// Lines of a second that the log may have, the ones that say what was left out included.
const LINES: u64 = 52;
/// MiB that are allowed for an attack unless it says otherwise.
const MEMORY: u64 = 24;

/// The time between two blows. The attacker has the same cores as everybody else, and any server can be
/// given more than it has cores for; so a proxy that is built without optimisation gets a tenth of it,
/// from a [`crowd`] of a fifth.
const fn pace(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds * if cfg!(debug_assertions) { 10 } else { 1 })
}

fn crowd(attackers: usize) -> usize {
    if cfg!(debug_assertions) {
        attackers.div_ceil(5)
    } else {
        attackers
    }
}

/// Where an attack takes place.
#[derive(Clone, Debug)]
struct Ground {
    proxy: SocketAddr,
    outbound: SocketAddr,
    attempts: Arc<AtomicU64>,
}

impl Ground {
    /// Counts what has been done.
    fn count(&self, attempts: u64) {
        self.attempts.fetch_add(attempts, Ordering::Relaxed);
    }
}

struct Attack {
    name: &'static str,
    /// How many attack at a time.
    attackers: usize,
    attacker: Box<dyn Fn(Ground, usize) -> Attacking>,
    /// The counter that has to count it.
    counter: Option<&'static str>,
    memory: u64,
    /// Whether it is about proxies that speak TLS.
    tls: bool,
}

/// What became of everybody else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Passed,
    /// Their answers took too long, and nothing else was wrong.
    Slow,
    Failed,
}

/// Two proxies of the same kind.
struct Stage {
    attacked: Proxy,
    beside: Proxy,
    connector: Option<TlsConnector>,
}

impl Stage {
    fn new(service: SocketAddr, flags: &[String], connector: Option<TlsConnector>) -> Self {
        // Times that run out, and a table that fills, within a short attack.
        let short = [
            "--head-timeout=500ms",
            "--first-byte-timeout=500ms",
            "--connect-timeout=500ms",
            "--outbound=127.0.0.1:0",
            "--correlation-entries=256",
        ];
        let flags: Vec<&str> = flags.iter().map(|flag| &**flag).chain(short).collect();
        Self {
            attacked: Proxy::start(service, &flags),
            beside: Proxy::start(service, &flags),
            connector,
        }
    }
}

impl Attack {
    fn new<F>(
        name: &'static str,
        attackers: usize,
        attacker: impl Fn(Ground, usize) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = Result> + Send + 'static,
    {
        Self {
            name,
            attackers: crowd(attackers),
            attacker: Box::new(move |ground, index| Box::pin(attacker(ground, index))),
            counter: None,
            memory: MEMORY,
            tls: false,
        }
    }

    fn counted(mut self, counter: &'static str) -> Self {
        self.counter = Some(counter);
        self
    }

    fn by_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    fn memory(mut self, memory: u64) -> Self {
        self.memory = memory;
        self
    }

    fn target(name: &'static str, contract: String) -> Self {
        Self::new(name, 10, move |ground, _| {
            targets::ask(ground, contract.clone())
        })
    }
}

const FIRST_BYTE: &str = r#"devroute_client_timeouts_total{timer="first_byte"}"#;
const HEAD: &str = r#"devroute_client_timeouts_total{timer="head"}"#;
const HEADS: &str = r#"devroute_limits_reached_total{limit="head"}"#;
const FLOOD: &str = r#"devroute_limits_reached_total{limit="flood"}"#;
const STREAMS: &str = r#"devroute_limits_reached_total{limit="streams"}"#;
const GONE: &str = r#"devroute_client_gone_total{phase="head"}"#;
const CUT: &str = "devroute_answers_cut_total";
const PROTOCOL: &str = r#"devroute_reroute_failures_total{cause="protocol_error"}"#;
const CLOSED: &str = r#"devroute_reroute_failures_total{cause="connection_closed"}"#;
const SPARED: &str = r#"devroute_target_connects_spared_total{reason="timed_out"}"#;

const HANDSHAKES: &str = "devroute_tls_handshake_failures_total";
const EVICTED: &str = "devroute_correlation_evicted_total";
const TUNNELS: &str = "devroute_outbound_tunnels_total";

/// All of them.
async fn attacks(service: SocketAddr, connector: TlsConnector) -> (Vec<Attack>, BlackHoles) {
    let holes = BlackHoles::dig(8).await;
    let contracts = holes.contracts.clone();
    let attacks = vec![
        Attack::new("slow-head", 300, clients::slow_head).counted(HEAD),
        Attack::new("slow-body", 300, clients::slow_body),
        Attack::new("slow-reader", 100, clients::slow_reader),
        Attack::new("idle", 500, clients::idle).counted(FIRST_BYTE),
        Attack::new("half-open", 100, clients::half_open).counted(GONE),
        Attack::new("large-heads", 8, clients::large_heads).counted(HEADS),
        Attack::new("churn", 4, clients::churn),
        Attack::new("rapid-reset", 4, http2::rapid_reset).counted(FLOOD),
        Attack::new("slow-reset", 8, http2::slow_reset).counted(GONE),
        Attack::new("continuation", 4, http2::continuation).counted(FLOOD),
        Attack::new("made-you-reset", 4, http2::made_you_reset).counted(FLOOD),
        Attack::new("settings", 4, http2::settings),
        Attack::new("ping", 4, http2::ping),
        Attack::new("empty-data", 4, http2::empty_data).counted(FLOOD),
        Attack::new("priority", 4, http2::priority),
        Attack::new("window-updates", 4, http2::window_updates),
        Attack::new("small-windows", 8, http2::small_windows).memory(64),
        Attack::new("streams", 2, http2::streams).counted(STREAMS),
        Attack::new("hpack", 4, http2::hpack),
        Attack::new("tls-handshakes", 10, move |ground, index| {
            tls::handshakes(ground, connector.clone(), index)
        })
        .counted(HANDSHAKES)
        .by_tls(),
        Attack::new("ids", 10, clients::ids).counted(EVICTED),
        Attack::new("tunnels", 100, move |ground, _| {
            clients::tunnels(ground, service)
        })
        .counted(TUNNELS),
        Attack::target("target-slow-head", Says::drip().listen().await),
        Attack::target("target-informational", Says::informational().listen().await)
            .counted(PROTOCOL),
        Attack::target("target-fields", Says::fields().listen().await).counted(PROTOCOL),
        Attack::target("target-trailers", Says::trailers().listen().await).counted(CUT),
        Attack::target("target-extension", Says::extension().listen().await).counted(CUT),
        Attack::target("target-hpack", Says::hpack().listen().await).counted(PROTOCOL),
        Attack::target("target-goaway", Says::goaway().listen().await).counted(CLOSED),
        Attack::target("target-resets", Says::resets().listen().await).counted(CUT),
        Attack::target("target-empty-data", Says::empty_data().listen().await),
        Attack::new("black-holes", 200, move |ground, index| {
            let contract = contracts[index % contracts.len()].clone();
            targets::ask(ground, contract)
        })
        .counted(SPARED),
    ];
    (attacks, holes)
}

/// Runs the attacks whose name is `name`, or all, for `time` each.
pub(crate) async fn run(name: &str, time: Duration) -> bool {
    let service = peers::service_apart("service");
    let (flags, connector) = tls::identity();
    let (attacks, _holes) = attacks(service, connector.clone()).await;
    let known = attacks.iter().any(|attack| attack.name == name);
    if name != "all" && !known {
        let names: Vec<_> = attacks.iter().map(|attack| attack.name).collect();
        println!("attacks are: all, {}", names.join(", "));
        return false;
    }
    let plain = Stage::new(service, &[], None);
    let by_tls = Stage::new(service, &flags, Some(connector));
    let mut passed = true;
    for attack in attacks {
        if name == "all" || name == attack.name {
            let stage = if attack.tls { &by_tls } else { &plain };
            let mut outcome = one(&attack, stage, time).await;
            if outcome == Outcome::Slow {
                // A machine with other things to do may have done them just then.
                println!("once more, to see whether that is so:");
                outcome = one(&attack, stage, time).await;
            }
            passed &= outcome == Outcome::Passed;
        }
    }
    for stage in [plain, by_tls] {
        passed &= stage.attacked.stop() & stage.beside.stop();
    }
    passed
}

async fn one(attack: &Attack, stage: &Stage, time: Duration) -> Outcome {
    let Stage {
        attacked,
        beside,
        connector,
    } = stage;
    let victims = Victims::of(attacked.address, beside.address, connector.clone());
    // Connections are opened, and pools filled.
    sleep(Duration::from_millis(200)).await;
    victims.restart();
    sleep((time / 3).clamp(Duration::from_millis(300), Duration::from_secs(5))).await;
    let quiet = victims.attacked.take().1;
    let before = (attacked.memory(), attacked.lines(), attacked.cpu());
    let counted = counter(attack, attacked).await;

    victims.restart();
    let ground = Ground {
        proxy: attacked.address,
        outbound: attacked.outbound.unwrap(),
        attempts: Arc::default(),
    };
    let (peak, attackers) = during(attack, &ground, attacked, time).await;
    let (answers, p99, mut failures) = victims.attacked.take();
    let (_, other, _) = victims.beside.take();
    let cpu = (attacked.cpu() - before.2).as_secs_f64() / time.as_secs_f64();

    // What takes longer than that is still to be counted, and everybody to be served as before.
    let mut met = counter(attack, attacked).await > counted;
    let until = Instant::now() + Duration::from_secs(10);
    while attack.counter.is_some() && !met && Instant::now() < until {
        sleep(Duration::from_millis(50)).await;
        met = counter(attack, attacked).await > counted;
    }
    drop(attackers);
    failures.extend(victims.attacked.take().2);
    drop(victims);

    let attempts = ground.attempts.load(Ordering::Relaxed);
    let grown = peak.saturating_sub(before.0) >> 20;
    let lines = attacked.lines() - before.1;
    let undisturbed = quiet.max(other).max(NOISE / SLOWER);
    println!(
        "{:>20}: {attempts} attempts; {answers} victims served, p99 {p99:.1?} (before {quiet:.1?}, \
         beside {other:.1?}); {grown} MiB, {cpu:.2} cores, {lines} lines",
        attack.name
    );
    let (mut wrong, mut is_slow) = (Vec::new(), false);
    if attempts == 0 || answers == 0 {
        wrong.push("nothing happened".to_owned());
    }
    if quiet > BUSY {
        println!(
            "SKIPPED IN PART: {}: the machine is too busy to compare times",
            attack.name
        );
    } else if p99 > undisturbed.saturating_mul(SLOWER) {
        println!("failed: {}: more than {SLOWER} times as slow", attack.name);
        is_slow = true;
    }
    if let Some(failure) = failures.first() {
        wrong.push(format!("{} victims failed: {failure}", failures.len()));
    }
    if grown > attack.memory {
        wrong.push(format!("more than {} MiB", attack.memory));
    }
    if lines > LINES * (time.as_secs() + 2) {
        wrong.push("the log floods".to_owned());
    }
    if let (Some(counter), false) = (attack.counter, met) {
        wrong.push(format!("{counter} has not counted it"));
    }
    for wrong in &wrong {
        println!("failed: {}: {wrong}", attack.name);
    }
    match (wrong.is_empty(), is_slow) {
        (true, false) => Outcome::Passed,
        (true, true) => Outcome::Slow,
        (false, _) => Outcome::Failed,
    }
}

/// Attacks for `time`; the most memory that the proxy had meanwhile, and those who go on.
async fn during(
    attack: &Attack,
    ground: &Ground,
    attacked: &Proxy,
    time: Duration,
) -> (u64, JoinSet<Result>) {
    let end = tokio::time::Instant::now() + time;
    let mut attackers = JoinSet::new();
    for index in 0..attack.attackers {
        attackers.spawn((attack.attacker)(ground.clone(), index));
    }
    let mut peak = attacked.memory();
    let mut sampled = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(end) => break,
            // Whoever is thrown out comes again.
            Some(_ended) = attackers.join_next() => {
                let index = attackers.len() % attack.attackers.max(1);
                let again = (attack.attacker)(ground.clone(), index);
                attackers.spawn(async move {
                    sleep(Duration::from_millis(5)).await;
                    again.await
                });
            }
        }
        if sampled.elapsed() >= Duration::from_millis(50) {
            sampled = Instant::now();
            peak = peak.max(attacked.memory());
        }
    }
    (peak.max(attacked.memory()), attackers)
}

async fn counter(attack: &Attack, attacked: &Proxy) -> u64 {
    let Some(counter) = attack.counter else {
        return 0;
    };
    attacked.sample(counter).await
}
