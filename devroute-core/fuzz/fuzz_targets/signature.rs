//! Whatever a contract says in `$exp`, `$key` and `$sig`, it has a verdict; signed anew it is good, and with anything
//! changed after that it is not.

#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use devroute_core::Contract;
use devroute_core::signature::{AuthorizedKeys, PrivateKeyFile, SigningKey, Verifier};
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<SigningKey> =
    LazyLock::new(
        || match SigningKey::from_openssh(include_bytes!("../../tests/vectors/alice")) {
            Ok(PrivateKeyFile::Plain(key)) => key,
            other => panic!("{other:?}"),
        },
    );

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    Verifier::new(AuthorizedKeys::parse(include_bytes!(
        "../../tests/vectors/alice.pub"
    )))
});

// Lines: the contract, and what is put at some place of the signed one.
fuzz_target!(|lines: &[u8]| {
    let mut lines = lines.splitn(2, |byte| *byte == b'\n');
    let (text, put) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let Ok(contract) = Contract::parse(text) else {
        return;
    };
    let now = UNIX_EPOCH + Duration::from_secs(1_789_996_400);
    // The seeds have one that is good. Found good once, a contract stays so.
    if let Ok(by) = VERIFIER.verify(&contract, now) {
        assert_eq!(by.is_none(), contract.is_empty());
        assert_eq!(VERIFIER.verify(&contract, now), Ok(by));
    }

    let Ok(signed) = KEY.sign_contract(&contract, now + Duration::from_secs(60)) else {
        return;
    };
    assert!(VERIFIER.verify(&signed, now).is_ok());
    let Some((place, put)) = put.split_first() else {
        return;
    };
    let mut changed = signed.as_str().as_bytes().to_vec();
    let place = usize::from(*place) * changed.len() / 256;
    let end = changed.len().min(place + put.len());
    changed.splice(place..end, put.iter().copied());
    if let Ok(changed) = Contract::parse(&changed) {
        let good = VERIFIER.verify(&changed, now).is_ok();
        assert_eq!(good, changed == signed || changed.is_empty());
    }
});
