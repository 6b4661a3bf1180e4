//! The name of a service, as contracts and configuration write it.
//!
//! 1 to 253 of `A-Z a-z 0-9 . _ -`, compared exactly (rule 2). Nothing else is a name: no wildcard, no port,
//! no `$` (those members are reserved), no folding of case.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{ServiceNameError, ServiceNameErrorKind};

/// The most bytes of a name: what DNS allows for a whole one.
const MAX: usize = 253;

/// The common name of what runs here; a clone is a reference count.
///
/// ```
/// use devroute_core::ServiceName;
///
/// let name = ServiceName::new("checkout")?;
/// assert_eq!(name, "checkout");
/// assert_ne!(name, "Checkout");
/// assert!(ServiceName::new("check out").is_err());
/// # Ok::<(), devroute_core::ServiceNameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// Checks and keeps a name.
    ///
    /// # Errors
    ///
    /// When `name` is not 1 to 253 of `A-Z a-z 0-9 . _ -`.
    pub fn new(name: &str) -> Result<Self, ServiceNameError> {
        check(name)?;
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For names that [`check`] or the parser has seen already.
    pub(crate) fn from_checked(name: &str) -> Self {
        Self(name.into())
    }
}

/// Says whether `name` is a service name, and if not, where.
pub(crate) fn check(name: &str) -> Result<(), ServiceNameError> {
    if name.is_empty() {
        return Err(ServiceNameError::new(ServiceNameErrorKind::Empty, 0, name));
    }
    if name.len() > MAX {
        return Err(ServiceNameError::new(
            ServiceNameErrorKind::TooLong,
            MAX,
            name,
        ));
    }
    match name.bytes().position(|byte| !is_name_byte(byte)) {
        None => Ok(()),
        Some(offset) => {
            let found = name.get(offset..).unwrap_or(name);
            Err(ServiceNameError::new(
                ServiceNameErrorKind::Character,
                offset,
                found,
            ))
        }
    }
}

/// The verdict of [`check`] alone.
pub(crate) fn is_name(name: &str) -> bool {
    is_name_len(name.len()) && name.bytes().all(is_name_byte)
}

/// How long a name may be.
pub(crate) fn is_name_len(len: usize) -> bool {
    (1..=MAX).contains(&len)
}

/// The alphabet of service names, of reserved names after their `$`, and of `$id`.
pub(crate) fn is_name_byte(byte: u8) -> bool {
    // A table: every byte of every name is looked up on every request with a contract.
    IS_NAME_BYTE
        .get(usize::from(byte))
        .copied()
        .unwrap_or(false)
}

/// One for every byte there is, so that the compiler sees that the lookup always finds something.
static IS_NAME_BYTE: [bool; 256] = {
    let mut table = [false; 256];
    let mut rest: &mut [bool] = &mut table;
    let mut byte = 0_u8;
    while let [entry, after @ ..] = rest {
        *entry = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        byte = byte.wrapping_add(1);
        rest = after;
    }
    table
};

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl TryFrom<&str> for ServiceName {
    type Error = ServiceNameError;

    fn try_from(name: &str) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl TryFrom<String> for ServiceName {
    type Error = ServiceNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(&name)
    }
}

impl AsRef<str> for ServiceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for ServiceName {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for ServiceName {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_alphabet_and_253_bytes() {
        for good in ["a", "A.b_c-9", "..", "-", "0", &"a".repeat(253)] {
            assert_eq!(ServiceName::new(good).unwrap(), *good);
        }
        for (bad, kind, offset) in [
            ("", ServiceNameErrorKind::Empty, 0),
            (&*"a".repeat(254), ServiceNameErrorKind::TooLong, 253),
            ("$id", ServiceNameErrorKind::Character, 0),
            ("foo/bar", ServiceNameErrorKind::Character, 3),
            ("foo bar", ServiceNameErrorKind::Character, 3),
            ("fooé", ServiceNameErrorKind::Character, 3),
            ("foo\n", ServiceNameErrorKind::Character, 3),
        ] {
            let error = ServiceName::new(bad).unwrap_err();
            assert_eq!(
                (error.kind(), error.offset()),
                (kind, Some(offset)),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_name_is_its_text_and_no_other() {
        let name = ServiceName::new("foo").unwrap();
        assert_eq!(AsRef::<str>::as_ref(&name), "foo");
        assert_eq!(format!("{name} {name:>5}"), "foo   foo");
        assert!(name == *"foo" && name == "foo");
        assert!(name != *"Foo" && name != "Foo");
    }

    #[test]
    fn a_name_is_found_in_a_set_by_its_text() {
        let set = std::collections::HashSet::from([ServiceName::new("foo").unwrap()]);
        assert!(set.contains("foo"));
        assert!(!set.contains("Foo"));
    }
}
