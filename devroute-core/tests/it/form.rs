//! Section "Form": rules 1 to 3 (and the shape of `$id`, rule 15), from a file that other implementations read too.

use std::collections::BTreeMap;

use devroute_core::{Contract, ContractErrorKind};
use http::HeaderValue;
use serde::Deserialize;

use crate::model;
use crate::vectors::{Text, is_counted};

#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    rule: u8,
    name: String,
    #[serde(flatten)]
    text: Text,
    entries: Option<BTreeMap<String, String>>,
    count: Option<usize>,
    malformed: Option<String>,
}

fn vectors() -> Vec<Vector> {
    let file: Vectors = serde_json::from_str(include_str!("../vectors/contract.json")).unwrap();
    is_counted("contract.json", file.vectors.len());
    file.vectors
}

#[test]
fn rules_01_to_03_hold_for_every_vector() {
    for vector in vectors() {
        let what = format!("rule {}: {}", vector.rule, vector.name);
        let parsed = Contract::parse(&vector.text.bytes());
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
        let modelled = model::read(&vector.text.bytes());
        assert_eq!(
            modelled.is_some(),
            vector.malformed.is_none(),
            "{}",
            vector.name
        );
    }
}

/// To the byte: of DEL six are made, of a letter beyond ASCII too, and of a blank between tokens none.
#[test]
fn rule_01_what_is_spelled_anew_has_to_fit() {
    for (special, longer) in [
        ("\u{7f}", 5),
        ("\u{7f}\u{7f}\u{7f}", 15),
        ("\u{7f}\u{e9}", 9),
        ("\u{7f}% +\\\"", 20),
    ] {
        for blank in ["", "\n", " \t"] {
            for room in [0, 1] {
                let around = format!("{{{blank}\"$x\":\"{special}\"}}");
                let spelled = around.len() - blank.len() + longer;
                let text = format!("a{}", "a".repeat(8192 - spelled - room));
                let text = around.replace(special, &format!("{special}{text}"));
                let parsed = Contract::parse(text.as_bytes());
                assert_eq!(
                    parsed.is_ok(),
                    room == 1,
                    "{special:?} {blank:?}: {parsed:?}"
                );
                assert_eq!(model::read(text.as_bytes()).is_some(), room == 1);
            }
        }
    }
}

/// JSONTestSuite: what no reader of JSON may take is malformed, and every string that all must take is a value.
#[test]
fn rule_01_json_is_read_as_the_json_test_suite_says() {
    #[derive(Deserialize)]
    struct Suite {
        vectors: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        name: String,
        #[serde(flatten)]
        text: Text,
        #[serde(default)]
        malformed: bool,
    }

    let suite: Suite =
        serde_json::from_str(include_str!("../vectors/json_test_suite.json")).unwrap();
    is_counted("json_test_suite.json", suite.vectors.len());
    for case in suite.vectors {
        let text = case.text.bytes();
        let parsed = Contract::parse(&text);
        assert_eq!(parsed.is_err(), case.malformed, "{}: {parsed:?}", case.name);
        let modelled = model::read(&text);
        assert_eq!(modelled.is_none(), case.malformed, "{}", case.name);
        assert!(
            case.malformed || !case.name.starts_with("n_"),
            "{}",
            case.name
        );
        for (name, value) in parsed.iter().flat_map(Contract::reserved) {
            assert_eq!(modelled.as_ref().unwrap()[&name], value, "{}", case.name);
        }
    }
}

#[test]
fn rule_01_a_field_value_gives_the_verdict_of_its_text() {
    for vector in vectors() {
        let text = vector.text.bytes();
        let Ok(value) = HeaderValue::from_bytes(&text) else {
            continue;
        };
        let verdict = |result: Result<Contract, devroute_core::ContractError>| {
            result
                .map(|contract| contract.to_string())
                .map_err(|error| error.kind())
        };
        assert_eq!(
            verdict(Contract::try_from(&value)),
            verdict(Contract::parse(&text)),
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
        let text = vector.text.bytes();
        if HeaderValue::from_bytes(&text).is_err() {
            // It could not be sent as it is, and is spelled anew.
            continue;
        }
        if let Ok(contract) = Contract::parse(&text) {
            assert_eq!(contract.to_string().as_bytes(), text, "{}", vector.name);
            assert_eq!(contract.to_string().parse::<Contract>().unwrap(), contract);
        }
    }
}
