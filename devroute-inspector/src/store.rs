//! What is kept of what has passed, and who looks at it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, response};
use serde_json::Value;
use tokio::sync::{Notify, broadcast};

use crate::Limits;
use crate::exchange::{AnswerHead, BodyState, Captured, End, Exchange, RequestHead, fields_size};
use crate::replay::Replay;

/// How often the page is told that there is more of a body.
const PACE: Duration = Duration::from_millis(200);
/// Changes that a page may be behind; one that is further behind begins anew.
const BEHIND: usize = 256;

/// Keeps exchanges, the oldest first.
///
/// Everything is behind one lock, which is held for a copy of one frame, or of one exchange that a page
/// asks for. No lock is taken while nobody watches.
#[derive(Debug)]
pub(crate) struct Store {
    limits: Limits,
    watchers: AtomicUsize,
    kept: Mutex<Kept>,
    changes: broadcast::Sender<Change>,
    forgotten: Notify,
}

#[derive(Default)]
struct Kept {
    exchanges: VecDeque<Exchange>,
    next: u64,
    size: usize,
    /// Counts the pages that were opened, so that one which has been closed long ago can tell whether it
    /// was the last.
    opened: u64,
}

impl fmt::Debug for Kept {
    // A layer shows it, and it holds requests with all that is in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("exchanges", &self.exchanges.len())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Something that a page should know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    /// There is more of this one.
    Of(u64),
    /// This one, and all before it, are gone.
    Gone(u64),
}

/// Which of the two bodies of an exchange.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Request,
    Response,
}

impl Default for Store {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            watchers: AtomicUsize::new(0),
            kept: Mutex::default(),
            changes: broadcast::Sender::new(BEHIND),
            forgotten: Notify::new(),
        }
    }

    /// Whether anything is to be recorded. This is all that a request costs where not.
    pub(crate) fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// Records from now on, until what is returned is dropped, and a while longer.
    pub(crate) fn watch(self: &Arc<Self>) -> Watch {
        self.lock().opened += 1;
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watch {
            changes: self.changes.subscribe(),
            store: Arc::clone(self),
        }
    }

    /// Waits until everything is forgotten.
    pub(crate) async fn is_forgotten(&self) {
        self.forgotten.notified().await;
    }

    /// Begins an exchange; its number.
    pub(crate) fn begin(
        &self,
        service: Arc<str>,
        head: RequestHead,
        replay: Arc<dyn Replay>,
        replay_of: Option<u64>,
    ) -> u64 {
        let size = head.size();
        let began = Instant::now();
        let mut kept = self.lock();
        kept.next += 1;
        let id = kept.next;
        kept.size += size;
        kept.exchanges.push_back(Exchange {
            id,
            service,
            head,
            request: Captured::default(),
            answer: None,
            response: Captured::default(),
            end: None,
            replay_of,
            replay,
            started: SystemTime::now(),
            began,
            size,
            told: began,
        });
        self.make_room(&mut kept);
        self.tell(Change::Of(id));
        id
    }

    /// The answer has begun.
    pub(crate) fn answered(&self, id: u64, parts: &response::Parts) {
        self.change(id, |exchange| {
            let answer = AnswerHead::of(parts, exchange.began.elapsed());
            let size = fields_size(&answer.headers);
            exchange.answer = Some(answer);
            size
        });
    }

    /// There will be no more of the answer.
    pub(crate) fn ended(&self, id: u64, end: End) {
        self.change(id, |exchange| {
            let after = exchange.began.elapsed();
            exchange.end.get_or_insert((after, end));
            0
        });
    }

    /// A part of a body has passed.
    pub(crate) fn data(&self, id: u64, side: Side, data: &Bytes) {
        let mut kept = self.lock();
        let Some(exchange) = kept.find(id) else {
            return;
        };
        let size = exchange.body(side).push(data, self.limits.body);
        exchange.size += size;
        let is_time = exchange.told.elapsed() >= PACE;
        if is_time {
            exchange.told = Instant::now();
        }
        kept.size += size;
        self.make_room(&mut kept);
        if is_time {
            self.tell(Change::Of(id));
        }
    }

    /// The trailers of a body have passed.
    pub(crate) fn trailers(&self, id: u64, side: Side, trailers: &HeaderMap) {
        self.change(id, |exchange| {
            let size = fields_size(trailers);
            exchange.body(side).trailers = Some(trailers.clone());
            size
        });
    }

    /// A body has ended; with that of the response, the exchange.
    pub(crate) fn body_ended(&self, id: u64, side: Side, state: BodyState) {
        self.change(id, |exchange| {
            let after = exchange.began.elapsed();
            let end = match state {
                BodyState::Open | BodyState::Complete => End::Complete,
                BodyState::Cut(_) => End::Cut,
                BodyState::Dropped => End::Dropped,
            };
            if side == Side::Response {
                exchange.end.get_or_insert((after, end));
            }
            let body = exchange.body(side);
            body.state = state;
            body.after = Some(after);
            0
        });
    }

    /// The summaries of all, the oldest first.
    pub(crate) fn summaries(&self) -> Vec<Value> {
        let kept = self.lock();
        kept.exchanges.iter().map(Exchange::summary).collect()
    }

    /// What `look` makes of one of them, which nothing passes meanwhile.
    pub(crate) fn look<T>(&self, id: u64, look: impl FnOnce(&Exchange) -> T) -> Option<T> {
        self.lock().find(id).map(|exchange| look(exchange))
    }

    /// One of them as it is now, to be looked at while others go on.
    pub(crate) fn copy(&self, id: u64) -> Option<Exchange> {
        self.look(id, Exchange::clone)
    }

    /// The numbers of all.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let kept = self.lock();
        kept.exchanges.iter().map(|exchange| exchange.id).collect()
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        let mut kept = self.lock();
        kept.exchanges.clear();
        kept.size = 0;
        let last = kept.next;
        drop(kept);
        self.forgotten.notify_waiters();
        self.tell(Change::Gone(last));
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Exchange) -> usize) {
        let mut kept = self.lock();
        let Some(exchange) = kept.find(id) else {
            return;
        };
        let size = change(exchange);
        exchange.size += size;
        kept.size += size;
        self.make_room(&mut kept);
        self.tell(Change::Of(id));
    }

    /// Lets the oldest go until what is left is within the limits.
    fn make_room(&self, kept: &mut Kept) {
        let mut gone = None;
        while kept.exchanges.len() > self.limits.entries || kept.size > self.limits.bytes {
            let Some(oldest) = kept.exchanges.pop_front() else {
                break;
            };
            kept.size = kept.size.saturating_sub(oldest.size);
            gone = Some(oldest.id);
        }
        if let Some(id) = gone {
            self.tell(Change::Gone(id));
        }
    }

    fn tell(&self, change: Change) {
        // Nobody listens: then nobody has to know.
        let _ = self.changes.send(change);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn find(&mut self, id: u64) -> Option<&mut Exchange> {
        let place = self.exchanges.binary_search_by_key(&id, |it| it.id).ok()?;
        self.exchanges.get_mut(place)
    }
}

