//! Section "Reserved members": rule 15, signatures.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use devroute_core::signature::{
    AuthorizedKeys, PrivateKeyFile, PublicKey, SigningKey, ToSign, Verifier, expires,
};
use devroute_core::{
    Contract, Decision, DecisionErrorKind, Selector, ServiceName, SignatureErrorKind, TargetPolicy,
};
use proptest::prelude::*;
use serde::Deserialize;

use crate::headers;

pub(crate) const ALICE: &[u8] = include_bytes!("../vectors/alice");
pub(crate) const ALICE_PUB: &str = include_str!("../vectors/alice.pub");

#[derive(Deserialize)]
struct Vectors {
    key: String,
    now: u64,
    expires: u64,
    signed: Vec<Signed>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Signed {
    name: String,
    contract: String,
    canonical: String,
    signed: String,
}

#[derive(Deserialize)]
struct Refused {
    name: String,
    contract: String,
    cause: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../vectors/signature.json")).unwrap()
}

pub(crate) fn alice() -> SigningKey {
    match SigningKey::from_openssh(ALICE).unwrap() {
        PrivateKeyFile::Plain(key) => key,
        other => panic!("{other:?}"),
    }
}

/// A key of nobody's.
fn mallory() -> SigningKey {
    let seed = [7; 32];
    let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let public = ring::signature::KeyPair::public_key(&pair)
        .as_ref()
        .try_into()
        .unwrap();
    let pair = ssh_key::private::Ed25519Keypair {
        public: ssh_key::public::Ed25519PublicKey(public),
        private: ssh_key::private::Ed25519PrivateKey::from_bytes(&seed),
    };
    let key = ssh_key::PrivateKey::new(pair.into(), "mallory").unwrap();
    let pem = key.to_openssh(ssh_key::LineEnding::LF).unwrap();
    match SigningKey::from_openssh(pem.as_bytes()).unwrap() {
        PrivateKeyFile::Plain(key) => key,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn verifier() -> Verifier {
    Verifier::new(AuthorizedKeys::parse(ALICE_PUB.as_bytes()))
}

pub(crate) fn contract(text: &str) -> Contract {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn cause(verifier: &Verifier, contract: &Contract, now: SystemTime) -> Option<&'static str> {
    verifier
        .verify(contract, now)
        .err()
        .map(|error| error.kind().as_str())
}

#[test]
fn rule_15_the_vectors_are_signed_as_ssh_keygen_signed_them() {
    let vectors = vectors();
    assert!(vectors.signed.len() > 3);
    let key = alice();
    assert_eq!(key.public_key().id(), vectors.key);
    for vector in &vectors.signed {
        let unsigned = contract(&vector.contract);
        let expires = at(vectors.expires);
        let to_sign = ToSign::new(&unsigned, key.public_key(), expires).unwrap();
        let hash = ring::digest::digest(&ring::digest::SHA512, vector.canonical.as_bytes());
        assert!(
            to_sign.message().ends_with(hash.as_ref()),
            "{}: {}",
            vector.name,
            vector.canonical
        );
        let signed = key.sign_contract(&unsigned, expires).unwrap();
        assert_eq!(signed, contract(&vector.signed), "{}", vector.name);

        let verifier = verifier();
        // The second time it is remembered.
        for _twice in 0..2 {
            let by = verifier.verify(&contract(&vector.signed), at(vectors.now));
            assert_eq!(
                by.unwrap().as_deref(),
                Some("alice@laptop"),
                "{}",
                vector.name
            );
        }
    }
}

#[test]
fn rule_15_the_vectors_that_are_refused_say_why() {
    let vectors = vectors();
    assert!(vectors.refused.len() > 20);
    let verifier = verifier();
    for vector in vectors.refused {
        for _twice in 0..2 {
            let found = cause(&verifier, &contract(&vector.contract), at(vectors.now));
            assert_eq!(found, Some(&*vector.cause), "{}", vector.name);
        }
    }
}

/// A text that is not the one the tests hold would be worth nothing to another implementation.
#[test]
fn rule_15_the_documentation_has_the_vectors() {
    let documentation = include_str!("../../../docs/contract.md");
    let vectors = vectors();
    let shown = &vectors.signed[1];
    for text in [
        ALICE_PUB.trim(),
        &vectors.key,
        &shown.canonical,
        &shown.signed,
    ] {
        assert!(documentation.contains(text), "{text}");
    }
}

#[test]
fn rule_15_a_contract_that_names_nothing_needs_no_signature() {
    let nobody = Verifier::new(AuthorizedKeys::default());
    for text in ["{}", r#"{"$id":"run-7"}"#] {
        assert_eq!(nobody.verify(&contract(text), at(0)), Ok(None));
    }
}

#[test]
fn rule_15_what_is_remembered_expires_all_the_same() {
    let Vectors {
        now,
        expires,
        signed,
        ..
    } = vectors();
    let signed = contract(&signed[0].signed);
    let verifier = verifier().clock_skew(Duration::from_secs(10));
    assert_eq!(cause(&verifier, &signed, at(now)), None);
    assert_eq!(cause(&verifier, &signed, at(expires + 9)), None);
    assert_eq!(cause(&verifier, &signed, at(expires + 10)), Some("expired"));
    // A clock that is set back does not make it better than it was.
    let early = at(expires - 2 * 24 * 60 * 60);
    assert_eq!(cause(&verifier, &signed, early), Some("expires_too_late"));
    assert_eq!(
        devroute_core::signature::expires(&signed),
        Some(at(expires))
    );
    assert_eq!(self::expires(&contract(r#"{"$exp":"soon"}"#)), None);
}

#[test]
fn rule_15_a_signature_has_64_bytes() {
    let Vectors { now, signed, .. } = vectors();
    let signed = &signed[0].signed;
    let (before, signature) = signed.split_once(r#""$sig":""#).unwrap();
    let (signature, after) = signature.split_once('"').unwrap();
    // 64 bytes are 86 characters of base64, and 84 are 63.
    for (length, detail) in [(86, None), (84, Some("64 bytes")), (0, Some("64 bytes"))] {
        let cut = format!(
            r#"{before}"$sig":"{}"{after}"#,
            signature.get(..length).unwrap()
        );
        let error = verifier().verify(&contract(&cut), at(now)).err();
        // Not merely one that is wrong: it never comes to the key, nor to what is remembered of wrong ones, where
        // another length would make two messages out of the same bytes.
        let said = error.map(|error| error.to_string());
        assert_eq!(said.is_some(), detail.is_some(), "{length}: {said:?}");
        assert!(
            said.unwrap_or_default()
                .contains(detail.unwrap_or_default()),
            "{length}"
        );
    }
}

#[test]
fn rule_15_what_holds_where_nothing_is_set() {
    assert_eq!(Verifier::MAX_LIFETIME.as_secs(), 86_400, "a day");
    assert_eq!(Verifier::CLOCK_SKEW.as_secs(), 30);
}

#[test]
fn rule_15_a_key_that_is_taken_away_ends_what_was_remembered() {
    let Vectors { now, signed, .. } = vectors();
    let signed = contract(&signed[0].signed);
    let verifier = verifier();
    let clone = verifier.clone();
    assert_eq!(cause(&clone, &signed, at(now)), None);
    assert_eq!(verifier.keys(), 1);
    verifier.replace_keys(AuthorizedKeys::default());
    assert_eq!(verifier.keys(), 0);
    assert_eq!(cause(&clone, &signed, at(now)), Some("unknown_key"));
    verifier.replace_keys(AuthorizedKeys::parse(ALICE_PUB.as_bytes()));
    assert_eq!(cause(&clone, &signed, at(now)), None);
}

#[test]
fn rule_15_another_key_is_no_key_even_under_an_authorized_id() {
    let now = SystemTime::now();
    let foo = contract(r#"{"foo":"10.0.0.1:80"}"#);
    let until = now + Duration::from_secs(3600);
    let signed = mallory().sign_contract(&foo, until).unwrap();
    assert_eq!(cause(&verifier(), &signed, now), Some("unknown_key"));

    // Over everything that alice would sign, her key id included.
    let to_sign = ToSign::new(&foo, alice().public_key(), until).unwrap();
    let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let forged = pair.sign(to_sign.message());
    assert!(to_sign.finish(forged.as_ref()).is_err(), "nor is it made");
}

#[test]
fn rule_15_a_refusal_says_what_to_do_about_it() {
    let now = SystemTime::now();
    let until = |seconds| now + Duration::from_secs(seconds);
    let foo = contract(r#"{"foo":"10.0.0.1:80"}"#);
    let signed = |until| alice().sign_contract(&foo, until).unwrap();
    let renamed = signed(until(60)).with_id("run-7").unwrap();
    let foreign = mallory().sign_contract(&foo, until(60)).unwrap();
    for (refused, cause, advice) in [
        (
            foo.clone(),
            "signature_missing",
            "SSH key that is authorized here",
        ),
        (renamed, "signature_invalid", "send it as it was signed"),
        (foreign, "unknown_key", "added to the authorized keys"),
        (
            signed(now - Duration::from_secs(60)),
            "expired",
            "Sign it again: `devroute",
        ),
        (
            signed(until(100_000)),
            "expires_too_late",
            "for a shorter time",
        ),
    ] {
        let error = verifier().verify(&refused, now).unwrap_err();
        assert_eq!(error.kind().to_string(), cause);
        assert!(
            error.advice().contains(advice),
            "{cause}: {}",
            error.advice()
        );
    }
}

#[test]
fn rule_15_signing_again_replaces_the_signature() {
    let now = SystemTime::now();
    let foo = contract(r#"{"$id":"run-7","foo":"10.0.0.1:80"}"#);
    let once = alice().sign_contract(&foo, now).unwrap();
    let until = now + Duration::from_secs(3600);
    let twice = alice().sign_contract(&once, until).unwrap();
    assert_eq!(twice, alice().sign_contract(&foo, until).unwrap());
    assert_eq!(twice.id().as_deref(), Some("run-7"));
    assert_eq!(twice.reserved().len(), 4);
    assert_eq!(cause(&verifier(), &twice, now), None);
    let renamed = twice.with_id("run-8").unwrap();
    assert_eq!(cause(&verifier(), &renamed, now), Some("signature_invalid"));
}

#[test]
fn rule_15_what_cannot_be_signed_says_so() {
    let now = SystemTime::now();
    for (text, reason) in [
        (r#"{"$note":"a\"b"}"#.to_owned(), "escape"),
        (r#"{"$note":"é"}"#.to_owned(), "escape"),
        (format!(r#"{{"$note":"{}"}}"#, "x".repeat(8100)), "no room"),
    ] {
        let error = alice().sign_contract(&contract(&text), now).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let before = UNIX_EPOCH - Duration::from_secs(1);
    assert!(alice().sign_contract(&Contract::empty(), before).is_err());
}

#[test]
fn rule_15_keys_of_other_kinds_are_told_apart() {
    assert!(SigningKey::from_openssh(b"-----BEGIN PRIVATE KEY-----").is_err());
    assert!(SigningKey::from_openssh(ALICE_PUB.as_bytes()).is_err());
    let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 bob";
    let error = PublicKey::from_openssh(rsa).unwrap_err();
    assert!(error.to_string().contains("ssh-ed25519"), "{error}");
    let key = PublicKey::from_openssh(ALICE_PUB).unwrap();
    assert_eq!(&key, alice().public_key());
    assert_eq!(
        PublicKey::from_blob(&key.to_blob(), "alice@laptop").unwrap(),
        key
    );
    // No part of the private half is ever printed.
    let shown = format!("{:?}", alice());
    assert!(
        shown.contains("alice@laptop") && shown.len() < 200,
        "{shown}"
    );
}

#[test]
fn rule_15_a_decision_is_made_about_signed_contracts_only() {
    let now = SystemTime::now();
    let foo = ServiceName::new("foo").unwrap();
    let selector = Selector::new(foo, TargetPolicy::default()).verifier(verifier());
    let router = Selector::router(TargetPolicy::default()).verifier(verifier());
    let unsigned = contract(r#"{"foo":"127.0.0.1:80","other":"10.0.0.1:80"}"#);
    let until = now + Duration::from_secs(60);
    let matched = ("x-devroute-matched", "foo");

    for (selector, field) in [(&selector, ("via", "1.1 x")), (&router, matched)] {
        // Unsigned, it hears nothing about the policy.
        let fields = headers([("x-devroute", unsigned.as_str()), field]);
        let error = selector.decide(&fields).unwrap_err();
        assert_eq!(error.kind(), DecisionErrorKind::Signature);
        assert_eq!(error.service().unwrap().as_str(), "foo");
        assert!(error.target().is_some() && error.refusal().is_none());
        let reason = error.signature_error().unwrap();
        assert_eq!(reason.kind(), SignatureErrorKind::Missing);
        assert!(std::error::Error::source(&error).is_some());

        let signed = alice().sign_contract(&unsigned, until).unwrap();
        let fields = headers([("x-devroute", signed.as_str()), field]);
        let error = selector.decide(&fields).unwrap_err();
        assert_eq!(error.kind(), DecisionErrorKind::Refused, "by the policy");

        let good = contract(r#"{"foo":"10.0.0.1:80"}"#);
        let signed = alice().sign_contract(&good, until).unwrap();
        let fields = headers([("x-devroute", signed.as_str()), field]);
        let Ok(Decision::Reroute(reroute)) = selector.decide(&fields) else {
            panic!("not rerouted")
        };
        assert_eq!(reroute.signed_by.as_deref(), Some("alice@laptop"));
    }

    // One that names other services has nothing to say to this one, and is refused all the same: the next hop would
    // have to.
    let other = headers([("x-devroute", r#"{"other":"10.0.0.1:80"}"#)]);
    let error = selector.decide(&other).unwrap_err();
    assert_eq!(error.kind(), DecisionErrorKind::Signature);
    assert!(error.service().is_none());
    let rerouted = headers([("x-devroute", r#"{"foo":"10.0.0.1:80"}"#), matched]);
    assert!(selector.decide(&rerouted).is_err());
    assert!(matches!(
        selector.decide(&headers([("x-devroute", "{}")])),
        Ok(Decision::Baseline { .. })
    ));
    assert!(matches!(
        selector.decide(&headers([])),
        Ok(Decision::NoContract)
    ));
}

proptest! {
    /// Any byte that is changed, left out, or put in: it is no contract any more, is refused, or says what it said.
    #[test]
    fn rule_15_any_change_of_any_byte_is_refused(
        place in any::<prop::sample::Index>(),
        byte in 0x20..=0x7e_u8,
        how in 0..3,
    ) {
        let Vectors { now, signed, .. } = vectors();
        let signed = contract(&signed[1].signed);
        let mut text = signed.as_str().as_bytes().to_vec();
        let place = place.index(text.len());
        match how {
            0 => text[place] = byte,
            1 => { text.remove(place); }
            _ => text.insert(place, byte),
        }
        if let Ok(changed) = Contract::parse(&text) {
            let verifier = verifier();
            // With what it was made of in memory, too.
            verifier.verify(&signed, at(now)).unwrap();
            prop_assert_eq!(verifier.verify(&changed, at(now)).is_ok(), changed == signed);
        }
    }

    #[test]
    fn rule_15_what_is_signed_verifies_however_it_is_spelled(
        members in prop::collection::btree_map("[A-Za-z0-9._-]{1,9}", any::<std::net::Ipv4Addr>(), 1..6),
        notes in prop::collection::btree_map("\\$[a-z]{5}", "[ !#-\\[\\]-~]{0,12}", 0..3),
    ) {
        let mut all = notes;
        all.extend(members.into_iter().map(|(name, ip)| (name, format!("{ip}:80"))));
        let unsigned = contract(&serde_json::to_string(&all).unwrap());
        let now = SystemTime::now();
        let signed = alice().sign_contract(&unsigned, now + Duration::from_secs(60)).unwrap();
        prop_assert_eq!(cause(&verifier(), &signed, now), None);
        let members: std::collections::HashMap<String, String> =
            serde_json::from_str(signed.as_str()).unwrap();
        let respelled = contract(&serde_json::to_string_pretty(&members).unwrap());
        prop_assert_eq!(cause(&verifier(), &respelled, now), None);
        let carried = devroute_core::carrier::baggage::encode(&signed);
        let carried = devroute_core::carrier::baggage::decode(carried.as_bytes()).unwrap();
        prop_assert_eq!(cause(&verifier(), &carried, now), None);
    }
}

/// Each byte by each other one that differs in one bit, rather than some.
#[test]
fn rule_15_no_bit_can_be_turned() {
    let Vectors { now, signed, .. } = vectors();
    let signed = contract(&signed[0].signed);
    let verifier = verifier();
    verifier.verify(&signed, at(now)).unwrap();
    let mut refused = 0;
    for place in 0..signed.as_str().len() {
        for bit in 0..8 {
            let mut text = signed.as_str().as_bytes().to_vec();
            text[place] ^= 1 << bit;
            if let Ok(changed) = Contract::parse(&text) {
                assert!(verifier.verify(&changed, at(now)).is_err(), "{changed}");
                refused += 1;
            }
        }
    }
    assert!(refused > 500, "most are well-formed: {refused}");
}
