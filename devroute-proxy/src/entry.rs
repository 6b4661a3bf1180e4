//! What is taken off a request that comes from outside (rule 20): contracts, in whatever carrier.
//!
//! A client in a listed network may send them all the same. That is decided by the address of its
//! connection, once: what a field says about who is behind it anybody can write.

use std::time::SystemTime;

use devroute_tower::ClientInfo;
use devroute_tower::core::carrier::{self, cookie};
use devroute_tower::core::signature::Verifier;
use http::HeaderMap;

use crate::config::{EntryConfig, Strip};

/// Removes what is not to come in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    config: EntryConfig,
    /// What says which contracts are well signed.
    verifier: Option<Verifier>,
}

impl Entry {
    pub(crate) fn new(config: EntryConfig, verifier: Option<Verifier>) -> Self {
        Self { config, verifier }
    }

    /// The same for the requests of one client.
    pub(crate) fn facing(&self, client: ClientInfo) -> Self {
        let mut entry = self.clone();
        let mut trusted = self.config.trust.iter();
        if trusted.any(|network| network.matches(client.addr())) {
            entry.config.strip = Strip::Nothing;
        }
        entry
    }

    pub(crate) fn clean(&self, headers: &mut HeaderMap) {
        match self.config.strip {
            Strip::Nothing => return,
            Strip::Unsigned => {
                if !carrier::may_concern(headers) && !cookie::is_present(headers) {
                    return;
                }
                if self.is_signed(headers) {
                    // A carrier that does not count is replaced or taken off by the layer inside; a
                    // cookie that nobody reads here might be read further in.
                    if !self.config.cookie {
                        cookie::remove(headers);
                    }
                    return;
                }
            }
            Strip::Everything => {}
        }
        carrier::remove(headers);
        cookie::remove(headers);
        headers.remove(carrier::MATCHED);
    }

    /// Whether the contract that counts is well signed.
    fn is_signed(&self, headers: &HeaderMap) -> bool {
        let read = match carrier::read(headers) {
            Ok(None) if self.config.cookie => cookie::read(headers),
            read => read,
        };
        match (&self.verifier, read) {
            (Some(verifier), Ok(Some(contract))) => {
                verifier.verify(&contract, SystemTime::now()).is_ok()
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use devroute_tower::core::Contract;
    use devroute_tower::core::carrier::baggage;
    use devroute_tower::core::signature::{AuthorizedKeys, PrivateKeyFile, SigningKey};

    use super::*;

    fn cleaned(entry: &Entry, client: &str) -> HeaderMap {
        let client = ClientInfo::new(client.parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-devroute", "{}"),
            ("x-devroute-matched", "foo"),
            ("baggage", "a=1,devroute=%7B%7D"),
            ("cookie", "a=1; devroute=%7B%7D"),
            ("x-forwarded-for", "10.1.2.3"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        entry.facing(client).clean(&mut headers);
        headers
    }

    #[test]
    fn rule_20_every_carrier_goes_unless_the_connection_comes_from_a_listed_network() {
        let trust = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let config = EntryConfig {
            strip: Strip::Everything,
            trust: trust.into(),
            cookie: true,
        };
        let entry = Entry::new(config, None);
        for outside in ["192.0.2.1:9", "[2001:db8::1]:9", "[::ffff:11.0.0.1]:9"] {
            let headers = cleaned(&entry, outside);
            assert!(!carrier::is_present(&headers), "{outside}");
            assert!(!headers.contains_key(carrier::MATCHED), "{outside}");
            assert_eq!(headers["baggage"], "a=1");
            assert_eq!(headers["cookie"], "a=1");
        }
        for inside in ["10.255.0.1:9", "[fd00::1]:9", "[::ffff:10.0.0.1]:9"] {
            assert_eq!(cleaned(&entry, inside).len(), 5, "{inside}");
            assert!(carrier::is_present(&cleaned(&entry, inside)), "{inside}");
        }
    }

    #[test]
    fn rule_20_of_what_comes_from_outside_what_is_well_signed_may_stay() {
        let vectors = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../devroute-core/tests/vectors"
        );
        let vector = |name: &str| std::fs::read(format!("{vectors}/{name}")).unwrap();
        let PrivateKeyFile::Plain(key) = SigningKey::from_openssh(&vector("alice")).unwrap() else {
            panic!("it is not encrypted")
        };
        let unsigned: Contract = r#"{"foo":"10.0.0.1:80"}"#.parse().unwrap();
        let expires = SystemTime::now() + Duration::from_secs(60);
        let signed = key.sign_contract(&unsigned, expires).unwrap();
        let left = |cookie: bool, fields: &[(&'static str, &Contract)]| {
            let config = EntryConfig {
                strip: Strip::Unsigned,
                trust: Default::default(),
                cookie,
            };
            let keys = AuthorizedKeys::parse(&vector("alice.pub"));
            let mut headers = HeaderMap::new();
            for (name, contract) in fields {
                let value = match *name {
                    "x-devroute" => contract.to_string(),
                    _ => format!("devroute={}", baggage::encode(contract)),
                };
                headers.append(*name, value.parse().unwrap());
            }
            Entry::new(config, Some(Verifier::new(keys))).clean(&mut headers);
            let mut left: Vec<_> = headers.keys().map(ToString::to_string).collect();
            left.sort_unstable();
            left.join(" ")
        };
        for (is_on, fields, stays) in [
            (false, &[("x-devroute", &unsigned)][..], ""),
            (false, &[("x-devroute", &signed)], "x-devroute"),
            (false, &[("baggage", &unsigned)], ""),
            (false, &[("baggage", &signed)], "baggage"),
            (true, &[("cookie", &unsigned)], ""),
            (true, &[("cookie", &signed)], "cookie"),
            // Nobody reads it here.
            (false, &[("cookie", &unsigned)], ""),
            (false, &[("cookie", &signed)], ""),
            (
                false,
                &[("cookie", &signed), ("x-devroute-matched", &signed)],
                "",
            ),
            (
                false,
                &[("x-devroute", &signed), ("cookie", &signed)],
                "x-devroute",
            ),
            // What counts is the field, and the layer inside takes the other one off.
            (
                true,
                &[("x-devroute", &signed), ("cookie", &unsigned)],
                "cookie x-devroute",
            ),
            (true, &[("x-devroute", &unsigned), ("cookie", &signed)], ""),
        ] {
            assert_eq!(left(is_on, fields), stays, "{is_on} {fields:?}");
        }
    }
}
