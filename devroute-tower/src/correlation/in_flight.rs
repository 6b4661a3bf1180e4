//! A request that is being answered.

use std::sync::Arc;

use super::table::{Correlations, Place};

/// Keeps the ids of a request alive: as long as a clone lives, and the grace period of the table after that.
///
/// The answer holds one, and so does a tunnel, which outlives it.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    _ending: Arc<Ending>,
}

#[derive(Debug)]
struct Ending {
    correlations: Correlations,
    places: Vec<Place>,
}

impl InFlight {
    /// A request whose ids have these places in the table.
    pub(super) fn new(correlations: Correlations, places: Vec<Place>) -> Self {
        correlations.counters().in_flight.add();
        Self {
            _ending: Arc::new(Ending {
                correlations,
                places,
            }),
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.correlations.ended(&self.places);
        self.correlations.counters().in_flight.sub();
    }
}
