//! What is signed: one spelling of a contract, whatever it came spelled as.

use std::collections::BTreeMap;

use ssh_key::{HashAlg, SshSig};

use super::SIG;

/// The namespace of the signatures: one made for anything else, such as a commit, is none for a contract.
const NAMESPACE: &str = "devroute";

/// The object with its members sorted by name, without blanks, escapes and `$sig`; none where a value cannot be
/// written without an escape.
///
/// Refusing those is what makes it one spelling. Written as they are, a quote in a value would end it, and two
/// contracts could have one text.
pub(super) fn text(members: &BTreeMap<String, String>) -> Option<String> {
    let mut out = String::from("{");
    for (name, value) in members.iter().filter(|(name, _)| *name != SIG) {
        if !is_plain(name) || !is_plain(value) {
            return None;
        }
        if out.len() > 1 {
            out.push(',');
        }
        for piece in ["\"", name, "\":\"", value, "\""] {
            out.push_str(piece);
        }
    }
    out.push('}');
    Some(out)
}

fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

/// The bytes that the key signs for `text`: the blob of SSHSIG (`PROTOCOL.sshsig` of OpenSSH), with sha512.
pub(super) fn signed_data(text: &str) -> Option<Vec<u8>> {
    SshSig::signed_data(NAMESPACE, HashAlg::Sha512, text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn members_are_sorted_by_their_bytes_and_the_signature_is_left_out() {
        let members = members(&[
            ("b", "1"),
            ("$sig", "x"),
            ("a.b", "2"),
            ("B", "3"),
            ("$exp", "9"),
        ]);
        assert_eq!(
            text(&members).unwrap(),
            r#"{"$exp":"9","B":"3","a.b":"2","b":"1"}"#
        );
        assert_eq!(text(&BTreeMap::new()).unwrap(), "{}");
    }

    #[test]
    fn what_would_need_an_escape_has_no_canonical_form() {
        for value in ["\"", "\\", "\n", "\u{7f}", "é", r#"a","foo":"10.0.0.1:80"#] {
            assert_eq!(text(&members(&[("$note", value)])), None, "{value:?}");
        }
        assert!(text(&members(&[("$note", "a b+c 50%")])).is_some());
    }

    #[test]
    fn the_blob_is_the_one_of_sshsig() {
        let blob = signed_data("{}").unwrap();
        let head = b"SSHSIG\0\0\0\x08devroute\0\0\0\0\0\0\0\x06sha512\0\0\0\x40";
        assert_eq!(blob.get(..head.len()), Some(&head[..]));
        assert_eq!(blob.len(), head.len() + 64);
    }
}
