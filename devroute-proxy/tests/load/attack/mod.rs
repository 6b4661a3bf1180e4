//! Attacks on a proxy, each by itself, and what becomes of everybody else meanwhile.
//!
//! Two proxies stand side by side: one is attacked, and one is not. Both have victims, clients that ask
//! at a steady pace (`victims.rs`). Of each attack is asserted:
//!
//! - it took place, and the attacked proxy serves afterwards;
//! - every request of a victim is answered, before, meanwhile and afterwards;
//! - the 99th percentile of the times of victims meanwhile is at most [`SLOWER`] times the undisturbed one. That is
//!   the largest of three: that of the same proxy before the attack, that of the same proxy after it, and that of
//!   the other proxy at the same time, so that the attacker's own share of the cores is not taken for the
//!   proxy's; and it is no less than a quarter of [`NOISE`];
//! - it is at most [`CEILING`] in any case, and no answer takes longer than [`LONGEST`], however busy the machine is
//!   and whatever the other figures are;
//! - the proxy's memory grows by no more than what is allowed for it;
//! - its log says next to nothing, and the counter that is meant for the attack has counted it. Where there is
//!   none, nothing of the proxy's acts, on purpose, and the attack says why that does no harm.
//!
//! The processor time that the attacked proxy takes is printed. Where only the times are wrong, the attack
//! is made once more: they have to be wrong twice.

mod clients;
mod frames;
mod http2;
mod targets;
pub(crate) mod tls;
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
/// What the 99th percentile of an answer's time may be in any case: four times the most that was seen of a
/// build without optimisation (112 ms), on two cores at a load of ten.
const CEILING: Duration = Duration::from_millis(500);
/// What the time of any answer may be.
const LONGEST: Duration = Duration::from_secs(2);
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

/// An attack of which it is not said yet what the proxy has to show for it.
struct Draft {
    name: &'static str,
    attackers: usize,
    attacker: Box<dyn Fn(Ground, usize) -> Attacking>,
}

struct Attack {
    name: &'static str,
    /// How many attack at a time.
    attackers: usize,
    attacker: Box<dyn Fn(Ground, usize) -> Attacking>,
    shows: Shows,
    memory: u64,
    /// Whether it is about proxies that speak TLS.
    tls: bool,
}

