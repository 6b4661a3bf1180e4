//! What is known of each key: who is at it, who waits, and what came of it the last time.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{Key, Limits, Slot};

/// How many keys are remembered that nobody is at.
pub(super) const REMEMBERED: usize = 1024;

pub(super) type Line<K> = VecDeque<oneshot::Sender<Slot<K>>>;

#[derive(Debug)]
pub(super) struct Table<K: Key> {
    pub(super) entries: HashMap<K, Entry<K>>,
    pub(super) taken: usize,
    /// Those of them that strangers have.
    pub(super) strangers: usize,
    pub(super) waiting: usize,
}

#[derive(Debug)]
pub(super) struct Entry<K: Key> {
    pub(super) taken: usize,
    /// Who waits; those who have gone are skipped.
    pub(super) line: Line<K>,
    /// How many of the line are still there.
    pub(super) waiting: usize,
    pub(super) worked: Option<Instant>,
    /// When it ran into its time-out, unless it has worked since.
    pub(super) timed_out: Option<Instant>,
}

impl<K: Key> Table<K> {
    /// Forgets half of the keys that nobody is at, where there are too many: those first that never
    /// worked, and of either kind the oldest.
    pub(super) fn make_room(&mut self, memory: Duration) {
        if self.entries.len() < REMEMBERED + self.taken {
            return;
        }
        let idle = |entry: &Entry<K>| entry.taken == 0 && entry.waiting == 0;
        self.entries.retain(|_, entry| {
            let is_over = entry.timed_out.is_some_and(|at| at.elapsed() >= memory);
            !(idle(entry) && is_over && entry.worked.is_none())
        });
        let mut rest: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| idle(entry))
            .map(|(key, entry)| (entry.worked.is_some(), entry.last(), key.clone()))
            .collect();
        if rest.len() < REMEMBERED {
            return;
        }
        rest.sort_unstable_by_key(|(worked, last, _)| Reverse((*worked, *last)));
        for (_, _, key) in rest.drain(REMEMBERED / 2..) {
            self.entries.remove(&key);
        }
    }
}

impl<K: Key> Entry<K> {
    pub(super) fn limit(&self, limits: &Limits) -> usize {
        match self.timed_out {
            Some(_) => 1,
            None => limits.each,
        }
    }

    /// What began `since` then ran into its time-out; returns the line that is to hear of it.
    pub(super) fn time_out(&mut self, since: Instant, limits: &Limits) -> Line<K> {
        // Another got through in the meantime: a packet was lost, and nothing more.
        let is_lost_packet = self.worked.is_some_and(|at| at >= since);
        if is_lost_packet || limits.memory.is_zero() {
            return VecDeque::new();
        }
        self.timed_out = Some(Instant::now());
        std::mem::take(&mut self.line)
    }

    pub(super) fn is_stranger(&self) -> bool {
        self.worked.is_none() || self.timed_out.is_some()
    }

    fn last(&self) -> Option<Instant> {
        self.worked.max(self.timed_out)
    }

    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == 0 && self.waiting == 0 && self.worked.is_none() && self.timed_out.is_none()
    }
}

impl<K: Key> Default for Entry<K> {
    fn default() -> Self {
        Self {
            taken: 0,
            line: VecDeque::new(),
            waiting: 0,
            worked: None,
            timed_out: None,
        }
    }
}
