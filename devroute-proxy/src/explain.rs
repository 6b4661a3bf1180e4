//! `devroute explain`: says what a contract means, entry by entry, without sending anything.
//!
//! It takes the value as it stands in the header, a whole header line, the baggage member or the cookie, and
//! judges every target by the policy of the flags, environment and file, and the signature by the keys
//! that these name. Where the contract is malformed it points at the byte.

use std::fmt::Write as _;
use std::io::Read as _;

use devroute_tower::core::carrier::{self, baggage, cookie};
use devroute_tower::core::signature::Verifier;
use devroute_tower::core::{Contract, ContractError, Target, TargetPolicy};
use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::cli::ExplainArgs;
use crate::config::ConfigError;
use crate::print;
use crate::signature::Signature;
use crate::verdict::{self, Verdict};

/// Explains what `args` hold; whether all of it is well-formed and allowed, and well signed where there
/// is a `verifier`.
///
/// # Errors
///
/// When the arguments cannot be read as a header at all.
pub fn run(
    args: &ExplainArgs,
    policy: &TargetPolicy,
    verifier: Option<&Verifier>,
) -> Result<bool, ConfigError> {
    let subject = Subject::of(args).map_err(ConfigError::new)?;
    let explanation = match &subject.contract {
        Ok(Some(contract)) => Explanation::of(contract, policy, Signature::of(contract, verifier)),
        Ok(None) => {
            let text = "no contract in it: the baselines answer";
            if args.json {
                print::json(&json!({ "ok": false, "error": { "message": text } }));
            } else {
                print::line(text);
            }
            return Ok(false);
        }
        Err(error) => {
            if args.json {
                print::json(&json!({ "ok": false, "error": {
                    "kind": error.kind().as_str(),
                    "offset": error.offset(),
                    "message": error.to_string(),
                }}));
            } else {
                print::line(malformed(error, subject.text.as_deref()));
            }
            return Ok(false);
        }
    };
    if args.json {
        print::json(&explanation.json());
    } else {
        print::line(explanation.human());
    }
    Ok(explanation.is_allowed())
}

/// What is to be explained.
struct Subject {
    contract: Result<Option<Contract>, ContractError>,
    /// The text that offsets count in, where it is known.
    text: Option<Vec<u8>>,
}

impl Subject {
    fn of(args: &ExplainArgs) -> Result<Self, String> {
        match args.value.as_deref() {
            Some("-") => {
                let mut input = Vec::new();
                std::io::stdin()
                    .read_to_end(&mut input)
                    .map_err(|error| format!("standard input: {error}"))?;
                Self::of_value(input.trim_ascii())
            }
            Some(value) => Self::of_value(value.trim().as_bytes()),
            None => {
                let lines = args.header.iter().map(|line| line.as_bytes());
                let members = args
                    .baggage
                    .iter()
                    .map(|value| (carrier::BAGGAGE, value.as_bytes()));
                let fields = lines.map(field).collect::<Result<Vec<_>, _>>()?;
                Self::of_fields(fields.into_iter().chain(members))
            }
        }
    }

    /// A value as people have it at hand: the JSON, the encoded member, or the whole line.
    fn of_value(value: &[u8]) -> Result<Self, String> {
        let is_line = [carrier::CONTRACT, carrier::BAGGAGE, COOKIE]
            .iter()
            .any(|name| {
                let (before, rest) = value
                    .split_at_checked(name.as_str().len())
                    .unwrap_or_default();
                before.eq_ignore_ascii_case(name.as_str().as_bytes()) && rest.starts_with(b":")
            });
        if is_line {
            return Self::of_fields([field(value)?]);
        }
        let member = value.strip_prefix(b"devroute=").unwrap_or(value);
        if member.starts_with(b"%") {
            return Ok(Self {
                contract: baggage::decode(member).map(Some),
                text: None,
            });
        }
        let contract = Contract::parse(value).map(Some);
        Ok(Self {
            contract,
            text: Some(value.to_vec()),
        })
    }

    fn of_fields<'a>(
        fields: impl IntoIterator<Item = (HeaderName, &'a [u8])>,
    ) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_bytes(value)
                .map_err(|_unparsable| format!("a value of {name} holds a control character"))?;
            headers.append(name, value);
        }
        // Offsets count in the field's value; in that of a member they would count decoded.
        let text = headers
            .get(carrier::CONTRACT)
            .map(|value| value.as_bytes().to_vec());
        // Who shows a cookie asks what an entry that reads it makes of it.
        let contract = match carrier::read(&headers) {
            Ok(None) => cookie::read(&headers),
            read => read,
        };
        Ok(Self { contract, text })
    }
}

