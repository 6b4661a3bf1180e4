//! Who answers a request: the decision, made on its header fields alone (rules 4 to 8); see [`Selector`].

mod error;

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

pub use self::error::{DecisionError, DecisionErrorKind};
use crate::carrier::{self, MATCHED};
use crate::contract::{Contract, Find};
use crate::policy::{Permit, TargetPolicy};
use crate::service_name::ServiceName;
use crate::target::Target;
use crate::via;

/// Decides for one service, or, as a router, for the service that a request names. A clone is a reference count.
///
/// It holds what a deployment decides once: for which service, by which policy. It looks, in this order, at
///
/// 1. the contract: none, then the baseline answers; a malformed one is an error whoever it is for;
/// 2. `x-devroute-matched`: naming this service, then the request was rerouted here already;
/// 3. the entry for this service: none, then the baseline answers;
/// 4. `Via`: 16 reroutes behind it, then it is a loop;
/// 5. the policy: the target is allowed, or refused.
///
/// Nothing is allocated for a contract in the field `x-devroute`, unless the target is a host name or the
/// contract spells a name or value with JSON escapes; and nothing is ever allocated without a contract.
///
/// ```
/// use devroute_core::{Decision, Selector, ServiceName, TargetPolicy};
///
/// let selector = Selector::new(ServiceName::new("foo")?, TargetPolicy::default());
/// let mut headers = http::HeaderMap::new();
/// assert!(matches!(selector.decide(&headers)?, Decision::NoContract));
///
/// headers.insert("x-devroute", r#"{"foo":"192.168.1.12:8001"}"#.parse()?);
/// let Decision::Reroute(reroute) = selector.decide(&headers)? else { panic!("not rerouted") };
/// assert_eq!(reroute.target.to_string(), "192.168.1.12:8001");
///
/// headers.insert("x-devroute-matched", "foo".parse()?);
/// assert!(matches!(selector.decide(&headers)?, Decision::Baseline { .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Selector {
    service: Option<ServiceName>,
    policy: Arc<TargetPolicy>,
}

impl Selector {
    /// Decides for `service`.
    #[must_use]
    pub fn new(service: ServiceName, policy: impl Into<Arc<TargetPolicy>>) -> Self {
        Self {
            service: Some(service),
            policy: policy.into(),
        }
    }

    /// Decides for the service that `x-devroute-matched` names (rule 7).
    ///
    /// A router has no baseline, so what is one elsewhere is an error here: no contract, no service named, no
    /// entry for it.
    #[must_use]
    pub fn router(policy: impl Into<Arc<TargetPolicy>>) -> Self {
        Self {
            service: None,
            policy: policy.into(),
        }
    }

    /// The policy that targets are judged by.
    #[must_use]
    pub fn policy(&self) -> &TargetPolicy {
        &self.policy
    }

    /// The service that it decides for; none for a router.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceName> {
        self.service.as_ref()
    }

    /// Decides for a request with these header fields.
    ///
    /// # Errors
    ///
    /// When the contract is malformed, the target refused, or the request in a loop; at a
    /// [router](Self::router) also when there is nothing to route to.
    pub fn decide(&self, headers: &HeaderMap) -> Result<Decision, DecisionError> {
        match &self.service {
            Some(service) => decide(headers, service, &self.policy),
            None => route(headers, &self.policy),
        }
    }
}

/// Decides who answers for `service` a request with these header fields, as a [`Selector`] does.
///
/// # Errors
///
/// When the contract is malformed, the target refused, or the request in a loop.
pub fn decide(
    headers: &HeaderMap,
    service: &ServiceName,
    policy: &TargetPolicy,
) -> Result<Decision, DecisionError> {
    let mut find = Find::new(service.as_str());
    let Some(contract) =
        carrier::read_into(headers, &mut find).map_err(DecisionError::malformed)?
    else {
        return Ok(Decision::NoContract);
    };
    // Kept before the rest is looked at: a struct that has just been written field by field is slow to move.
    let contract = contract.into_contract();
    if is_matched(headers, service) {
        let reason = BaselineReason::AlreadyRerouted;
        return Ok(Decision::Baseline { contract, reason });
    }
    let Some(target) = find.found else {
        let reason = BaselineReason::NoEntry;
        return Ok(Decision::Baseline { contract, reason });
    };
    reroute(headers, contract, service.clone(), target, policy)
}

/// The decision of a router.
fn route(headers: &HeaderMap, policy: &TargetPolicy) -> Result<Decision, DecisionError> {
    let matched = matched(headers);
    let mut find = Find::new(matched.unwrap_or_default());
    let contract = carrier::read_into(headers, &mut find).map_err(DecisionError::malformed)?;
    let service = matched.and_then(|name| ServiceName::new(name).ok());
    let error = |kind| DecisionError::new(kind, service.clone());

    let Some(contract) = contract else {
        return Err(error(DecisionErrorKind::MissingContract));
    };
    let Some(service) = service.clone() else {
        return Err(error(DecisionErrorKind::MissingService));
    };
    let Some(target) = find.found else {
        return Err(error(DecisionErrorKind::NoEntry));
    };
    reroute(headers, contract.into_contract(), service, target, policy)
}

fn reroute(
    headers: &HeaderMap,
    contract: Contract,
    service: ServiceName,
    target: Target,
    policy: &TargetPolicy,
) -> Result<Decision, DecisionError> {
    if via::hops(headers) >= via::MAX_HOPS {
        let error = DecisionError::new(DecisionErrorKind::Loop, Some(service));
        return Err(error.with_target(target));
    }
    match policy.judge(&target) {
        Ok(permit) => Ok(Decision::Reroute(Reroute {
            contract,
            service,
            target,
            permit,
        })),
        Err(refusal) => {
            let error = DecisionError::new(DecisionErrorKind::Refused, Some(service));
            Err(error.with_target(target).with_refusal(refusal))
        }
    }
}

/// Whether any line of `x-devroute-matched` names `service`.
fn is_matched(headers: &HeaderMap, service: &ServiceName) -> bool {
    headers
        .get_all(MATCHED)
        .iter()
        .any(|line| line.as_bytes().trim_ascii() == service.as_str().as_bytes())
}

/// What `x-devroute-matched` says, if it is there once.
fn matched(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(MATCHED).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => HeaderValue::to_str(line).ok().map(str::trim_ascii),
        _ => None,
    }
}

/// Who answers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Decision {
    /// The request carries no contract: the baseline answers, and there is nothing to propagate.
    NoContract,
    /// The baseline answers, and the contract travels on.
    Baseline {
        /// What the request carries.
        contract: Contract,
        /// Why the baseline answers all the same.
        reason: BaselineReason,
    },
    /// The target answers.
    Reroute(Reroute),
}

/// Why the baseline answers a request that carries a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BaselineReason {
    /// The contract does not name this service.
    NoEntry,
    /// The request was rerouted to this service already: `x-devroute-matched` names it.
    AlreadyRerouted,
}

impl BaselineReason {
    /// A stable `snake_case` label, for metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoEntry => "no_entry",
            Self::AlreadyRerouted => "already_rerouted",
        }
    }
}

impl fmt::Display for BaselineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request that a target answers.
#[derive(Clone, Debug)]
pub struct Reroute {
    /// What the request carries.
    pub contract: Contract,
    /// The service that the target replaces.
    pub service: ServiceName,
    /// The target as the contract names it.
    pub target: Target,
    /// What the policy allows: the address to dial, or a name to resolve first.
    pub permit: Permit,
}
