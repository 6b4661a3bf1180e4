//! What one hop makes of a request (rules 4, 6, 7, 9 and 10), from a file that other implementations read too.

use devroute_core::{
    BaselineReason, Decision, DecisionErrorKind, ServiceName, TargetPolicy, carrier, decide,
};
use http::HeaderMap;
use serde::Deserialize;

use crate::headers;

#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    service: String,
    fields: Vec<(String, Value)>,
    decision: String,
    target: Option<String>,
    forwarded: Option<Vec<(String, Value)>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Built {
        head: String,
        part: String,
        repeat: usize,
        tail: String,
    },
}

impl Value {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Built {
                head,
                part,
                repeat,
                tail,
            } => format!("{head}{}{tail}", part.repeat(*repeat)),
        }
    }
}

fn map(lines: &[(String, Value)]) -> HeaderMap {
    let lines: Vec<_> = lines
        .iter()
        .map(|(name, value)| (name.as_str(), value.text()))
        .collect();
    headers(lines.iter().map(|(name, value)| (*name, value.as_str())))
}

/// The label of the file, and what is forwarded; `None` where nothing is.
fn hop(vector: &Vector) -> (&'static str, Option<String>, Option<HeaderMap>) {
    let mut headers = map(&vector.fields);
    let service = ServiceName::new(&vector.service).unwrap();
    let (decision, target, contract) = match decide(&headers, &service, &TargetPolicy::default()) {
        Ok(Decision::NoContract) => ("no_contract", None, None),
        Ok(Decision::Baseline { contract, reason }) => {
            let decision = match reason {
                BaselineReason::AlreadyRerouted => "already_rerouted",
                _ => "no_entry",
            };
            (decision, None, Some(contract))
        }
        Ok(Decision::Reroute(reroute)) => {
            let target = reroute.target.to_string();
            ("reroute", Some(target), Some(reroute.contract))
        }
        Err(error) if error.kind() == DecisionErrorKind::Malformed => {
            return ("malformed", None, None);
        }
        other => panic!("{}: {other:?}", vector.name),
    };
    headers.remove(carrier::MATCHED);
    if let Some(contract) = contract {
        carrier::write(&mut headers, &contract);
    }
    (decision, target, Some(headers))
}

#[test]
fn rules_06_to_10_hold_for_every_vector() {
    let file: Vectors = serde_json::from_str(include_str!("../vectors/hop.json")).unwrap();
    assert!(file.vectors.len() > 50, "the file was read to its end");
    for vector in file.vectors {
        let (decision, target, forwarded) = hop(&vector);
        let name = &vector.name;
        assert_eq!(decision, vector.decision, "{name}");
        assert_eq!(target, vector.target, "{name}");
        let expected = vector.forwarded.as_deref().map(map);
        assert_eq!(forwarded, expected, "{name}");
    }
}
