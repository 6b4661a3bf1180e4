//! Why there is no decision, with what an answer about it needs to say.

use std::error::Error;
use std::fmt;

use crate::error::ContractError;
use crate::policy::Refusal;
use crate::service_name::ServiceName;
use crate::signature::SignatureError;
use crate::target::Target;
use crate::via;

/// Why there is no decision.
#[derive(Clone, Debug)]
pub struct DecisionError {
    // Boxed: the decision is returned by value on every request, an error is rare.
    inner: Box<DecisionErrorInner>,
}

#[derive(Clone, Debug)]
struct DecisionErrorInner {
    kind: DecisionErrorKind,
    service: Option<ServiceName>,
    target: Option<Target>,
    refusal: Option<Refusal>,
    contract: Option<ContractError>,
    signature: Option<SignatureError>,
}

/// The kinds of [`DecisionError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecisionErrorKind {
    /// The contract is malformed.
    Malformed,
    /// The contract is not signed, not well, by nobody who is authorized, or not good any more.
    Signature,
    /// The policy refuses the target.
    Refused,
    /// The request has been rerouted 16 times already.
    Loop,
    /// A router got a request without a contract.
    MissingContract,
    /// A router got a request that does not name its service in `x-devroute-matched`: the field is missing, there
    /// twice, or no service name.
    MissingService,
    /// A router got a contract that does not name the service.
    NoEntry,
}

impl DecisionErrorKind {
    /// A stable `snake_case` label, for metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Signature => "signature",
            Self::Refused => "refused",
            Self::Loop => "loop",
            Self::MissingContract => "missing_contract",
            Self::MissingService => "missing_service",
            Self::NoEntry => "no_entry",
        }
    }
}

impl fmt::Display for DecisionErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl DecisionError {
    pub(super) fn new(kind: DecisionErrorKind, service: Option<ServiceName>) -> Self {
        let inner = DecisionErrorInner {
            kind,
            service,
            target: None,
            refusal: None,
            contract: None,
            signature: None,
        };
        Self {
            inner: Box::new(inner),
        }
    }

    pub(super) fn malformed(error: ContractError) -> Self {
        let mut this = Self::new(DecisionErrorKind::Malformed, None);
        this.inner.contract = Some(error);
        this
    }

    #[cfg(feature = "signature")]
    pub(super) fn signature(service: Option<ServiceName>, error: SignatureError) -> Self {
        let mut this = Self::new(DecisionErrorKind::Signature, service);
        this.inner.signature = Some(error);
        this
    }

    pub(super) fn with_target(mut self, target: Target) -> Self {
        self.inner.target = Some(target);
        self
    }

    pub(super) fn with_refusal(mut self, refusal: Refusal) -> Self {
        self.inner.refusal = Some(refusal);
        self
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> DecisionErrorKind {
        self.inner.kind
    }

    /// The service that was looked up; none when the contract is malformed or a router was not told.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceName> {
        self.inner.service.as_ref()
    }

    /// The target that was refused, or that the loop goes through.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        self.inner.target.as_ref()
    }

    /// Why the target was refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        self.inner.refusal.as_ref()
    }

    /// Why the contract is malformed.
    #[must_use]
    pub fn contract_error(&self) -> Option<&ContractError> {
        self.inner.contract.as_ref()
    }

    /// Why the contract is refused for its signature.
    #[must_use]
    pub fn signature_error(&self) -> Option<&SignatureError> {
        self.inner.signature.as_ref()
    }
}

impl From<ContractError> for DecisionError {
    /// The contract is malformed, whoever it is for.
    fn from(error: ContractError) -> Self {
        Self::malformed(error)
    }
}

impl fmt::Display for DecisionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.inner;
        match (inner.kind, &inner.service) {
            (DecisionErrorKind::Malformed, _) => f.write_str("the contract cannot be read"),
            (DecisionErrorKind::Signature, _) => f.write_str("the contract is refused"),
            (DecisionErrorKind::Refused, Some(service)) => {
                write!(f, "the target for {service} is not allowed")
            }
            (DecisionErrorKind::Refused, None) => f.write_str("the target is not allowed"),
            (DecisionErrorKind::Loop, _) => {
                write!(
                    f,
                    "the request has been rerouted {} times: a loop",
                    via::MAX_HOPS
                )
            }
            (DecisionErrorKind::MissingContract, _) => f.write_str("the request has no contract"),
            (DecisionErrorKind::MissingService, _) => {
                f.write_str("the request does not name one service in x-devroute-matched")
            }
            (DecisionErrorKind::NoEntry, Some(service)) => {
                write!(f, "the contract has no entry for {service}")
            }
            (DecisionErrorKind::NoEntry, None) => f.write_str("the contract has no entry"),
        }
    }
}

impl Error for DecisionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let inner = &*self.inner;
        if let Some(refusal) = &inner.refusal {
            return Some(refusal);
        }
        if let Some(contract) = &inner.contract {
            return Some(contract);
        }
        inner.signature.as_ref().map(|error| error as _)
    }
}
