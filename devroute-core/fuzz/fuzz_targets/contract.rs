//! Any bytes have a verdict, which is the one of a simple reading by serde_json; what is well-formed reads back as
//! itself, and says the same through every accessor.

#![no_main]

#[path = "../../tests/it/model.rs"]
mod model;

use devroute_core::Contract;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let modelled = model::read(bytes);
    let contract = match Contract::parse(bytes) {
        Ok(contract) => contract,
        Err(error) => {
            assert_eq!(modelled, None, "{error}");
            let message = error.to_string();
            assert!(
                message.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{message}"
            );
            assert!(error.offset().is_none_or(|offset| offset <= bytes.len()));
            return;
        }
    };
    let text = contract.to_string();
    let again: Contract = text.parse().expect("a printed contract is one");
    assert_eq!(again.to_string(), text);
    assert_eq!(again, contract);

    let members = modelled.expect("a contract");
    assert_eq!(members.len(), contract.len() + contract.reserved().len());
    for (name, target) in &contract {
        let value: devroute_core::Target = members[name.as_str()].parse().expect("a target");
        assert_eq!(value, target);
        assert_eq!(contract.get(name.as_str()), Some(target));
    }
    for (name, value) in contract.reserved() {
        assert_eq!(members[&name], value);
    }
});
