//! Which host names may be resolved at all.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use crate::target::HostName;

/// A suffix of host names, or one whole host name.
///
/// `.ts.net` is every name below `ts.net`; `laptop.example` is that name and no other. Compared without case, on
/// label boundaries.
///
/// ```
/// use devroute_core::HostSuffix;
///
/// let suffix: HostSuffix = ".ts.net".parse()?;
/// assert!(suffix.matches("laptop.tail1234.ts.net"));
/// assert!(!suffix.matches("ts.net"));
/// assert!(!suffix.matches("evil-ts.net"));
/// # Ok::<(), devroute_core::HostSuffixError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostSuffix {
    name: HostName,
    below: bool,
}

impl HostSuffix {
    /// Whether `name` ends with the suffix, or is the name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let suffix = self.name.as_str();
        if !self.below {
            return name.eq_ignore_ascii_case(suffix);
        }
        let front = name
            .len()
            .checked_sub(suffix.len())
            .and_then(|at| name.split_at_checked(at));
        front.is_some_and(|(front, end)| {
            end.eq_ignore_ascii_case(suffix) && front.len() > 1 && front.ends_with('.')
        })
    }
}

impl FromStr for HostSuffix {
    type Err = HostSuffixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, below) = match text.strip_prefix('.') {
            Some(name) => (name, true),
            None => (text, false),
        };
        match name.parse() {
            Ok(name) => Ok(Self { name, below }),
            Err(_) => Err(HostSuffixError(())),
        }
    }
}

impl fmt::Display for HostSuffix {
    /// The inverse of `FromStr`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.below {
            f.write_str(".")?;
        }
        self.name.fmt(f)
    }
}

/// Why some text is not a [`HostSuffix`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSuffixError(());

impl fmt::Display for HostSuffixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid suffix: expected one such as `.ts.net`, or a whole host name")
    }
}

impl Error for HostSuffixError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_matches_whole_labels_below_it() {
        let suffix: HostSuffix = ".TS.net".parse().unwrap();
        assert_eq!(suffix.to_string(), ".ts.net");
        for (name, matches) in [
            ("a.ts.net", true),
            ("A.B.TS.NET", true),
            ("ts.net", false),
            (".ts.net", false),
            ("ats.net", false),
            ("a.ts.net.evil", false),
            ("net", false),
            ("", false),
            ("aé.ts.ne", false),
        ] {
            assert_eq!(suffix.matches(name), matches, "{name}");
        }
        let whole: HostSuffix = "laptop".parse().unwrap();
        assert!(whole.matches("LAPTOP"));
        assert!(!whole.matches("a.laptop"));
    }

    #[test]
    fn what_cannot_end_a_host_name_is_no_suffix() {
        for text in ["", ".", "..a", "a.", ".1", "*.ts.net", ".a b"] {
            assert!(text.parse::<HostSuffix>().is_err(), "{text}");
        }
    }
}
