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
#[cfg(feature = "signature")]
use crate::signature::Verifier;
use crate::target::Target;
use crate::via;

/// Decides for one service, or, as a router, for the service that a request names. A clone is a reference count.
///
/// It holds what a deployment decides once: for which service, by which policy. It looks, in this order, at
///
/// 1. the contract: none, then the baseline answers; a malformed one is an error whoever it is for;
/// 2. its signature, where the deployment asks for one (feature `signature`): not good, then it is an error too;
/// 3. `x-devroute-matched`: naming this service, then the request was rerouted here already;
/// 4. the entry for this service: none, then the baseline answers;
/// 5. `Via`: 16 reroutes behind it, then it is a loop;
/// 6. the policy: the target is allowed, or refused.
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
    #[cfg(feature = "signature")]
    verifier: Option<Verifier>,
}

impl Selector {
    /// Decides for `service`.
    #[must_use]
    pub fn new(service: ServiceName, policy: impl Into<Arc<TargetPolicy>>) -> Self {
        Self {
            service: Some(service),
            policy: policy.into(),
            #[cfg(feature = "signature")]
            verifier: None,
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
            #[cfg(feature = "signature")]
            verifier: None,
        }
    }

    /// Refuses contracts that `verifier` does not find well signed; it is asked with the time of the system's clock.
    ///
    /// ```
    /// use devroute_core::signature::{AuthorizedKeys, Verifier};
    /// use devroute_core::{DecisionErrorKind, Selector, ServiceName, TargetPolicy};
    ///
    /// let nobody = Verifier::new(AuthorizedKeys::default());
    /// let foo = Selector::new(ServiceName::new("foo")?, TargetPolicy::default()).verifier(nobody);
    /// let mut headers = http::HeaderMap::new();
    /// headers.insert("x-devroute", r#"{"foo":"192.168.1.12:8001"}"#.parse()?);
    /// let error = foo.decide(&headers).unwrap_err();
    /// assert_eq!(error.kind(), DecisionErrorKind::Signature);
    /// assert_eq!(error.signature_error().unwrap().kind().as_str(), "signature_missing");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "signature")]
    #[cfg_attr(docsrs, doc(cfg(feature = "signature")))]
    #[must_use]
    pub fn verifier(mut self, verifier: Verifier) -> Self {
        self.verifier = Some(verifier);
        self
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
    /// When the contract is malformed or not well signed, the target refused, or the request in a loop; at a
    /// [router](Self::router) also when there is nothing to route to.
    pub fn decide(&self, headers: &HeaderMap) -> Result<Decision, DecisionError> {
        #[cfg(feature = "signature")]
        if let Some(verifier) = &self.verifier {
            return self.decide_signed(headers, verifier);
        }
        match &self.service {
            Some(service) => decide(headers, service, &self.policy),
            None => route(headers, &self.policy, Unsigned),
        }
    }

    // Out of line: without a verifier nothing of it is to be in the way.
    #[cfg(feature = "signature")]
    #[inline(never)]
    fn decide_signed(
        &self,
        headers: &HeaderMap,
        verifier: &Verifier,
    ) -> Result<Decision, DecisionError> {
        match &self.service {
            Some(service) => decide_with(headers, service, &self.policy, verifier),
            None => route(headers, &self.policy, verifier),
        }
    }
}

/// Who has signed a contract, where that is asked.
trait SignedBy {
    /// The name of who has signed `contract`; `service` and `target` are what it says to whoever asks.
    fn signed_by(
        self,
        contract: &Contract,
        service: Option<&ServiceName>,
        target: Option<&Target>,
    ) -> Result<Option<Arc<str>>, DecisionError>;
}

/// Nobody is asked.
struct Unsigned;

impl SignedBy for Unsigned {
    #[inline(always)]
    fn signed_by(
        self,
        _: &Contract,
        _: Option<&ServiceName>,
        _: Option<&Target>,
    ) -> Result<Option<Arc<str>>, DecisionError> {
        Ok(None)
    }
}

#[cfg(feature = "signature")]
impl SignedBy for &Verifier {
    fn signed_by(
        self,
        contract: &Contract,
        service: Option<&ServiceName>,
        target: Option<&Target>,
    ) -> Result<Option<Arc<str>>, DecisionError> {
        self.verify(contract, std::time::SystemTime::now())
            .map_err(|error| match (service, target) {
                (Some(service), Some(target)) => {
                    DecisionError::signature(Some(service.clone()), error)
                        .with_target(target.clone())
                }
                // The contract has nothing to say to this service.
                _ => DecisionError::signature(None, error),
            })
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
    decide_with(headers, service, policy, Unsigned)
}

#[inline(always)]
fn decide_with(
    headers: &HeaderMap,
    service: &ServiceName,
    policy: &TargetPolicy,
    signatures: impl SignedBy,
) -> Result<Decision, DecisionError> {
    let mut find = Find::new(service.as_str());
    let Some(contract) =
        carrier::read_into(headers, &mut find).map_err(DecisionError::malformed)?
    else {
        return Ok(Decision::NoContract);
    };
    // Kept before the rest is looked at: a struct that has just been written field by field is slow to move.
    let contract = contract.into_contract();
    let signed_by = signatures.signed_by(&contract, Some(service), find.found.as_ref())?;
    if is_matched(headers, service) {
        let reason = BaselineReason::AlreadyRerouted;
        return Ok(Decision::Baseline { contract, reason });
    }
    let Some(target) = find.found else {
        let reason = BaselineReason::NoEntry;
        return Ok(Decision::Baseline { contract, reason });
    };
    let mut reroute = reroute(headers, contract, service.clone(), target, policy)?;
    reroute.signed_by = signed_by;
    Ok(Decision::Reroute(reroute))
}

/// The decision of a router.
fn route(
    headers: &HeaderMap,
    policy: &TargetPolicy,
    signatures: impl SignedBy,
) -> Result<Decision, DecisionError> {
    let matched = matched(headers);
    let mut find = Find::new(matched.unwrap_or_default());
    let contract = carrier::read_into(headers, &mut find).map_err(DecisionError::malformed)?;
    let service = matched.and_then(|name| ServiceName::new(name).ok());
    let error = |kind| DecisionError::new(kind, service.clone());

    let Some(contract) = contract else {
        return Err(error(DecisionErrorKind::MissingContract));
    };
    let contract = contract.into_contract();
    let signed_by = signatures.signed_by(&contract, service.as_ref(), find.found.as_ref())?;
    let Some(service) = service.clone() else {
        return Err(error(DecisionErrorKind::MissingService));
    };
    let Some(target) = find.found else {
        return Err(error(DecisionErrorKind::NoEntry));
    };
    let mut reroute = reroute(headers, contract, service, target, policy)?;
    reroute.signed_by = signed_by;
    Ok(Decision::Reroute(reroute))
}

fn reroute(
    headers: &HeaderMap,
    contract: Contract,
    service: ServiceName,
    target: Target,
    policy: &TargetPolicy,
) -> Result<Reroute, DecisionError> {
    if via::hops(headers) >= via::MAX_HOPS {
        let error = DecisionError::new(DecisionErrorKind::Loop, Some(service));
        return Err(error.with_target(target));
    }
    match policy.judge(&target) {
        Ok(permit) => Ok(Reroute {
            contract,
            service,
            target,
            permit,
            signed_by: None,
        }),
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
    /// Who has signed the contract, by the comment of the key or, without one, its fingerprint; none where no
    /// signature is asked for. It belongs into logs.
    pub signed_by: Option<Arc<str>>,
}
