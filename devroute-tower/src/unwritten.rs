//! Contracts that go on in their own field alone.

use std::{fmt, sync::Arc};

use devroute_core::carrier::Unwritten;

/// Is told of each contract that goes on in its own field alone, because no `baggage` member of the
/// allowed size can hold it (rule 10): a service that carries on nothing but baggage will lose it.
///
/// Closures are; see [`DevRouteClientLayer::on_unwritten`](crate::DevRouteClientLayer::on_unwritten) and
/// [`DevRouteLayer::on_unwritten`](crate::DevRouteLayer::on_unwritten).
pub trait OnUnwritten {
    /// A request goes out without the member, for this `reason`.
    fn on_unwritten(&self, reason: Unwritten);
}

impl<F: Fn(Unwritten)> OnUnwritten for F {
    fn on_unwritten(&self, reason: Unwritten) {
        self(reason);
    }
}

/// A hook in the settings of a layer.
#[derive(Clone)]
pub(crate) struct Hook(Arc<dyn OnUnwritten + Send + Sync>);

impl Hook {
    pub(crate) fn new(hook: impl OnUnwritten + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(crate) fn tell(&self, reason: Unwritten) {
        self.0.on_unwritten(reason);
    }
}

impl fmt::Debug for Hook {
    // A closure, mostly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}
