//! Any file can be read; each line is a key, nothing, or skipped, and what names a developer is safe to print.

#![no_main]

use devroute_core::signature::{AuthorizedKeys, PublicKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|content: &[u8]| {
    let keys = AuthorizedKeys::parse(content);
    let lines = content.split(|byte| *byte == b'\n').count();
    assert!(keys.len() + keys.skipped().len() <= lines);
    assert!(keys.skipped().iter().all(|skipped| skipped.line() <= lines));
    // What a line is does not depend on the others, but that a key counts once.
    let alone = content
        .split(|byte| *byte == b'\n')
        .map(AuthorizedKeys::parse);
    let (mut found, mut skipped) = (0, 0);
    for one in alone {
        assert!(one.len() + one.skipped().len() <= 1);
        found += one.len();
        skipped += one.skipped().len();
    }
    assert!(keys.len() <= found && (found == 0) == keys.is_empty());
    assert_eq!(keys.skipped().len(), skipped);

    let Ok(line) = std::str::from_utf8(content) else {
        return;
    };
    if let Ok(key) = PublicKey::from_openssh(line) {
        assert!(!key.name().chars().any(char::is_control));
        let again = PublicKey::from_blob(&key.to_blob(), key.comment()).expect("a key is one");
        assert_eq!(again, key);
        // It may be more than a line.
        let one = format!(
            "restrict {} {}",
            line.split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" "),
            key.comment()
        );
        assert_eq!(AuthorizedKeys::parse(one.as_bytes()).len(), 1);
    }
});
