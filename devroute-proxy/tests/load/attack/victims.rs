//! Those who only want to be served: clients of two proxies, one of which is attacked.
//!
//! They live in a thread of their own, so that what they measure is the proxy and not the attacker in
//! this process. Both proxies, the victims and the attacker share the machine's cores. The one that is
//! not attacked therefore shows what the load of the machine makes of the times; what the attacked one
//! adds to that is its own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsConnector;

use super::tls;
use crate::asking::Connection;

/// The time between two requests of one victim.
const PACE: Duration = Duration::from_millis(10);
/// Victims of each proxy: half of them by HTTP/1.1, half by HTTP/2.
const VICTIMS: usize = 6;

/// Times of answers, and what was not answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Times(Arc<Mutex<Measured>>);

#[derive(Debug, Default)]
struct Measured {
    times: Vec<Duration>,
    failures: Vec<String>,
    /// Those that are awaited, by victim, since then.
    awaited: [Option<Instant>; VICTIMS],
}

impl Times {
    fn began(&self, victim: usize) {
        self.0.lock().unwrap().awaited[victim] = Some(Instant::now());
    }

    fn ended(&self, victim: usize, failure: Option<String>) {
        let mut measured = self.0.lock().unwrap();
        let began = measured.awaited[victim].take();
        match failure {
            None => measured.times.extend(began.map(|began| began.elapsed())),
            Some(failure) => measured.failures.push(failure),
        }
    }

    /// Takes what there is so far.
    ///
    /// What is still awaited counts with the time that it has taken: who waits longest is not left out.
    pub(super) fn take(&self) -> Taken {
        let mut measured = self.0.lock().unwrap();
        let mut times = std::mem::take(&mut measured.times);
        let failures = std::mem::take(&mut measured.failures);
        let answered = times.len();
        times.extend(measured.awaited.iter().flatten().map(Instant::elapsed));
        drop(measured);
        times.sort_unstable();
        let at = (times.len() * 99).div_ceil(100).saturating_sub(1);
        Taken {
            answered,
            p99: times.get(at).copied().unwrap_or(Duration::MAX),
            longest: times.last().copied().unwrap_or_default(),
            failures,
        }
    }
}

/// What was measured in a while.
#[derive(Debug)]
pub(super) struct Taken {
    /// How many requests were answered.
    pub(super) answered: usize,
    pub(super) p99: Duration,
    pub(super) longest: Duration,
    pub(super) failures: Vec<String>,
}

/// The victims of two proxies, until it is dropped.
#[derive(Debug)]
pub(super) struct Victims {
    pub(super) attacked: Times,
    pub(super) beside: Times,
    stop: Option<watch::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Victims {
    /// They speak TLS where they are given what makes them believe the proxies.
    pub(super) fn of(
        attacked: SocketAddr,
        beside: SocketAddr,
        connector: Option<TlsConnector>,
    ) -> Self {
        let times = [Times::default(), Times::default()];
        let (stop, stopped) = watch::channel(());
        let [of_attacked, of_beside] = times.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let mut victims = JoinSet::new();
                for (address, times) in [(attacked, of_attacked), (beside, of_beside)] {
                    for index in 0..VICTIMS {
                        victims.spawn(ask(address, index, times.clone(), connector.clone()));
                    }
                }
                let mut stopped = stopped;
                let _ = stopped.changed().await;
            });
        });
        let [attacked, beside] = times;
        Self {
            attacked,
            beside,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Forgets what has been measured.
    pub(super) fn restart(&self) {
        self.attacked.take();
        self.beside.take();
    }
}

impl Drop for Victims {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Asks at its pace; every hundredth time on a new connection, whose opening counts.
async fn ask(address: SocketAddr, index: usize, times: Times, connector: Option<TlsConnector>) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut connection: Option<Connection> = None;
        for _ in 0..100 {
            pace.tick().await;
            times.began(index);
            let answered = async {
                let mut open = match (connection.take(), &connector) {
                    (Some(open), _) => open,
                    (None, Some(connector)) => {
                        let stream = tls::connect(connector, address).await?;
                        Connection::http1_over(stream).await?
                    }
                    (None, None) if index % 2 == 0 => Connection::http1(address).await?,
                    (None, None) => Connection::http2(address).await?,
                };
                let answer = open.get("/").await?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>((open, answer))
            };
            match answered.await {
                Ok((open, answer)) if answer.body == "service" => {
                    times.ended(index, None);
                    connection = Some(open);
                }
                Ok((_, answer)) => times.ended(index, Some(format!("{answer:?}"))),
                Err(error) => times.ended(index, Some(error.to_string())),
            }
        }
    }
}
