//! The field `x-devroute`: the contract's text as it is.
//!
//! It is there once or not at all; twice is malformed, even with equal values, for two readers could each take
//! another one (rule 1).

use http::{HeaderMap, HeaderName};

use crate::contract::{Contract, WellFormed};
use crate::error::{ContractError, ContractErrorKind};
use crate::parse::Sink;

/// The field that carries a contract.
pub const CONTRACT: HeaderName = HeaderName::from_static("x-devroute");

/// Reads the contract from the field alone.
///
/// # Errors
///
/// When the field is there twice, or its value is not well-formed.
///
/// ```
/// use devroute_core::{ContractErrorKind, carrier::header};
///
/// let mut headers = http::HeaderMap::new();
/// assert_eq!(header::read(&headers)?, None);
/// headers.append(header::CONTRACT, "{}".parse()?);
/// assert!(header::read(&headers)?.is_some());
/// headers.append(header::CONTRACT, "{}".parse()?);
/// assert_eq!(header::read(&headers).unwrap_err().kind(), ContractErrorKind::RepeatedField);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read(headers: &HeaderMap) -> Result<Option<Contract>, ContractError> {
    let found = read_into(headers, &mut ())?;
    Ok(found.map(WellFormed::into_contract))
}

pub(super) fn read_into<'h, S: Sink>(
    headers: &'h HeaderMap,
    sink: &mut S,
) -> Result<Option<WellFormed<'h>>, ContractError> {
    let mut lines = headers.get_all(CONTRACT).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) => WellFormed::check(line, sink).map(Some),
        (Some(_), Some(_)) => Err(ContractError::new(ContractErrorKind::RepeatedField)),
    }
}

/// Writes the contract into the field alone.
pub fn write(headers: &mut HeaderMap, contract: &Contract) {
    let mut lines = headers.get_all(CONTRACT).iter();
    let is_right = lines.next() == Some(contract.header_value()) && lines.next().is_none();
    if !is_right {
        headers.insert(CONTRACT, contract.header_value().clone());
    }
}

/// Removes the field.
pub fn remove(headers: &mut HeaderMap) {
    headers.remove(CONTRACT);
}

/// Whether the field is there.
#[must_use]
pub fn is_present(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTRACT)
}
