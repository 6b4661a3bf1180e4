//! Looking up names, without letting a slow name service take the threads that everybody needs.
//!
//! The system's resolver blocks a thread until it answers, or gives up after many seconds; whoever asked
//! has gone by then. So a look-up holds its slot until the thread is free again, and not only as long as
//! somebody waits for it. What a name may take is what an address may (`slots`): four threads, a line
//! behind them, and a second of memory where the name service did not answer in time.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use super::{
    Error, ErrorKind,
    slots::{Limits, NoSlot, Slots},
};

/// Threads that one name may take.
const EACH: usize = 4;
/// Threads that all names together may take which have not been found before.
const STRANGERS: usize = 32;

/// The look-ups that are under way; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Lookups(Slots<Arc<str>>);

impl Lookups {
    pub(crate) fn new() -> Self {
        Self(Slots::new(Limits {
            each: EACH,
            line: 1024,
            strangers: STRANGERS,
            memory: Duration::from_secs(1),
        }))
    }

    /// The addresses of `host`, as the system knows them, if it says so within `time`.
    pub(crate) async fn find(
        &self,
        host: Arc<str>,
        port: u16,
        time: Duration,
    ) -> Result<Vec<SocketAddr>, Error> {
        self.ask(host, time, move |host| {
            (host, port).to_socket_addrs().map(Iterator::collect)
        })
        .await
    }

    async fn ask(
        &self,
        host: Arc<str>,
        time: Duration,
        resolver: impl FnOnce(&str) -> std::io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> Result<Vec<SocketAddr>, Error> {
        let deadline = Instant::now() + time;
        let slot = match timeout_at(deadline, self.0.take(&host)).await {
            Ok(slot) => slot,
            Err(_elapsed) => Err(self.0.turned_away()),
        };
        let mut slot = slot.map_err(|refused| match refused {
            NoSlot::TimedOut(age) => {
                Error::without_addr(ErrorKind::DnsTimeout).with_detail(format!(
                    "is a name whose look-up got no answer {} ms ago, and that is not tried again yet",
                    age.as_millis()
                ))
            }
            NoSlot::Full => Error::without_addr(ErrorKind::DnsLimit),
        })?;
        let (since, name) = (slot.since(), Arc::clone(&host));
        let looking = spawn_blocking(move || {
            let found = resolver(&name);
            // What came late says nothing about the next time.
            if Instant::now() < deadline {
                match found {
                    Ok(_) => slot.worked(),
                    Err(_) => slot.answered(),
                }
            }
            found
        });
        match timeout_at(deadline, looking).await {
            Ok(Ok(Ok(found))) => Ok(found),
            Ok(Ok(Err(error))) => Err(Error::without_addr(ErrorKind::DnsFailed).with_source(error)),
            Ok(Err(error)) => Err(Error::without_addr(ErrorKind::DnsFailed).with_source(error)),
            Err(elapsed) => {
                // What waited for its turn before has had less time than a look-up needs.
                if since.elapsed() >= time / 2 {
                    self.0.timed_out(&host, since);
                }
                Err(Error::without_addr(ErrorKind::DnsTimeout).with_source(elapsed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use tokio::task::JoinSet;

    use super::*;

    /// A name service that answers when it is told to.
    struct Slow {
        lookups: Lookups,
        asked: Arc<AtomicUsize>,
        gates: Vec<mpsc::Sender<()>>,
    }

    impl Slow {
        fn new() -> Self {
            Self {
                lookups: Lookups::new(),
                asked: Arc::default(),
                gates: Vec::new(),
            }
        }

        fn ask(
            &mut self,
            host: &str,
            time: Duration,
        ) -> impl Future<Output = Result<Vec<SocketAddr>, ErrorKind>> + Send + use<> {
            let (gate, opened) = mpsc::channel();
            self.gates.push(gate);
            let (lookups, asked) = (self.lookups.clone(), Arc::clone(&self.asked));
            let host = Arc::from(host);
            async move {
                let found = lookups.ask(host, time, move |_| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    // Until it is told, or the test is over.
                    let _ = opened.recv();
                    Ok(vec![SocketAddr::from(([10, 0, 0, 1], 80))])
                });
                found.await.map_err(|error| error.kind())
            }
        }

        /// How many look-ups have got a thread so far.
        fn threads(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }

        async fn asked(&self, expected: usize) {
            while self.threads() < expected {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_name_is_found_with_the_port_that_is_asked_for() {
        let found = Lookups::new().find("127.0.0.1".into(), 81, LONG).await;
        assert_eq!(found.unwrap(), [SocketAddr::from(([127, 0, 0, 1], 81))]);
    }

    #[tokio::test]
    async fn one_name_takes_a_few_threads_and_others_are_found_meanwhile() {
        let mut slow = Slow::new();
        let mut waiting = JoinSet::new();
        for _ in 0..100 {
            waiting.spawn(slow.ask("slow.test", LONG));
        }
        slow.asked(EACH).await;
        let other = slow.ask("other.test", LONG);
        slow.gates.pop();
        assert_eq!(other.await.unwrap().len(), 1);
        assert_eq!(slow.threads(), EACH + 1, "those that were asked, ever");
        slow.gates.clear();
        while let Some(found) = waiting.join_next().await {
            assert_eq!(found.unwrap().unwrap().len(), 1);
        }
    }

    #[tokio::test]
    async fn many_names_take_a_bounded_number_and_those_that_are_known_are_found_meanwhile() {
        let mut slow = Slow::new();
        let known = slow.ask("known.test", LONG);
        slow.gates.pop();
        known.await.unwrap();
        let mut waiting = JoinSet::new();
        for name in 0..200 {
            waiting.spawn(slow.ask(&format!("{name}.test"), LONG));
        }
        // Those who find no thread are told so at once.
        for _ in STRANGERS..200 {
            let refused = waiting.join_next().await.unwrap().unwrap();
            assert_eq!(refused, Err(ErrorKind::DnsLimit));
        }
        slow.asked(STRANGERS + 1).await;
        assert_eq!(slow.threads(), STRANGERS + 1, "the known one before them");
        let known = slow.ask("known.test", LONG);
        slow.gates.pop();
        assert_eq!(known.await.unwrap().len(), 1);
        slow.gates.clear();
        while let Some(found) = waiting.join_next().await {
            found.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_thread_is_taken_until_it_is_free_and_a_time_out_is_remembered() {
        let mut slow = Slow::new();
        let late = slow.ask("slow.test", Duration::from_millis(50)).await;
        assert_eq!(late, Err(ErrorKind::DnsTimeout));
        assert_eq!(slow.lookups.0.count().taken, 1, "its thread still asks");
        let again = slow.ask("slow.test", LONG).await;
        assert_eq!(again, Err(ErrorKind::DnsTimeout), "at once");
        assert_eq!(slow.lookups.0.count().remembered, 1);
        slow.gates.clear();
        while slow.lookups.0.count().taken > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