/// The name and the value of a header line.
fn field(line: &[u8]) -> Result<(HeaderName, &[u8]), String> {
    let shown = || String::from_utf8_lossy(line).escape_debug().to_string();
    let colon = line.iter().position(|&byte| byte == b':');
    let (name, value) = colon
        .and_then(|colon| line.split_at_checked(colon))
        .ok_or_else(|| format!("--header: \"{}\" is not a `Name: value` line", shown()))?;
    let name = HeaderName::from_bytes(name.trim_ascii())
        .map_err(|_unparsable| format!("--header: \"{}\" has no valid name", shown()))?;
    Ok((name, value.strip_prefix(b":").unwrap_or(value).trim_ascii()))
}

/// What is said about a well-formed contract.
struct Explanation {
    bytes: usize,
    id: Option<String>,
    entries: Vec<Entry>,
    signature: Signature,
    /// Reserved members that nothing reads yet.
    ignored: Vec<String>,
}

struct Entry {
    service: String,
    target: Target,
    verdict: Verdict,
}

impl Explanation {
    fn of(contract: &Contract, policy: &TargetPolicy, signature: Signature) -> Self {
        let entries = contract.iter().map(|(service, target)| {
            let verdict = Verdict::of(&target, policy);
            Entry {
                service: service.to_string(),
                target,
                verdict,
            }
        });
        let reserved = contract.reserved().map(|(name, _)| name);
        Self {
            bytes: contract.as_str().len(),
            id: contract.id(),
            entries: entries.collect(),
            signature,
            ignored: reserved
                .filter(|name| !matches!(&**name, "$id" | "$exp" | "$key" | "$sig"))
                .collect(),
        }
    }

    fn is_allowed(&self) -> bool {
        self.signature.is_allowed() && self.entries.iter().all(|entry| entry.verdict.is_allowed())
    }

    fn human(&self) -> String {
        let count = match self.entries.len() {
            0 => "a contract that reroutes nothing".to_owned(),
            1 => "a contract of 1 entry".to_owned(),
            count => format!("a contract of {count} entries"),
        };
        let mut text = format!("{count}, {} bytes", self.bytes);
        if let Some(id) = &self.id {
            let _ = write!(text, ", of the test run {id}");
        }
        let service_width = self.entries.iter().map(|entry| entry.service.len()).max();
        let targets = self
            .entries
            .iter()
            .map(|entry| entry.target.to_string().len());
        let (service_width, target_width) = (
            service_width.unwrap_or_default(),
            targets.max().unwrap_or_default(),
        );
        for Entry {
            service,
            target,
            verdict,
        } in &self.entries
        {
            let target_text = target.to_string();
            let _ = write!(
                text,
                "\n  {service:service_width$}  {target_text:target_width$}  "
            );
            match verdict {
                Verdict::Allowed => text.push_str("allowed"),
                Verdict::Resolved => {
                    text.push_str("allowed where every address it resolves to is allowed");
                }
                Verdict::Refused(refusal) => {
                    let _ = write!(text, "refused: {}", refusal.advice());
                    if let Some(switch) = verdict::switch(refusal, target) {
                        let _ = write!(text, " ({switch})");
                    }
                }
            }
        }
        if let Some(signature) = self.signature.human() {
            let _ = write!(text, "\n{signature}");
        }
        if !self.ignored.is_empty() {
            let _ = write!(text, "\nnot interpreted: {}", self.ignored.join(", "));
        }
        text
    }

    fn json(&self) -> Value {
        let entries = self.entries.iter().map(
            |Entry {
                 service,
                 target,
                 verdict,
             }| {
                let refusal = match verdict {
                    Verdict::Refused(refusal) => Some(refusal),
                    _ => None,
                };
                json!({
                    "service": service,
                    "target": target.to_string(),
                    "allowed": verdict.is_allowed(),
                    "resolved": matches!(verdict, Verdict::Resolved),
                    "reason": refusal.map(|refusal| refusal.reason().as_str()),
                    "advice": refusal.map(|refusal| refusal.advice()),
                    "switch": refusal.and_then(|refusal| verdict::switch(refusal, target)),
                })
            },
        );
        json!({
            "ok": self.is_allowed(),
            "id": self.id,
            "bytes": self.bytes,
            "entries": entries.collect::<Vec<_>>(),
            "signature": self.signature.json(),
            "not_interpreted": self.ignored,
        })
    }
}

