//! How many may wait for the same thing at a time, and what has just failed to come.
//!
//! Opening a connection takes a file and a name takes a thread, each for as long as nobody answers. So
//! that one address that swallows everything does not take them all:
//!
//! - for one key there are so many slots, and a line of those who wait for one, first come first served;
//! - all keys that are strangers share a number of slots. One that has worked is no stranger, and does
//!   not wait for what others try;
//! - what ran into its time-out is remembered for a short while, and others get the same failure at
//!   once, those in its line included. After that one may try, and the line waits for what comes of it.
//!
//! The table holds who is at it, and a bounded number of those who were. No lock is held across an
//! `await`, and what is cancelled gives back what it had.

mod table;

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use self::table::Table;

/// What slots are for.
pub(crate) trait Key: Clone + Eq + Hash {}

impl<K: Clone + Eq + Hash> Key for K {}

/// How much there is of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Slots of one key.
    pub(crate) each: usize,
    /// The line of one key.
    pub(crate) line: usize,
    /// Slots of all strangers together.
    pub(crate) strangers: usize,
    /// How long a time-out is remembered.
    pub(crate) memory: Duration,
}

/// Slots by key; clones share them.
#[derive(Debug)]
pub(crate) struct Slots<K: Key>(Arc<Shared<K>>);

/// The right to be at it, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Slot<K: Key> {
    slots: Slots<K>,
    key: Option<K>,
    is_stranger: bool,
    since: Instant,
    end: End,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSlot {
    /// So long ago it ran into its time-out.
    TimedOut(Duration),
    /// Too many are at it, and too many wait.
    Full,
}

/// How many there are now, and how many were turned away so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) taken: usize,
    pub(crate) waiting: usize,
    pub(crate) remembered: u64,
    pub(crate) full: u64,
}

#[derive(Debug)]
struct Shared<K: Key> {
    limits: Limits,
    table: Mutex<Table<K>>,
    remembered: AtomicU64,
    full: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It says nothing about the key.
    Unknown,
    Answered,
    Worked,
    TimedOut,
}

enum Turn<K: Key> {
    Now(Slot<K>),
    Later(oneshot::Receiver<Slot<K>>),
}

impl<K: Key> Slots<K> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared {
            limits,
            table: Mutex::new(Table {
                entries: HashMap::new(),
                taken: 0,
                strangers: 0,
                waiting: 0,
            }),
            remembered: AtomicU64::new(0),
            full: AtomicU64::new(0),
        }))
    }

    pub(crate) fn limits(&self) -> Limits {
        self.0.limits
    }

    pub(crate) fn count(&self) -> Count {
        let table = self.table();
        Count {
            taken: table.taken,
            waiting: table.waiting,
            remembered: self.0.remembered.load(Ordering::Relaxed),
            full: self.0.full.load(Ordering::Relaxed),
        }
    }

    /// A slot for `key`, when it is there. Whoever calls limits the time.
    pub(crate) async fn take(&self, key: &K) -> Result<Slot<K>, NoSlot> {
        loop {
            let turn = match self.turn(key)? {
                Turn::Now(slot) => return Ok(slot),
                Turn::Later(turn) => turn,
            };
            let _waiting = Waiting { slots: self, key };
            if let Ok(slot) = turn.await {
                return Ok(slot);
            }
            // The line is no more: see why.
        }
    }

    /// Whoever waited for what began `since` then waits no longer, though its slot is still held.
    pub(crate) fn timed_out(&self, key: &K, since: Instant) {
        let mut table = self.table();
        let entry = table.entries.get_mut(key);
        let dissolved = entry.map(|entry| entry.time_out(since, &self.0.limits));
        drop(table);
        drop(dissolved);
    }

    /// Counts one that was turned away by its own patience.
    pub(crate) fn turned_away(&self) -> NoSlot {
        self.0.full.fetch_add(1, Ordering::Relaxed);
        NoSlot::Full
    }

    fn turn(&self, key: &K) -> Result<Turn<K>, NoSlot> {
        let limits = &self.0.limits;
        let mut table = self.table();
        let table = &mut *table;
        if !table.entries.contains_key(key) {
            table.make_room(limits.memory);
        }
        let entry = table.entries.entry(key.clone()).or_default();
        if let Some(at) = entry.timed_out {
            let age = at.elapsed();
            if age < limits.memory {
                self.0.remembered.fetch_add(1, Ordering::Relaxed);
                return Err(NoSlot::TimedOut(age));
            }
        }
        let is_stranger = entry.is_stranger();
        let full = is_stranger && table.strangers >= limits.strangers;
        if entry.taken < entry.limit(limits) && !full {
            table.taken += 1;
            table.strangers += usize::from(is_stranger);
            entry.taken += 1;
            return Ok(Turn::Now(self.slot(key.clone(), is_stranger)));
        }
        if entry.taken == 0 || entry.waiting >= limits.line {
            if entry.is_empty() {
                table.entries.remove(key);
            }
            self.0.full.fetch_add(1, Ordering::Relaxed);
            return Err(NoSlot::Full);
        }
        let (sender, turn) = oneshot::channel();
        entry.line.push_back(sender);
        entry.waiting += 1;
        table.waiting += 1;
        Ok(Turn::Later(turn))
    }

    fn slot(&self, key: K, is_stranger: bool) -> Slot<K> {
        Slot {
            slots: self.clone(),
            key: Some(key),
            is_stranger,
            since: Instant::now(),
            end: End::Unknown,
        }
    }

    fn give_back(&self, slot: &mut Slot<K>) {
        let Some(key) = slot.key.take() else { return };
        let mut next = Vec::new();
        let mut dissolved = VecDeque::new();
        {
            let limits = &self.0.limits;
            let mut table = self.table();
            let table = &mut *table;
            table.taken -= 1;
            table.strangers -= usize::from(slot.is_stranger);
            let Some(entry) = table.entries.get_mut(&key) else {
                return;
            };
            entry.taken -= 1;
            match slot.end {
                End::Unknown => {}
                End::Answered => entry.timed_out = None,
                End::Worked => {
                    entry.timed_out = None;
                    entry.worked = Some(Instant::now());
                }
                End::TimedOut => dissolved = entry.time_out(slot.since, limits),
            }
            let is_stranger = entry.is_stranger();
            while entry.taken < entry.limit(limits)
                && !(is_stranger && table.strangers >= limits.strangers)
            {
                let Some(waiting) = entry.line.pop_front() else {
                    break;
                };
                if !waiting.is_closed() {
                    table.taken += 1;
                    table.strangers += usize::from(is_stranger);
                    entry.taken += 1;
                    next.push((waiting, is_stranger));
                }
            }
            if entry.is_empty() {
                table.entries.remove(&key);
            }
        }
        // Out of the lock: a slot that nobody takes comes back here.
        drop(dissolved);
        for (waiting, is_stranger) in next {
            let _ = waiting.send(self.slot(key.clone(), is_stranger));
        }
    }
}