impl Exchange {
    fn body(&mut self, side: Side) -> &mut Captured {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }
}

/// A page that is open.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) changes: broadcast::Receiver<Change>,
    store: Arc<Store>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let opened = self.store.lock().opened;
        if self.store.watchers.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.store.clear();
        };
        // A page that is loaded again finds what it had.
        let store = Arc::clone(&self.store);
        runtime.spawn(async move {
            tokio::time::sleep(store.limits.unwatched).await;
            if store.lock().opened == opened {
                store.clear();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::Never;

    fn store(limits: Limits) -> Arc<Store> {
        Arc::new(Store::new(limits))
    }

    fn begin(store: &Store, path: &str) -> u64 {
        let (parts, ()) = http::Request::get(path).body(()).unwrap().into_parts();
        store.begin("foo".into(), RequestHead::of(&parts), Arc::new(Never), None)
    }

    #[test]
    fn the_oldest_goes_by_number() {
        let store = store(Limits {
            entries: 2,
            ..Limits::default()
        });
        for _ in 0..3 {
            begin(&store, "/");
        }
        assert_eq!(store.ids(), [2, 3]);
    }

    #[test]
    fn the_oldest_goes_by_bytes_whoever_grows() {
        let store = store(Limits {
            bytes: 1000,
            ..Limits::default()
        });
        let (first, second) = (begin(&store, "/"), begin(&store, "/"));
        let half = Bytes::from(vec![0; 600]);
        store.data(first, Side::Response, &half);
        assert_eq!(store.ids(), [first, second]);
        store.data(second, Side::Request, &half);
        assert_eq!(store.ids(), [second]);
        // What is gone grows no more, and takes nothing from the others.
        store.data(first, Side::Response, &half);
        store.body_ended(first, Side::Response, BodyState::Complete);
        assert_eq!(store.ids(), [second]);
        let sizes: usize = store.lock().exchanges.iter().map(|it| it.size).sum();
        assert_eq!(store.lock().size, sizes);
    }

    #[test]
    fn a_single_one_that_is_too_large_goes_as_well() {
        let store = store(Limits {
            bytes: 100,
            ..Limits::default()
        });
        let only = begin(&store, "/");
        store.data(only, Side::Request, &Bytes::from(vec![0; 200]));
        assert_eq!(store.ids(), [0; 0]);
        assert_eq!(store.lock().size, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_has_looked_at_for_a_while_is_forgotten() {
        let store = store(Limits::default());
        let watch = store.watch();
        assert!(store.is_watched());
        begin(&store, "/");
        drop(watch);
        assert!(!store.is_watched());
        tokio::time::sleep(Duration::from_secs(4 * 60)).await;
        let again = store.watch();
        tokio::time::sleep(Duration::from_secs(10 * 60)).await;
        assert_eq!(store.ids(), [1], "the page was opened again");
        drop(again);
        tokio::time::sleep(Duration::from_secs(5 * 60 + 1)).await;
        assert_eq!(store.ids(), [0; 0]);
    }

    #[tokio::test]
    async fn a_page_is_told_what_comes_and_what_goes() {
        let store = store(Limits {
            entries: 1,
            ..Limits::default()
        });
        let mut watch = store.watch();
        let (first, second) = (begin(&store, "/"), begin(&store, "/"));
        let mut told = Vec::new();
        while let Ok(change) = watch.changes.try_recv() {
            told.push(change);
        }
        let expected = [Change::Of(first), Change::Gone(first), Change::Of(second)];
        assert_eq!(told, expected);
    }
}
