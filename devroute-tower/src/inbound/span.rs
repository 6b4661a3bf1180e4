//! What the layer tells the span that it is called in.

use devroute_core::{Contract, Target};
use tracing::{Span, field::display};

use crate::outcome::Outcome;

const DECISION: &str = "devroute.decision";
const TARGET: &str = "devroute.target";
const RUN_ID: &str = "devroute.run_id";
const OUTCOME: &str = "devroute.outcome";
const CAUSE: &str = "devroute.cause";
const SIGNED_BY: &str = "devroute.signed_by";

/// Records what has been decided on the current span, and returns that span for [`ended`].
///
/// A field that the span does not declare costs a look-up of its name. Nothing is recorded twice:
/// subscribers print both values.
pub(super) fn decided(
    decision: &'static str,
    target: Option<&Target>,
    contract: Option<&Contract>,
) -> Span {
    let span = Span::current();
    span.record(DECISION, decision);
    if let Some(target) = target {
        span.record(TARGET, display(target));
    }
    // The contract is read for its `$id`, so not for nothing.
    if span.has_field(RUN_ID) {
        if let Some(id) = contract.and_then(Contract::id) {
            span.record(RUN_ID, display(id));
        }
    }
    span
}

/// Records how it ended.
pub(super) fn ended(span: &Span, outcome: &Outcome) {
    span.record(OUTCOME, outcome.kind().as_str());
    if let Some(cause) = outcome.cause() {
        span.record(CAUSE, cause);
    }
    if let Some(name) = outcome.signed_by() {
        span.record(SIGNED_BY, name);
    }
}

/// Records a decision that is its own outcome.
pub(super) fn settled(outcome: &Outcome) {
    let kind = outcome.kind().as_str();
    let span = decided(kind, outcome.target(), outcome.contract());
    ended(&span, outcome);
}
