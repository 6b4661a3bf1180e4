//! Callers that go away while a rerouted request is not answered yet.

use std::{fmt, sync::Arc};

use crate::outcome::{Outcome, OutcomeKind};

/// Is told of each rerouted request whose caller went away before the answer had begun: there is no
/// answer then whose extensions could tell.
///
/// Closures are; see [`DevRouteLayer::on_abandoned`](crate::DevRouteLayer::on_abandoned).
pub trait OnAbandoned {
    /// The caller went away; the [kind](Outcome::kind) of the outcome is
    /// [`Abandoned`](OutcomeKind::Abandoned).
    ///
    /// It is called while the future of the request is dropped, so it must not panic.
    fn on_abandoned(&self, outcome: Outcome);
}

impl<F: Fn(Outcome)> OnAbandoned for F {
    fn on_abandoned(&self, outcome: Outcome) {
        self(outcome);
    }
}

/// A hook in the settings of a layer.
#[derive(Clone)]
pub(crate) struct Hook(Arc<dyn OnAbandoned + Send + Sync>);

impl Hook {
    pub(crate) fn new(hook: impl OnAbandoned + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }
}

impl fmt::Debug for Hook {
    // A closure, mostly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Tells the hook when it is dropped, unless the request was answered.
#[derive(Debug)]
pub(crate) struct Unanswered {
    hook: Hook,
    outcome: Option<Outcome>,
}

impl Unanswered {
    pub(crate) fn new(hook: Hook, outcome: Outcome) -> Self {
        let outcome = Some(outcome);
        Self { hook, outcome }
    }
}

/// There is an answer, which tells what there is to tell.
pub(crate) fn answered(unanswered: &mut Option<Unanswered>) {
    if let Some(unanswered) = unanswered {
        unanswered.outcome = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.hook.0.on_abandoned(Outcome {
                kind: OutcomeKind::Abandoned,
                cause: Some("client_gone"),
                ..outcome
            });
        }
    }
}
