//! How many connections there may be.
//!
//! One that is one too many is not left in the queue, where its client would wait for nobody: it is
//! served to the point where it can be told 503, with little time and in a small number. Beyond that
//! number it is closed at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::metrics::{ConnectionMetrics, Limit, OpenConnection};

/// The connections at a time that are told why they are refused.
const REFUSED: usize = 128;

/// A connection that has been let in.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(super) open: OpenConnection,
    /// Where connections are limited.
    pub(super) place: Option<Place>,
}

impl From<OpenConnection> for Admitted {
    fn from(open: OpenConnection) -> Self {
        Self { open, place: None }
    }
}

impl Admitted {
    /// Lets a connection in that counts as `open`, or does not even tell it that it is one too many.
    ///
    /// Where several loops accept, a few more may get in than there may be.
    pub(crate) fn by(admission: &Admission, metrics: &Arc<ConnectionMetrics>) -> Option<Self> {
        let place = admission.admit();
        if place.as_ref().is_none_or(Place::is_refused) {
            metrics.limit_reached(Limit::Connections);
        }
        Some(Self {
            place: Some(place?),
            open: Arc::clone(metrics).opened(),
        })
    }

    /// Whether it is only there to be told that it is one too many.
    pub(super) fn is_refused(&self) -> bool {
        self.place.as_ref().is_some_and(Place::is_refused)
    }
}

/// Counts the connections of a server.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    counts: Arc<Counts>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Counts {
    admitted: AtomicUsize,
    refused: AtomicUsize,
}

/// A place in the count, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    counts: Arc<Counts>,
    refused: bool,
}

impl Admission {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            counts: Arc::default(),
            limit,
        }
    }

    /// A place for one more connection, or none where it is not even to be told so.
    ///
    /// For one caller at a time, which the accept loop is.
    pub(super) fn admit(&self) -> Option<Place> {
        let refused = self.counts.admitted.load(Ordering::Relaxed) >= self.limit;
        let count = self.counts.of(refused);
        if refused && count.load(Ordering::Relaxed) >= REFUSED {
            return None;
        }
        count.fetch_add(1, Ordering::Relaxed);
        Some(Place {
            counts: Arc::clone(&self.counts),
            refused,
        })
    }
}

impl Counts {
    fn of(&self, refused: bool) -> &AtomicUsize {
        if refused {
            &self.refused
        } else {
            &self.admitted
        }
    }
}

impl Place {
    /// Whether it is only there to be told that there is none.
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counts.of(self.refused).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_is_refused_until_another_has_gone() {
        let admission = Admission::new(2);
        let places = [admission.admit().unwrap(), admission.admit().unwrap()];
        assert!(places.iter().all(|place| !place.refused));
        let third = admission.admit().unwrap();
        assert!(third.refused);
        drop(places);
        assert!(!admission.admit().unwrap().refused);
    }

    #[test]
    fn refusing_is_bounded_too() {
        let admission = Admission::new(0);
        let places: Vec<_> = (0..REFUSED).map(|_| admission.admit().unwrap()).collect();
        assert!(places.iter().all(|place| place.refused));
        assert!(admission.admit().is_none());
        drop(places);
        assert!(admission.admit().is_some());
    }
}
