//! Log lines about contracts that could not be sent on as they were, each at most once a minute: the
//! cause is a setting or one long contract, and then every request has it.

use std::sync::LazyLock;

use devroute_core::{ContractError, carrier::Unwritten};
use tracing::{Level, debug, enabled};

use crate::mode::OncePerMinute;

/// The request has no authority, no `Host`, and the layer was not told.
pub(super) fn unknown_destination() {
    static LIMIT: LazyLock<OncePerMinute> = LazyLock::new(OncePerMinute::default);
    if enabled!(Level::DEBUG) && LIMIT.is_due() {
        debug!(
            "contract not sent on: the request's URI has no authority; \
             tell the layer where it goes with `destination(uri)`"
        );
    }
}

/// The contract on the request, set by the application, does not parse.
pub(super) fn malformed(error: &ContractError) {
    static LIMIT: LazyLock<OncePerMinute> = LazyLock::new(OncePerMinute::default);
    if enabled!(Level::DEBUG) && LIMIT.is_due() {
        debug!(%error, "the request's own contract is malformed and left as it is");
    }
}

/// The contract has no room in `baggage`.
pub(super) fn field_only(reason: Unwritten) {
    static LIMIT: LazyLock<OncePerMinute> = LazyLock::new(OncePerMinute::default);
    if enabled!(Level::DEBUG) && LIMIT.is_due() {
        debug!(%reason, "contract sent on in its own field only, not in `baggage`");
    }
}
