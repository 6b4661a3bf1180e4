//! Which contract came with which id.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use devroute_core::Contract;
use http::HeaderMap;
use tokio::time::Instant;

use super::{
    IdKind, InFlight, Loss, Stats,
    id::{self, Id, ids},
    stats::Counters,
};
use crate::mode::OncePerMinute;

const GRACE: Duration = Duration::from_secs(30);
const MAX_ENTRIES: usize = 16 * 1024;
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Threads seldom want the same of so many locks.
const SHARDS: usize = 16;
/// What an entry takes beside its id and its contract.
const OVERHEAD: usize = 160;

/// The contracts of the requests that a service is answering, by the ids that came with them.
///
/// Clones share one table, and so do threads: it is behind locks that only requests with a contract
/// take, and the service's own requests that come without one. See the [module](super).
///
/// ```
/// use std::time::Duration;
/// use devroute_tower::correlation::Correlations;
///
/// let correlations = Correlations::new()
///     .grace(Duration::from_secs(10))
///     .max_entries(1000);
/// assert_eq!(correlations.stats().entries, 0);
/// ```
#[derive(Clone, Debug)]
pub struct Correlations {
    table: Arc<Table>,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    grace: Duration,
    max_entries: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Table {
    settings: Settings,
    /// Keyed at random, so that nobody can choose ids that meet in one place.
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    entries: AtomicUsize,
    bytes: AtomicUsize,
    counters: Counters,
    log: OncePerMinute,
}

type Key = Arc<[u8]>;

#[derive(Default)]
struct Shard {
    entries: HashMap<Key, Entry>,
    /// Entries there have been, so that each can be told from the next of the same id.
    generation: u64,
}

struct Entry {
    /// None where the id came with different ones.
    contract: Option<Contract>,
    in_flight: usize,
    /// When a request with the id last began or ended.
    touched: Instant,
    generation: u64,
    bytes: usize,
}

impl fmt::Debug for Shard {
    // Layers show it, and it holds the ids and contracts of everybody.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("entries", &self.entries.len())
            .finish_non_exhaustive()
    }
}

/// Where the id of a request is.
pub(super) struct Place {
    key: Key,
    generation: u64,
}

