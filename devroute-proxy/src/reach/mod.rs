//! "Can you reach me?": a router dials back whoever asks, and says what came of it.
//!
//! ```text
//! POST /_reach?port=8001 HTTP/1.1          {"finding":"refused","port":8001,"peer":"10.8.0.7"}
//! ```
//!
//! `devroute contract foo=8001 --router URL` asks (`question.rs`, `ask.rs`), looks at this machine
//! too (`local.rs`), and puts both together in words (`advice.rs`). The router (`dial.rs`) only ever dials the address that
//! the request came from, so nobody is asked about but whoever asks.

pub(crate) mod advice;
pub(crate) mod ask;
pub(crate) mod dial;
pub(crate) mod local;
pub(crate) mod question;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Where a router is asked.
pub(crate) const PATH: &str = "/_reach";

/// What a router has found.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Finding {
    /// A connection was opened, and closed again.
    Reachable,
    /// Something at the address said that nobody listens there.
    Refused,
    /// Nothing came back.
    TimedOut,
    /// There is no way to the address.
    Unreachable,
    /// The router could not try.
    Failed,
    /// The router's policy refuses the address.
    NotAllowed,
    /// The request came through a proxy, which is what would have been dialled.
    Intermediary,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Finding {
    /// The label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Reachable => "reachable",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::NotAllowed => "not_allowed",
            Self::Intermediary => "intermediary",
            Self::Unknown => "unknown",
        }
    }
}

/// What a router says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Answer {
    pub(crate) finding: Finding,
    pub(crate) port: u16,
    /// The address that the router sees; hidden where it reveals no addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<IpAddr>,
    /// Why the policy refuses it, as a label, or the field that tells of a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    /// The flag of the router that would allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) switch: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_written_as_its_label_and_a_new_one_is_no_error() {
        for finding in [
            Finding::Reachable,
            Finding::Refused,
            Finding::TimedOut,
            Finding::Unreachable,
            Finding::Failed,
            Finding::NotAllowed,
            Finding::Intermediary,
        ] {
            let written = serde_json::to_value(finding).unwrap();
            assert_eq!(written, finding.as_str());
            assert_eq!(serde_json::from_value::<Finding>(written).unwrap(), finding);
        }
        let answer: Answer =
            serde_json::from_str(r#"{"finding":"of_tomorrow","port":1,"more":[]}"#).unwrap();
        assert_eq!(answer.finding, Finding::Unknown);
    }
}
