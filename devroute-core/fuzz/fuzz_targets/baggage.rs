//! Whatever `baggage` is there: reading gives a verdict, writing is idempotent and reads back, other members stay,
//! and removing removes.

#![no_main]

use devroute_core::carrier::{self, Written};
use devroute_core::{Contract, ContractErrorKind, carrier::baggage};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|lines: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(8) {
        let Ok(line) = HeaderValue::from_bytes(line) else {
            return;
        };
        headers.append(carrier::BAGGAGE, line);
    }
    let others = others(&headers);

    let read = carrier::read(&headers);
    assert_eq!(carrier::is_present(&headers), !matches!(read, Ok(None)));
    let contract = read.ok().flatten().unwrap_or_else(Contract::empty);
    let value = baggage::encode(&contract);
    // Spelled for a member it may be longer than a contract can be.
    let spelled = value.len() - 2 * value.matches('%').count();
    for value in [&value, &value.replace('%', "%25")] {
        match baggage::decode(value.as_bytes()) {
            Ok(decoded) => assert_eq!(decoded, contract),
            Err(error) => {
                assert_eq!(error.kind(), ContractErrorKind::TooLong);
                assert!(spelled > 8192);
            }
        }
    }

    let written = carrier::write(&mut headers, &contract);
    assert_eq!(self::others(&headers), others);
    assert_eq!(carrier::read(&headers), Ok(Some(contract.clone())));
    if written == Written::Both {
        assert_eq!(baggage::read(&headers), Ok(Some(contract.clone())));
    } else {
        assert!(!baggage::is_present(&headers));
    }
    let once = headers.clone();
    assert_eq!(carrier::write(&mut headers, &contract), written);
    assert_eq!(headers, once);

    carrier::remove(&mut headers);
    assert!(!carrier::is_present(&headers));
    assert_eq!(self::others(&headers), others);
});

/// The members that are not ours, in order, without the blanks at the ends of lines.
fn others(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let lines = headers.get_all(carrier::BAGGAGE).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|member| member.trim_ascii().to_vec())
        .filter(|member| !member.is_empty() && !is_ours(member))
        .collect()
}

fn is_ours(member: &[u8]) -> bool {
    let name = member.split(|byte| matches!(byte, b'=' | b';')).next();
    name.is_some_and(|name| name.trim_ascii() == b"devroute")
}