impl<K: Key> Slots<K> {
    /// The table is whole between any two statements that can panic.
    fn table(&self) -> MutexGuard<'_, Table<K>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Key> Clone for Slots<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Key> Slot<K> {
    /// It came: the key is no stranger any more.
    pub(crate) fn worked(&mut self) {
        self.end = End::Worked;
    }

    /// It did not come, but that was said.
    pub(crate) fn answered(&mut self) {
        self.end = End::Answered;
    }

    /// It did not come in time.
    pub(crate) fn timed_out(&mut self) {
        self.end = End::TimedOut;
    }

    /// Since when it is held.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }
}

impl<K: Key> Drop for Slot<K> {
    fn drop(&mut self) {
        let slots = self.slots.clone();
        slots.give_back(self);
    }
}

/// Stands in a line.
struct Waiting<'a, K: Key> {
    slots: &'a Slots<K>,
    key: &'a K,
}

impl<K: Key> Drop for Waiting<'_, K> {
    fn drop(&mut self) {
        let mut table = self.slots.table();
        let table = &mut *table;
        table.waiting -= 1;
        let Some(entry) = table.entries.get_mut(self.key) else {
            return;
        };
        entry.waiting -= 1;
        // Those who have gone take no place, and must not pile up either.
        if entry.line.len() > 2 * entry.waiting + 16 {
            entry.line.retain(|waiting| !waiting.is_closed());
        }
        if entry.is_empty() {
            table.entries.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::{advance, timeout};

    use super::{table::REMEMBERED, *};

    const LIMITS: Limits = Limits {
        each: 2,
        line: 3,
        strangers: 4,
        memory: Duration::from_secs(1),
    };

    fn slots() -> Slots<u32> {
        Slots::new(LIMITS)
    }

    async fn now(slots: &Slots<u32>, key: u32) -> Result<Slot<u32>, NoSlot> {
        timeout(Duration::ZERO, slots.take(&key))
            .await
            .expect("it does not wait")
    }

    fn later(
        slots: &Slots<u32>,
        key: u32,
    ) -> impl Future<Output = Result<Slot<u32>, NoSlot>> + use<> {
        let slots = slots.clone();
        async move { slots.take(&key).await }
    }

    fn numbers(slots: &Slots<u32>) -> (usize, usize) {
        let count = slots.count();
        (count.taken, count.waiting)
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_has_its_slots_and_a_line_behind_them() {
        let slots = slots();
        let first = now(&slots, 1).await.unwrap();
        let second = now(&slots, 1).await.unwrap();
        let mut line = JoinSet::new();
        for _ in 0..3 {
            line.spawn(later(&slots, 1));
        }
        tokio::task::yield_now().await;
        assert_eq!(numbers(&slots), (2, 3));
        assert_eq!(now(&slots, 1).await.unwrap_err(), NoSlot::Full);
        assert_eq!(slots.count().full, 1);
        // Another key has its own.
        drop(now(&slots, 2).await.unwrap());
        drop((first, second));
        while let Some(slot) = line.join_next().await {
            drop(slot.unwrap().unwrap());
        }
        assert_eq!(numbers(&slots), (0, 0));
        assert!(slots.table().entries.is_empty(), "nothing is known of it");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_no_longer_is_passed_over() {
        let slots = slots();
        let (first, _second) = (now(&slots, 1).await.unwrap(), now(&slots, 1).await.unwrap());
        let gone = tokio::spawn(later(&slots, 1));
        let stays = tokio::spawn(later(&slots, 1));
        tokio::task::yield_now().await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        assert_eq!(numbers(&slots), (2, 1));
        drop(first);
        let slot = stays.await.unwrap().unwrap();
        assert_eq!(numbers(&slots), (2, 0));
        // Given, and not taken: the next one has it.
        let gone = tokio::spawn(later(&slots, 1));
        let stays = tokio::spawn(later(&slots, 1));
        tokio::task::yield_now().await;
        drop(slot);
        gone.abort();
        let _ = gone.await;
        assert!(stays.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_come_and_go_leave_nothing() {
        let slots = slots();
        let held = [now(&slots, 1).await.unwrap(), now(&slots, 1).await.unwrap()];
        for _ in 0..1000 {
            let waiting = timeout(Duration::from_millis(1), slots.take(&1));
            assert!(waiting.await.is_err());
        }
        assert!(slots.table().entries[&1].line.len() <= 16);
        drop(held);
        assert_eq!(numbers(&slots), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_out_is_remembered_for_a_while_and_told_to_the_line() {
        let slots = slots();
        let mut slot = now(&slots, 1).await.unwrap();
        let other = now(&slots, 1).await.unwrap();
        let waiting = tokio::spawn(later(&slots, 1));
        tokio::task::yield_now().await;
        advance(Duration::from_secs(2)).await;
        slot.timed_out();
        drop(slot);
        let told = waiting.await.unwrap().unwrap_err();
        assert_eq!(told, NoSlot::TimedOut(Duration::ZERO));
        drop(other);
        advance(Duration::from_millis(400)).await;
        let age = Duration::from_millis(400);
        assert_eq!(now(&slots, 1).await.unwrap_err(), NoSlot::TimedOut(age));
        assert_eq!(slots.count().remembered, 2);

        // Then one tries, and the others wait for what comes of it.
        advance(Duration::from_millis(700)).await;
        let mut probe = now(&slots, 1).await.unwrap();
        let waiting = [(); 2].map(|()| tokio::spawn(later(&slots, 1)));
        tokio::task::yield_now().await;
        assert_eq!(numbers(&slots), (1, 2));
        probe.worked();
        drop(probe);
        for waiting in waiting {
            drop(waiting.await.unwrap().unwrap());
        }
        assert!(now(&slots, 1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_lost_packet_is_no_dead_target() {
        let slots = slots();
        let mut lost = now(&slots, 1).await.unwrap();
        advance(Duration::from_secs(1)).await;
        let mut other = now(&slots, 1).await.unwrap();
        other.worked();
        drop(other);
        advance(Duration::from_secs(1)).await;
        lost.timed_out();
        drop(lost);
        assert!(now(&slots, 1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_an_answer() {
        let slots = slots();
        let mut slot = now(&slots, 1).await.unwrap();
        slot.timed_out();
        drop(slot);
        advance(LIMITS.memory).await;
        let mut probe = now(&slots, 1).await.unwrap();
        probe.answered();
        drop(probe);
        let both = [now(&slots, 1).await, now(&slots, 1).await];
        assert!(both.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_memory_everybody_tries() {
        let slots = Slots::new(Limits {
            memory: Duration::ZERO,
            ..LIMITS
        });
        for _ in 0..3 {
            let mut slot = now(&slots, 1).await.unwrap();
            slot.timed_out();
        }
        assert_eq!(slots.count().remembered, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_do_not_take_what_known_ones_need() {
        let slots = slots();
        let mut friend = now(&slots, 0).await.unwrap();
        friend.worked();
        drop(friend);
        let mut strangers = Vec::new();
        for key in 1..=4 {
            strangers.push(now(&slots, key).await.unwrap());
        }
        assert_eq!(now(&slots, 5).await.unwrap_err(), NoSlot::Full);
        let friends = [now(&slots, 0).await.unwrap(), now(&slots, 0).await.unwrap()];
        drop(strangers.pop());
        assert!(now(&slots, 5).await.is_ok());
        drop((friends, strangers));
        assert_eq!(numbers(&slots), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_the_best_of_it_stays() {
        let slots = slots();
        for key in 0..10_000 {
            let mut slot = now(&slots, key).await.unwrap();
            if key < 100 {
                slot.worked();
            } else {
                slot.timed_out();
            }
            drop(slot);
            assert!(slots.table().entries.len() <= REMEMBERED + 1);
        }
        let table = slots.table();
        assert!((0..100).all(|key| table.entries.contains_key(&key)));
    }
}
