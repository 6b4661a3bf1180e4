//! Host names: what may be one, and how two compare.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{TargetError, TargetErrorKind};

/// A host name in lower case: at most 253 bytes, labels of 1 to 63 of `a-z 0-9 - _`, no dot at the end.
///
/// The last label is neither all digits nor begins with `0x`: some resolvers read such names as IPv4
/// addresses (as does the URL standard).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// The name as text, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_host_name(text) {
            Ok(Self::from_checked(text))
        } else {
            Err(TargetError::new(TargetErrorKind::HostName, 0, text))
        }
    }
}

impl HostName {
    pub(super) fn from_checked(text: &str) -> Self {
        Self(text.to_ascii_lowercase().into())
    }
}

impl AsRef<str> for HostName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

pub(super) fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(is_label) && !has_numeric_end(text)
}

pub(super) fn has_numeric_end(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    let is_hex = matches!(last.as_bytes(), [b'0', b'x' | b'X', ..]);
    is_hex || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_have_the_lengths_of_dns() {
        let label = "a".repeat(63);
        let name = [&*label, &*label, &*label, &"a".repeat(61)].join(".");
        assert_eq!(name.len(), 253);
        assert!(name.parse::<HostName>().is_ok());
        assert!(format!("{name}a").parse::<HostName>().is_err());
        assert!(label.parse::<HostName>().is_ok());
        assert!(format!("{label}a").parse::<HostName>().is_err());
        let name: HostName = "Laptop".parse().unwrap();
        assert_eq!(AsRef::<str>::as_ref(&name), "laptop");
        assert!("a.9".parse::<HostName>().is_err());
        assert!("a.0x9".parse::<HostName>().is_err());
    }
}
