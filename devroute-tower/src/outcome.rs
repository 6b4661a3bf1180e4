//! What became of a request that carried a contract.

use std::{fmt, sync::Arc};

use devroute_core::{Contract, ServiceName, Target};
use http::HeaderValue;

/// What a layer did with a request; it is in the extensions of the *answer*.
///
/// Layers outside see what was decided, and a proxy counts and records it, without asking again.
/// It is there for every request that carried a contract, and for every one that was refused; a
/// request without a contract has none.
///
/// ```
/// use std::{convert::Infallible, future::ready};
/// use devroute_tower::{DevRouteLayer, Outcome, OutcomeKind};
/// use http::{Request, Response};
/// use tower::{Layer as _, ServiceExt as _, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let baseline = service_fn(|_: Request<String>| ready(Ok::<_, Infallible>(Response::new(String::new()))));
/// let service = DevRouteLayer::new("foo").layer(baseline);
/// let request = Request::get("/")
///     .header("x-devroute", r#"{"bar":"192.168.1.12:8001"}"#)
///     .body(String::new())
///     .unwrap();
/// let response = service.oneshot(request).await.unwrap();
/// let outcome = response.extensions().get::<Outcome>().unwrap();
/// assert_eq!(outcome.kind(), OutcomeKind::Baseline);
/// # }
/// ```
#[derive(Clone)]
pub struct Outcome {
    pub(crate) kind: OutcomeKind,
    pub(crate) service: Option<ServiceName>,
    pub(crate) target: Option<Target>,
    pub(crate) contract: Option<Contract>,
    pub(crate) cause: Option<&'static str>,
    pub(crate) signed_by: Option<Arc<str>>,
}

/// The kinds of [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OutcomeKind {
    /// The contract names other services: the baseline answered.
    Baseline,
    /// The request had been rerouted here already: the baseline answered.
    AlreadyRerouted,
    /// The target answered.
    Rerouted,
    /// The target could not be reached, and the baseline answered instead.
    FellBack,
    /// The contract, or what it asks for, was refused.
    Refused,
    /// The target could not be reached, or did not answer.
    Failed,
    /// The caller went away before the answer had begun, so there is none
    /// ([`OnAbandoned`](crate::OnAbandoned)).
    Abandoned,
}

impl OutcomeKind {
    /// A short, stable label for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::AlreadyRerouted => "already_rerouted",
            Self::Rerouted => "rerouted",
            Self::FellBack => "fallback",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

impl Outcome {
    pub(crate) fn of(kind: OutcomeKind, contract: Contract) -> Self {
        Self {
            kind,
            service: None,
            target: None,
            contract: Some(contract),
            cause: None,
            signed_by: None,
        }
    }

    /// What became of the request.
    #[must_use]
    pub fn kind(&self) -> OutcomeKind {
        self.kind
    }

    /// The service that was asked for, where the contract names it.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceName> {
        self.service.as_ref()
    }

    /// The target that the contract names for it.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// The contract; `None` where it was malformed or missing.
    #[must_use]
    pub fn contract(&self) -> Option<&Contract> {
        self.contract.as_ref()
    }

    /// Why a request was refused, failed or fell back: a short, stable label.
    #[must_use]
    pub fn cause(&self) -> Option<&'static str> {
        self.cause
    }

    /// Who signed the contract of a request that was to be rerouted, by the comment of the key or, without one,
    /// its fingerprint; `None` where no signature is asked for.
    #[must_use]
    pub fn signed_by(&self) -> Option<&str> {
        self.signed_by.as_deref()
    }

    /// The value of `x-devroute-routed` (rule 14); `None` where the contract names other services.
    pub(crate) fn mark(&self, reveal_addresses: bool) -> Option<HeaderValue> {
        let service = self.service.as_ref()?;
        let cause = self.cause.unwrap_or("unknown");
        let value = match (self.kind, &self.target) {
            // Of every rerouted request, so without the machinery of `format!`.
            (OutcomeKind::Rerouted, Some(target)) if reveal_addresses => {
                [service.as_str(), "=", &target.to_string()].concat()
            }
            (OutcomeKind::Rerouted, _) => format!("{service}=target"),
            (OutcomeKind::AlreadyRerouted, _) => {
                format!("{service}=baseline; reason=already_rerouted")
            }
            (OutcomeKind::FellBack, _) => format!("{service}=baseline; reason={cause}"),
            (OutcomeKind::Refused | OutcomeKind::Failed, _) => {
                format!("{service}=none; reason={cause}")
            }
            (OutcomeKind::Baseline | OutcomeKind::Abandoned, _) => return None,
        };
        // Every part of it is visible ASCII, so this is always a value.
        HeaderValue::try_from(value).ok()
    }
}

impl fmt::Debug for Outcome {
    // What it shows may be logged: of the contract only that there was one, since its other entries, and its
    // signature, are nobody's business there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("kind", &self.kind)
            .field("service", &self.service)
            .field("target", &self.target)
            .field("has_contract", &self.contract.is_some())
            .field("cause", &self.cause)
            .field("signed_by", &self.signed_by)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_shows_for_debugging_is_not_the_contract() {
        let contract = r#"{"foo":"10.0.0.1:80","secret":"10.0.0.2:80","$sig":"hidden"}"#;
        let contract: Contract = contract.parse().unwrap();
        let mut outcome = Outcome::of(OutcomeKind::Rerouted, contract);
        outcome.target = Some("10.0.0.1:80".parse().unwrap());
        let shown = format!("{outcome:?}");
        assert!(shown.contains("10.0.0.1"), "{shown}");
        for value in ["10.0.0.2", "secret", "hidden"] {
            assert!(!shown.contains(value), "{shown}");
        }
    }
}
