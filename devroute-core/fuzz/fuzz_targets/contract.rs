//! Any bytes have a verdict; what is well-formed is JSON to serde_json too, reads back as itself, and says the same
//! through every accessor.

#![no_main]

use std::collections::BTreeMap;

use devroute_core::Contract;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let contract = match Contract::parse(bytes) {
        Ok(contract) => contract,
        Err(error) => {
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

    let members: BTreeMap<String, String> =
        serde_json::from_slice(bytes).expect("an object of strings");
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
