//! Section "Reserved members": rule 15, as far as it is built: `$id`.

use devroute_core::{Contract, ContractErrorKind};

fn contract(text: &str) -> Contract {
    text.parse().unwrap()
}

#[test]
fn rule_15_the_id_names_the_test_run() {
    assert_eq!(
        contract(r#"{"$id":"Run_7.a-b"}"#).id().as_deref(),
        Some("Run_7.a-b")
    );
    assert_eq!(contract(r#"{"$id":"\u0061"}"#).id().as_deref(), Some("a"));
    assert_eq!(contract(r#"{"id":"10.0.0.1:80","$ID":"x"}"#).id(), None);
}

#[test]
fn rule_15_an_id_is_well_formed_or_the_contract_is_not() {
    for id in [
        String::new(),
        "a".repeat(65),
        "a b".into(),
        "a/b".into(),
        "é".into(),
        "a\n".into(),
    ] {
        let text = format!(r#"{{"$id":{}}}"#, serde_json::to_string(&id).unwrap());
        let error = text.parse::<Contract>().unwrap_err();
        assert_eq!(error.kind(), ContractErrorKind::InvalidId, "{id}");
        assert_eq!(
            Contract::empty().with_id(&id).unwrap_err().kind(),
            error.kind()
        );
        assert_eq!(
            Contract::builder().id(id).build().unwrap_err().kind(),
            error.kind()
        );
    }
}

#[test]
fn rule_02_reserved_members_are_kept_and_are_no_services() {
    let contract = contract(r#"{"$exp":"1","foo":"10.0.0.1:80","$sig":"x y"}"#);
    assert_eq!(contract.len(), 1);
    assert_eq!(contract.get("$exp"), None);
    assert_eq!(
        contract
            .iter()
            .map(|(name, _)| name.to_string())
            .collect::<Vec<_>>(),
        ["foo"]
    );
    let reserved: Vec<_> = contract.reserved().collect();
    assert_eq!(
        reserved,
        [("$exp".into(), "1".into()), ("$sig".into(), "x y".into())]
    );
    assert!(!contract.is_empty());
    assert!(self::contract(r#"{"$exp":"1"}"#).is_empty());
}