/// How much of a long contract is shown on each side of what is wrong, in bytes.
const CONTEXT: usize = 48;

/// The error, and under it the place it is about.
fn malformed(error: &ContractError, text: Option<&[u8]>) -> String {
    let mut message = error.to_string();
    let place = error
        .offset()
        .zip(text)
        .and_then(|(offset, text)| text.split_at_checked(offset));
    if let Some((before, after)) = place {
        let skipped = before.len().saturating_sub(CONTEXT);
        let shown_before = shown(before.get(skipped..).unwrap_or_default());
        let shown_after = shown(after.get(..CONTEXT).unwrap_or(after));
        let head = if skipped > 0 { "…" } else { "" };
        let tail = if after.len() > CONTEXT { "…" } else { "" };
        let width = head.chars().count() + shown_before.chars().count();
        let _ = write!(
            message,
            "\n  {head}{shown_before}{shown_after}{tail}\n  {:width$}^",
            ""
        );
    }
    message
}

/// Bytes as a terminal may have them: nothing that moves the cursor, one column a character.
fn shown(bytes: &[u8]) -> String {
    let visible = |letter: char| match letter {
        ' '..='~' => letter,
        _ => '·',
    };
    String::from_utf8_lossy(bytes)
        .chars()
        .map(visible)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(value: &str) -> Result<Explanation, String> {
        let subject = Subject::of_value(value.as_bytes())?;
        match subject.contract {
            Ok(Some(contract)) => {
                let policy = TargetPolicy::default();
                Ok(Explanation::of(
                    &contract,
                    &policy,
                    Signature::of(&contract, None),
                ))
            }
            Ok(None) => Err("no contract".to_owned()),
            Err(error) => Err(malformed(&error, subject.text.as_deref())),
        }
    }

    #[test]
    fn every_entry_has_its_verdict() {
        let explanation =
            explain(r#"{"foo":"192.168.1.12:8001","longer":"127.0.0.1:1","$id":"run-7","$x":""}"#)
                .unwrap();
        assert!(!explanation.is_allowed());
        let text = explanation.human();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("of the test run run-7"), "{text}");
        assert!(
            text.contains("  foo     192.168.1.12:8001  allowed"),
            "{text}"
        );
        assert!(
            text.contains("  longer  127.0.0.1:1        refused: loopback"),
            "{text}"
        );
        assert!(text.contains("(--allow loopback)"), "{text}");
        assert_eq!(*lines.last().unwrap(), "not interpreted: $x");
    }

    #[test]
    fn the_caret_stands_under_what_is_wrong() {
        let text = explain(r#"{"foo":"192.168.10.20_9001"}"#).err().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let column = lines[2].find('^').unwrap();
        assert_eq!(lines[1].get(column..=column), Some(r#"""#), "{text}");
        let long = format!(r#"{{"{}":"10.0.0.1:1", 7}}"#, "a".repeat(200));
        let text = explain(&long).err().unwrap();
        let lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
        let column = lines[2].iter().position(|&letter| letter == '^').unwrap();
        assert_eq!((lines[1][2], lines[1][column]), ('…', '7'), "{text}");
    }

    #[test]
    fn all_forms_of_a_contract_are_understood() {
        let member = "%7B%22foo%22%3A%2210.0.0.1%3A1%22%7D";
        for value in [
            r#"{"foo":"10.0.0.1:1"}"#.to_owned(),
            r#"X-DevRoute: {"foo":"10.0.0.1:1"}"#.to_owned(),
            member.to_owned(),
            format!("devroute={member}"),
            format!("baggage: other=1,devroute={member};ttl=3"),
        ] {
            let explanation = explain(&value).unwrap_or_else(|error| panic!("{value}: {error}"));
            assert_eq!(explanation.entries.len(), 1, "{value}");
        }
    }

    #[test]
    fn nothing_that_moves_the_cursor_is_shown() {
        let text = explain("{\"\u{1b}[2J\":\"\u{202e}\"}").err().unwrap();
        assert!(
            text.chars()
                .all(|letter| !letter.is_control() || letter == '\n'),
            "{text:?}"
        );
    }
}