impl fmt::Debug for Place {
    // The same for the body of an answer, and its id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

/// What is known of an id.
enum Found {
    Contract(Contract),
    Ambiguous,
    Nothing,
}

impl Correlations {
    /// An empty table: ids live for 30 seconds after their requests, and there are at most 16384 of
    /// them, in 16 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Settings {
            grace: GRACE,
            max_entries: MAX_ENTRIES,
            max_bytes: MAX_BYTES,
        })
    }

    /// How long ids live after the last request that brought them. Starts a table of its own.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self::with(Settings {
            grace,
            ..self.table.settings
        })
    }

    /// How many ids are remembered at most; one at least. Starts a table of its own.
    #[must_use]
    pub fn max_entries(self, entries: usize) -> Self {
        Self::with(Settings {
            max_entries: entries.max(1),
            ..self.table.settings
        })
    }

    /// How many bytes ids and contracts take at most, about. Starts a table of its own.
    #[must_use]
    pub fn max_bytes(self, bytes: usize) -> Self {
        Self::with(Settings {
            max_bytes: bytes,
            ..self.table.settings
        })
    }

    fn with(settings: Settings) -> Self {
        Self {
            table: Arc::new(Table {
                settings,
                hasher: RandomState::new(),
                shards: Default::default(),
                entries: AtomicUsize::new(0),
                bytes: AtomicUsize::new(0),
                counters: Counters::default(),
                log: OncePerMinute::default(),
            }),
        }
    }

    /// What it holds now, and has seen so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let table = &self.table;
        table.counters.stats(
            table.entries.load(Ordering::Relaxed),
            table.bytes.load(Ordering::Relaxed),
        )
    }

    /// Forgets what has outlived its grace period.
    ///
    /// Such ids restore nothing anyway; this gives their memory back. To be called now and then, by one
    /// task for the whole table.
    pub fn sweep(&self) {
        if self.table.entries.load(Ordering::Relaxed) == 0 {
            return;
        }
        let now = Instant::now();
        for shard in &self.table.shards {
            let mut gone = (0, 0);
            lock(shard).entries.retain(|_, entry| {
                let is_alive = self.is_alive(entry, now);
                if !is_alive {
                    gone = (gone.0 + 1, gone.1 + entry.bytes);
                }
                is_alive
            });
            self.forgotten(gone.0, gone.1);
        }
    }

    /// Remembers the contract of a request by its ids, as long as the request is in flight. One that has
    /// no id gets a `traceparent`.
    pub(super) fn remember(&self, headers: &mut HeaderMap, contract: &Contract) -> InFlight {
        let mut places: Vec<_> = ids(headers).map(|id| self.begun(&id, contract)).collect();
        if places.is_empty() && id::add_traceparent(headers) {
            self.table.counters.traceparents_added.add();
            places.extend(ids(headers).map(|id| self.begun(&id, contract)));
        }
        InFlight::new(self.clone(), places)
    }

    /// The contract that came with the ids of a request.
    ///
    /// # Errors
    ///
    /// Where there is none, or more than one.
    pub(super) fn restore(&self, headers: &HeaderMap) -> Result<(Contract, IdKind), Loss> {
        let mut loss = Loss::NoId;
        let mut restored: Option<(Contract, IdKind)> = None;
        for id in ids(headers) {
            match (self.find(&id), &restored) {
                (Found::Contract(contract), None) => restored = Some((contract, id.kind)),
                (Found::Contract(contract), Some((known, _))) if contract == *known => {}
                (Found::Contract(_), Some(_)) => return Err(Loss::AmbiguousId),
                (Found::Ambiguous, _) => loss = Loss::AmbiguousId,
                (Found::Nothing, _) if loss == Loss::NoId => loss = Loss::UnknownId,
                (Found::Nothing, _) => {}
            }
        }
        restored.ok_or(loss)
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.table.counters
    }

    /// A request with this id has come in.
    fn begun(&self, id: &Id<'_>, contract: &Contract) -> Place {
        let key = id.key();
        let now = Instant::now();
        let place = {
            let mut guard = lock(self.shard(key.as_bytes()));
            let shard = &mut *guard;
            match shard.entries.get_key_value(key.as_bytes()) {
                Some((key, entry)) if self.is_alive(entry, now) => {
                    let place = Place {
                        key: Arc::clone(key),
                        generation: entry.generation,
                    };
                    if let Some(entry) = shard.entries.get_mut(&place.key) {
                        entry.in_flight += 1;
                        entry.touched = now;
                        if entry
                            .contract
                            .as_ref()
                            .is_some_and(|known| known != contract)
                        {
                            entry.contract = None;
                            self.became_ambiguous(id);
                        }
                    }
                    return place;
                }
                _ => {}
            }
            shard.generation += 1;
            let place = Place {
                key: key.as_bytes().into(),
                generation: shard.generation,
            };
            let contract = detached(contract);
            let bytes = OVERHEAD + place.key.len() + contract.as_str().len();
            let entry = Entry {
                contract: Some(contract),
                in_flight: 1,
                touched: now,
                generation: place.generation,
                bytes,
            };
            if let Some(expired) = shard.entries.insert(Arc::clone(&place.key), entry) {
                self.forgotten(1, expired.bytes);
            }
            self.table.entries.fetch_add(1, Ordering::Relaxed);
            self.table.bytes.fetch_add(bytes, Ordering::Relaxed);
            place
        };
        self.make_room(&place);
        place
    }

    /// A request whose ids are in these places is over.
    pub(super) fn ended(&self, places: &[Place]) {
        let now = Instant::now();
        for Place { key, generation } in places {
            let mut shard = lock(self.shard(key));
            // It may have been evicted, and the same id have come again.
            if let Some(entry) = shard.entries.get_mut(key) {
                if entry.generation == *generation {
                    entry.in_flight = entry.in_flight.saturating_sub(1);
                    entry.touched = now;
                }
            }
        }
    }

    fn find(&self, id: &Id<'_>) -> Found {
        if self.table.entries.load(Ordering::Relaxed) == 0 {
            return Found::Nothing;
        }
        let key = id.key();
        let shard = lock(self.shard(key.as_bytes()));
        match shard.entries.get(key.as_bytes()) {
            Some(entry) if self.is_alive(entry, Instant::now()) => match &entry.contract {
                Some(contract) => Found::Contract(contract.clone()),
                None => Found::Ambiguous,
            },
            _ => Found::Nothing,
        }
    }

    /// Evicts until the table is within its bounds again: what is over before what is in flight, and from
    /// the shard of the newest entry first. It is the quietest of a shard that goes, which is about as
    /// good as the quietest of all.
    fn make_room(&self, newest: &Place) {
        let settings = &self.table.settings;
        let is_full = || {
            self.table.entries.load(Ordering::Relaxed) > settings.max_entries
                || self.table.bytes.load(Ordering::Relaxed) > settings.max_bytes
        };
        let first = self.index(&newest.key);
        let shards = || self.table.shards.iter().cycle().skip(first).take(SHARDS);
        let over = shards().map(|shard| (shard, false));
        for (shard, in_flight) in over.chain(shards().map(|shard| (shard, true))) {
            while is_full() {
                let mut shard = lock(shard);
                let quietest = shard
                    .entries
                    .iter()
                    .filter(|(key, entry)| {
                        !Arc::ptr_eq(key, &newest.key) && (in_flight || entry.in_flight == 0)
                    })
                    .min_by_key(|(_, entry)| entry.touched)
                    .map(|(key, _)| Arc::clone(key));
                let Some(evicted) = quietest.and_then(|key| shard.entries.remove(&key)) else {
                    break;
                };
                if self.is_alive(&evicted, Instant::now()) {
                    self.table.counters.evicted.add();
                }
                self.forgotten(1, evicted.bytes);
            }
        }
    }

    fn became_ambiguous(&self, id: &Id<'_>) {
        self.table.counters.ambiguous.add();
        if self.table.log.is_due() {
            tracing::warn!(
                field = id.kind.as_str(),
                id = %id.text.escape_ascii(),
                "an id came in with two different contracts and restores neither: each request, and \
                 what it causes, needs an id of its own"
            );
        }
    }

    fn forgotten(&self, entries: usize, bytes: usize) {
        self.table.entries.fetch_sub(entries, Ordering::Relaxed);
        self.table.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn is_alive(&self, entry: &Entry, now: Instant) -> bool {
        let quiet = now.saturating_duration_since(entry.touched);
        entry.in_flight > 0 || quiet < self.table.settings.grace
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "any part of a hash is as good as another"
    )]
    fn index(&self, key: &[u8]) -> usize {
        self.table.hasher.hash_one(key) as usize % SHARDS
    }

    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        let index = self.index(key);
        let [first, ..] = &self.table.shards;
        self.table.shards.get(index).unwrap_or(first)
    }
}

