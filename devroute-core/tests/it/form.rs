//! Section "Form": rules 1 to 3 (and the shape of `$id`, rule 15), from a file that other implementations read too.

use std::collections::BTreeMap;

use devroute_core::{Contract, ContractErrorKind};
use http::HeaderValue;
use serde::Deserialize;

use crate::model;

#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    rule: u8,
    name: String,
    text: Option<String>,
    #[serde(default)]
    head: String,
    #[serde(default)]
    part: String,
    #[serde(default)]
    repeat: usize,
    #[serde(default)]
    tail: String,
    entries: Option<BTreeMap<String, String>>,
    count: Option<usize>,
    malformed: Option<String>,
}

impl Vector {
    fn text(&self) -> String {
        self.text.clone().unwrap_or_else(|| {
            let parts: String = (0..self.repeat)
                .map(|n| self.part.replace('#', &n.to_string()))
                .collect();
            format!("{}{parts}{}", self.head, self.tail)
        })
    }
}

fn vectors() -> Vec<Vector> {
    let file: Vectors = serde_json::from_str(include_str!("../vectors/contract.json")).unwrap();
    assert!(file.vectors.len() > 80, "the file was read to its end");
    file.vectors
}

#[test]
fn rules_01_to_03_hold_for_every_vector() {
    for vector in vectors() {
        let what = format!("rule {}: {}", vector.rule, vector.name);
        let parsed = Contract::parse(vector.text().as_bytes());
        match (&vector.malformed, parsed) {
            (Some(kind), Err(error)) => assert_eq!(error.kind().as_str(), kind, "{what}: {error}"),
            (None, Ok(contract)) => {
                let count = vector.count.or(vector.entries.as_ref().map(BTreeMap::len));
                assert_eq!(Some(contract.len()), count, "{what}");
                for (service, target) in vector.entries.unwrap_or_default() {
                    let found = contract.get(&service).map(|target| target.to_string());
                    assert_eq!(found, Some(target), "{what}");
                }
            }
            (expected, got) => panic!("{what}: expected {expected:?}, got {got:?}"),
        }
    }
}

/// The verdicts of the file are not the parser's own idea: an independent reading agrees.
#[test]
fn rule_01_the_model_agrees_with_every_vector() {
    for vector in vectors() {
        let modelled = model::read(vector.text().as_bytes());
        assert_eq!(
            modelled.is_some(),
            vector.malformed.is_none(),
            "{}",
            vector.name
        );
    }
}

#[test]
fn rule_01_a_field_value_gives_the_verdict_of_its_text() {
    for vector in vectors() {
        let text = vector.text();
        let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) else {
            continue;
        };
        let verdict = |result: Result<Contract, devroute_core::ContractError>| {
            result
                .map(|contract| contract.to_string())
                .map_err(|error| error.kind())
        };
        assert_eq!(
            verdict(Contract::try_from(&value)),
            verdict(Contract::parse(text.as_bytes())),
            "{}",
            vector.name
        );
    }
}

#[test]
fn rule_01_invalid_utf8_is_malformed_and_says_where() {
    let error = Contract::parse(b"{\"$x\":\"\xff\"}").unwrap_err();
    assert_eq!(error.kind(), ContractErrorKind::InvalidUtf8);
    assert_eq!(error.offset(), Some(7));
}

#[test]
fn rule_01_errors_show_an_escaped_and_shortened_piece_of_the_input() {
    let secret = format!("{{\"foo\":\"\\r\\n\u{1b}{}\"}}", "secret".repeat(50));
    for text in [secret.as_str(), "{\"foo\":[\u{7}é]}", "{\"\u{85}\":\"x\"}"] {
        let message = Contract::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(
            message.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{message}"
        );
        assert!(message.len() < 200, "{message}");
        assert!(message.matches("secret").count() < 6, "{message}");
    }
}

#[test]
fn rule_01_reading_and_printing_keeps_the_text() {
    for vector in vectors() {
        let text = vector.text();
        if let Ok(contract) = Contract::parse(text.as_bytes()) {
            assert_eq!(contract.to_string(), text, "{}", vector.name);
            assert_eq!(contract.to_string().parse::<Contract>().unwrap(), contract);
        }
    }
}