/// What the proxy has to show for an attack.
#[derive(Clone, Copy, Debug)]
enum Shows {
    /// The counter that has to count it.
    Count(&'static str),
    /// The same, as often as there are attempts: a counter that has others as well.
    CountOfEach(&'static str),
    /// Nothing, because of this.
    Harmless(&'static str),
}

impl Shows {
    fn counter(self) -> Option<&'static str> {
        match self {
            Self::Count(counter) | Self::CountOfEach(counter) => Some(counter),
            Self::Harmless(_) => None,
        }
    }

    /// How much the counter has to have grown by.
    fn least(self, attempts: u64) -> u64 {
        match self {
            Self::Count(_) => 1,
            Self::CountOfEach(_) => attempts,
            Self::Harmless(_) => 0,
        }
    }
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

impl Draft {
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
        }
    }

    fn target(name: &'static str, contract: String) -> Self {
        Self::new(name, 10, move |ground, _| {
            targets::ask(ground, contract.clone())
        })
    }

    fn counted(self, counter: &'static str) -> Attack {
        self.shows(Shows::Count(counter))
    }

    fn each_counted(self, counter: &'static str) -> Attack {
        self.shows(Shows::CountOfEach(counter))
    }

    fn harmless(self, why: &'static str) -> Attack {
        self.shows(Shows::Harmless(why))
    }

    fn shows(self, shows: Shows) -> Attack {
        Attack {
            name: self.name,
            attackers: self.attackers,
            attacker: self.attacker,
            shows,
            memory: MEMORY,
            tls: false,
        }
    }
}

impl Attack {
    fn by_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    fn memory(mut self, memory: u64) -> Self {
        self.memory = memory;
        self
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

const CONNECTIONS: &str = r#"devroute_connections_total{listener="proxy"}"#;

/// Why nothing ends a request that goes on, however slowly.
const NO_HURRY: &str = "a developer may sit at a breakpoint, and it takes one connection";
/// What h2 does with frames that have to be answered.
const IN_TURN: &str = "each is answered before the next is read, so nothing heaps up";

/// All of them.
async fn attacks(service: SocketAddr, connector: TlsConnector) -> (Vec<Attack>, BlackHoles) {
    let holes = BlackHoles::dig(8).await;
    let contracts = holes.contracts.clone();
    let attacks = vec![
        Draft::new("slow-head", 300, clients::slow_head).counted(HEAD),
        Draft::new("slow-body", 300, clients::slow_body).harmless(NO_HURRY),
        Draft::new("slow-reader", 100, clients::slow_reader).harmless(NO_HURRY),
        Draft::new("idle", 500, clients::idle).counted(FIRST_BYTE),
        Draft::new("half-open", 100, clients::half_open).counted(GONE),
        Draft::new("large-heads", 8, clients::large_heads).counted(HEADS),
        Draft::new("churn", 4, clients::churn).each_counted(CONNECTIONS),
        Draft::new("rapid-reset", 4, http2::rapid_reset).counted(FLOOD),
        Draft::new("slow-reset", 8, http2::slow_reset).counted(GONE),
        Draft::new("continuation", 4, http2::continuation).counted(FLOOD),
        Draft::new("made-you-reset", 4, http2::made_you_reset).counted(FLOOD),
        Draft::new("settings", 4, http2::settings).harmless(IN_TURN),
        Draft::new("ping", 4, http2::ping).harmless(IN_TURN),
        Draft::new("empty-data", 4, http2::empty_data).counted(FLOOD),
        Draft::new("priority", 4, http2::priority)
            .harmless("they are read, and nothing is kept of them"),
        Draft::new("window-updates", 4, http2::window_updates)
            .harmless("a number is added to, and nothing is answered"),
        Draft::new("small-windows", 8, http2::small_windows)
            .harmless("an answer waits for its client, and one chunk of it is held")
            .memory(64),
        Draft::new("streams", 2, http2::streams).counted(STREAMS),
        Draft::new("hpack", 4, http2::hpack).counted(FLOOD),
        Draft::new("large-lists", 4, http2::large_lists).counted(HEADS),
        Draft::new("tls-handshakes", 10, move |ground, index| {
            tls::handshakes(ground, connector.clone(), index)
        })
        .counted(HANDSHAKES)
        .by_tls(),
        Draft::new("ids", 10, clients::ids).counted(EVICTED),
        Draft::new("tunnels", 100, move |ground, _| {
            clients::tunnels(ground, service)
        })
        .counted(TUNNELS),
        Draft::target("target-slow-head", Says::drip().listen().await).harmless(NO_HURRY),
        Draft::target("target-informational", Says::informational().listen().await)
            .counted(PROTOCOL),
        Draft::target("target-fields", Says::fields().listen().await).counted(PROTOCOL),
        Draft::target("target-trailers", Says::trailers().listen().await).counted(CUT),
        Draft::target("target-extension", Says::extension().listen().await).counted(CUT),
        Draft::target("target-hpack", Says::hpack().listen().await).counted(PROTOCOL),
        Draft::target("target-goaway", Says::goaway().listen().await).counted(CLOSED),
        Draft::target("target-resets", Says::resets().listen().await).counted(CUT),
        Draft::target("target-empty-data", Says::empty_data().listen().await).counted(CUT),
        Draft::target("target-reset-first", Says::reset_first().listen().await).counted(CLOSED),
        Draft::target("target-reset-head", Says::reset_head().listen().await).counted(CUT),
        Draft::target("target-reset-body", Says::reset_body().listen().await).counted(CUT),
        Draft::new("black-holes", 200, move |ground, index| {
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
    let rest = (time / 3).clamp(Duration::from_millis(300), Duration::from_secs(5));
    sleep(rest).await;
    let quiet = victims.attacked.take();
    let before = (attacked.memory(), attacked.lines(), attacked.cpu());
    let counted = counter(attack, attacked).await;

    victims.restart();
    let ground = Ground {
        proxy: attacked.address,
        outbound: attacked.outbound.unwrap(),
        attempts: Arc::default(),
    };
    let (peak, attackers) = during(attack, &ground, attacked, time).await;
    let under = victims.attacked.take();
    let other = victims.beside.take();
    let cpu = (attacked.cpu() - before.2).as_secs_f64() / time.as_secs_f64();

    // What takes longer than that is still to be counted, and everybody to be served as before.
    let attempts = ground.attempts.load(Ordering::Relaxed);
    let least = attack.shows.least(attempts);
    let until = Instant::now() + Duration::from_secs(10);
    let mut count = counter(attack, attacked).await - counted;
    while count < least && Instant::now() < until {
        sleep(Duration::from_millis(50)).await;
        count = counter(attack, attacked).await - counted;
    }
    drop(attackers);
    // What the attackers have left behind is cleared away.
    sleep(Duration::from_millis(200)).await;
    let meanwhile = victims.attacked.take();
    victims.beside.take();
    sleep(rest).await;
    let after = victims.attacked.take();
    drop(victims);

    let grown = peak.saturating_sub(before.0) >> 20;
    let lines = attacked.lines() - before.1;
    let p99 = under.p99;
    println!(
        "{:>20}: {attempts} attempts; {} victims served, p99 {p99:.1?} (before {:.1?}, after {:.1?}, \
         beside {:.1?}), longest {:.1?}; {grown} MiB, {cpu:.2} cores, {lines} lines",
        attack.name, under.answered, quiet.p99, after.p99, other.p99, under.longest
    );
    let (mut wrong, mut slow) = (Vec::new(), Vec::new());
    match attack.shows {
        Shows::Count(counter) | Shows::CountOfEach(counter) if count < least => {
            wrong.push(format!("{counter} has counted {count} of {least}"));
        }
        Shows::Harmless(why) => println!("{:>20}  no counter: {why}", ""),
        Shows::Count(_) | Shows::CountOfEach(_) => {}
    }
    if attempts == 0 || under.answered == 0 {
        wrong.push("nothing happened".to_owned());
    }
    if after.answered == 0 {
        wrong.push("nobody is served afterwards".to_owned());
    }
    let undisturbed = [quiet.p99, after.p99, other.p99, NOISE / SLOWER];
    let undisturbed = undisturbed.into_iter().max().unwrap();
    if p99 > undisturbed.saturating_mul(SLOWER) {
        slow.push(format!("more than {SLOWER} times as slow"));
    }
    if p99 > CEILING {
        slow.push(format!("slower than {CEILING:?}"));
    }
    let longest = under.longest.max(meanwhile.longest);
    if longest > LONGEST {
        slow.push(format!("an answer took {longest:.1?}"));
    }
    let all = [quiet, under, meanwhile, after];
    let failures: Vec<_> = all.into_iter().flat_map(|it| it.failures).collect();
    if let Some(failure) = failures.first() {
        wrong.push(format!("{} victims failed: {failure}", failures.len()));
    }
    if grown > attack.memory {
        wrong.push(format!("more than {} MiB", attack.memory));
    }
    if lines > LINES * (time.as_secs() + 2) {
        wrong.push("the log floods".to_owned());
    }
    for wrong in wrong.iter().chain(&slow) {
        println!("failed: {}: {wrong}", attack.name);
    }
    match (wrong.is_empty(), slow.is_empty()) {
        (true, true) => Outcome::Passed,
        (true, false) => Outcome::Slow,
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
    let Some(counter) = attack.shows.counter() else {
        return 0;
    };
    attacked.sample(counter).await
}