impl Default for Correlations {
    fn default() -> Self {
        Self::new()
    }
}

/// A shard holds no invariant across a panic, so a poisoned lock is still good.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A copy that does not hold on to the buffer that the head of its request was read into.
fn detached(contract: &Contract) -> Contract {
    Contract::parse(contract.as_str().as_bytes()).unwrap_or_else(|_| contract.clone())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use tokio::time::advance;

    use super::*;

    const A: &str = r#"{"foo":"10.0.0.1:1"}"#;
    const B: &str = r#"{"foo":"10.0.0.2:2"}"#;
    const SECOND: Duration = Duration::from_secs(1);

    fn headers(ids: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        };
        ids.iter().map(field).collect()
    }

    impl Correlations {
        fn came(&self, id: &str, contract: &str) -> InFlight {
            let mut headers = headers(&[("x-request-id", id)]);
            self.remember(&mut headers, &contract.parse().unwrap())
        }

        fn known(&self, id: &str) -> Result<String, Loss> {
            let restored = self.restore(&headers(&[("x-request-id", id)]));
            restored.map(|(contract, _)| contract.to_string())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_it_shows_for_debugging_is_no_id_and_no_contract() {
        let table = Correlations::new();
        let in_flight = table.came("an-id", A);
        let shown = format!("{table:?} {in_flight:?}");
        assert!(shown.contains("entries: 1"), "{shown}");
        let bytes = format!("{:?}", b"an-id");
        for value in ["10.0.0.1", "an-id", bytes.trim_matches(['[', ']'])] {
            assert!(!shown.contains(value), "{shown}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_lives_with_its_requests_and_its_grace_period() {
        let table = Correlations::new().grace(30 * SECOND);
        let (first, second) = (table.came("1", A), table.came("1", A));
        advance(3600 * SECOND).await;
        assert_eq!(table.known("1").as_deref(), Ok(A), "as long as it takes");
        drop(first);
        advance(3600 * SECOND).await;
        table.sweep();
        assert_eq!(
            table.known("1").as_deref(),
            Ok(A),
            "the second is in flight"
        );
        drop(second);
        advance(29 * SECOND).await;
        table.sweep();
        assert_eq!(table.known("1").as_deref(), Ok(A));
        advance(SECOND).await;
        assert_eq!(
            table.known("1"),
            Err(Loss::UnknownId),
            "also where nobody swept"
        );
        assert_eq!(table.stats().entries, 1);
        table.sweep();
        assert_eq!(table.stats(), Stats::default(), "and nothing is left");
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_that_came_with_two_contracts_restores_neither_as_long_as_it_lives() {
        let table = Correlations::new().grace(30 * SECOND);
        let first = table.came("1", A);
        // The same contract in other words is the same.
        let same = table.came("1", r#"{ "foo" : "10.0.0.1:1" }"#);
        assert_eq!(table.known("1").as_deref(), Ok(A));
        let other = table.came("1", B);
        let once_more = table.came("1", A);
        assert_eq!(table.known("1"), Err(Loss::AmbiguousId));
        drop((other, same, once_more));
        advance(60 * SECOND).await;
        assert_eq!(table.known("1"), Err(Loss::AmbiguousId), "one is in flight");
        drop(first);
        advance(29 * SECOND).await;
        assert_eq!(table.known("1"), Err(Loss::AmbiguousId));
        advance(SECOND).await;
        let _next = table.came("1", B);
        assert_eq!(table.known("1").as_deref(), Ok(B), "a new life");
        assert_eq!(table.stats().ambiguous, 1);
    }

    #[tokio::test]
    async fn several_ids_restore_what_they_agree_on() {
        let table = Correlations::new();
        let both = [("x-request-id", "1"), ("x-datadog-trace-id", "1")];
        let _first = table.remember(&mut headers(&both), &A.parse().unwrap());
        let _second = table.came("2", B);
        let _third = table.came("3", A);
        let _fourth = table.came("3", B);
        let restored = |ids: &[(&'static str, &str)]| table.restore(&headers(ids));
        assert!(restored(&both).is_ok());
        assert!(restored(&both[1..]).is_ok());
        let unknown = [("b3", "80f198ee56343ba864fe8b2a57d3eff7-1"), both[0]];
        assert!(restored(&unknown).is_ok());
        let ambiguous = [("x-request-id", "3"), both[1]];
        assert_eq!(restored(&ambiguous).unwrap().1, IdKind::DatadogTraceId);
        let differ = [("x-request-id", "2"), both[1]];
        assert_eq!(restored(&differ).unwrap_err(), Loss::AmbiguousId);
        assert_eq!(restored(&unknown[..1]).unwrap_err(), Loss::UnknownId);
        assert_eq!(restored(&[]).unwrap_err(), Loss::NoId);
    }

    #[tokio::test(start_paused = true)]
    async fn where_it_is_full_the_quietest_goes_and_what_is_in_flight_last() {
        let table = Correlations::new().max_entries(3);
        let oldest = table.came("oldest", A);
        for id in ["over-1", "over-2"] {
            advance(SECOND).await;
            drop(table.came(id, A));
        }
        let (first, second) = (table.came("first", A), table.came("second", A));
        assert_eq!(table.known("over-1"), Err(Loss::UnknownId));
        assert_eq!(table.known("over-2"), Err(Loss::UnknownId));
        assert_eq!(table.known("oldest").as_deref(), Ok(A), "it is in flight");
        let mut held = Vec::new();
        for id in 0..100 {
            advance(SECOND).await;
            held.push(table.came(&id.to_string(), B));
            assert!(table.stats().entries <= 3);
            assert_eq!(
                table.known(&id.to_string()).as_deref(),
                Ok(B),
                "the newest stays"
            );
        }
        assert_eq!(table.stats().evicted, 102);
        // The end of a request whose id was evicted does not end the next one with that id.
        let again = table.came("oldest", B);
        drop((oldest, first, second, held));
        advance(3600 * SECOND).await;
        table.sweep();
        assert_eq!(table.known("oldest").as_deref(), Ok(B));
        drop(again);
        advance(3600 * SECOND).await;
        table.sweep();
        let stats = table.stats();
        assert_eq!((stats.entries, stats.bytes, stats.in_flight), (0, 0, 0));
    }

    #[tokio::test]
    async fn bytes_are_bounded_too() {
        let table = Correlations::new().max_bytes(100 * 1024);
        let long = "x".repeat(120);
        for id in 0..2000 {
            drop(table.came(&format!("{long}{id}"), A));
            assert!(table.stats().bytes <= 100 * 1024);
        }
        assert!(table.stats().entries > 100);
        assert!(table.stats().evicted > 0);
    }

    #[tokio::test]
    async fn a_request_without_an_id_begins_a_trace() {
        let table = Correlations::new();
        let mut sent = headers(&[("x-request-id", "")]);
        let _in_flight = table.remember(&mut sent, &A.parse().unwrap());
        let (restored, kind) = table.restore(&sent).unwrap();
        assert_eq!((restored.as_str(), kind), (A, IdKind::Traceparent));
        assert_eq!(table.stats().traceparents_added, 1);

        let mut has_one = headers(&[("x-request-id", "1")]);
        drop(table.remember(&mut has_one, &A.parse().unwrap()));
        assert!(!has_one.contains_key("traceparent"));
    }

    #[test]
    fn threads_never_see_the_contract_of_another_id() {
        let table = Correlations::new().max_entries(500);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let table = &table;
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for round in 0..5000 {
                        let id = format!("{thread}-{}", round % 97);
                        let contract = format!(r#"{{"foo":"10.{thread}.0.{}:1"}}"#, round % 97);
                        held.push(table.came(&id, &contract));
                        if let Ok(known) = table.known(&id) {
                            assert_eq!(known, contract);
                        }
                        if round % 50 == 49 {
                            held.clear();
                            table.sweep();
                        }
                    }
                });
            }
        });
        let empty = table.clone().grace(Duration::ZERO);
        assert_eq!(empty.stats().entries, 0, "a table of its own");
        let stats = table.stats();
        assert_eq!((stats.in_flight, stats.ambiguous), (0, 0));
        assert!(stats.entries <= 500);
    }
}
