//! Who may dial in: a challenge that is signed with an SSH key, good once.
//!
//! What is signed ([`Statement`]) is the hub's nonce, the host that the laptop has dialled, what it offers, and, where
//! the TLS session ends at the hub itself, a value that only the two ends of that session have (RFC 9266). So a
//! signature that somebody has read is good for nothing: its nonce is used, and it is for another connection.
//!
//! | on the way | what it can do with what it sees |
//! |---|---|
//! | nobody, TLS to the hub | |
//! | an ingress that ends TLS | what it can do with anything that passes it; not dial in later, or offer something else |
//! | whoever reads plain text | the same: so it is for loopback |
//!
//! ```
//! use devroute_tunnel::auth::{Authenticator, Offers, Statement};
//! use devroute_tunnel::protocol::{Challenge, Credentials, Offer};
//! # use devroute_tower::core::signature::{AuthorizedKeys, PrivateKeyFile, SigningKey, Verifier};
//!
//! # let pem = include_bytes!("../../../devroute-core/tests/vectors/alice");
//! # let public = include_bytes!("../../../devroute-core/tests/vectors/alice.pub");
//! # let PrivateKeyFile::Plain(key) = SigningKey::from_openssh(pem)? else { panic!("encrypted") };
//! let hub = Authenticator::new(Verifier::new(AuthorizedKeys::parse(public)), Offers::anything());
//! let offer = Offer::parse(br#"{"services":["foo"],"name":"alice","token":"c2VjcmV0IG9mIHRoaXMgc2Vzc2lvbg"}"#)?;
//!
//! let nonce = hub.challenge();
//! let statement = Statement { nonce: &nonce, host: "hub.qa", binding: None, offer: &offer };
//! let signed = statement.credentials(&key.public_key().id(), &key.sign_message(Statement::NAMESPACE, &statement.message()));
//!
//! assert_eq!(&*hub.authenticate(&signed, &statement)?.who, "alice@laptop");
//! assert!(hub.authenticate(&signed, &statement).is_err(), "a second time");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod nonce;
mod offers;

use std::fmt;
use std::sync::Arc;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use devroute_tower::core::ServiceName;
use devroute_tower::core::signature::{Namespace, SignatureErrorKind, Verifier};

use self::nonce::{NonceError, Nonces};
pub use self::offers::{MalformedRule, OfferRule, Offers};
use crate::protocol::{Credentials, Offer};

/// The value that the two ends of a TLS session have in common (RFC 9266).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChannelBinding([u8; 32]);

impl ChannelBinding {
    /// The label and the context of RFC 9266, section 4, that TLS exports it by.
    pub const LABEL: &'static [u8] = b"EXPORTER-Channel-Binding";

    /// The exported value.
    #[must_use]
    pub fn new(exported: [u8; 32]) -> Self {
        Self(exported)
    }
}

impl fmt::Debug for ChannelBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelBinding(..)")
    }
}

/// What a laptop signs.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    /// The nonce of the challenge.
    pub nonce: &'a str,
    /// The host that was dialled, as it stands in `Host`.
    pub host: &'a str,
    /// The TLS session, where it ends at the hub.
    pub binding: Option<ChannelBinding>,
    /// What is offered.
    pub offer: &'a Offer,
}

impl Statement<'_> {
    /// The namespace of these signatures: one for a contract is none for a hub.
    pub const NAMESPACE: Namespace = Namespace::new("devroute-connect");

    /// The bytes that are signed. None of the parts can have a line break in it.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let binding = self.binding.map_or_else(
            || "none".to_owned(),
            |binding| Base64UrlUnpadded::encode_string(&binding.0),
        );
        let Self {
            nonce, host, offer, ..
        } = self;
        let offer = offer.as_str();
        format!("devroute-connect 1\n{nonce}\n{host}\n{binding}\n{offer}\n").into_bytes()
    }

    /// The credentials with `signature`, made by the key with the id `key` over the [message](Self::message).
    #[must_use]
    pub fn credentials(&self, key: &str, signature: &[u8]) -> Credentials {
        Credentials {
            key: key.to_owned(),
            nonce: self.nonce.to_owned(),
            signature: Base64UrlUnpadded::encode_string(signature),
        }
    }
}

/// Says who dials in, and whether they may offer what they offer.
#[derive(Debug)]
pub struct Authenticator {
    verifier: Verifier,
    offers: Offers,
    nonces: Nonces,
}

/// Somebody who may dial in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The comment of the key, or its fingerprint.
    pub who: Arc<str>,
    /// The id of the key.
    pub key: Arc<str>,
}

impl Authenticator {
    /// Lets in who has one of the keys of `verifier`, with what `offers` allows them.
    #[must_use]
    pub fn new(verifier: Verifier, offers: Offers) -> Self {
        Self {
            verifier,
            offers,
            nonces: Nonces::new(),
        }
    }

    /// A nonce to sign.
    #[must_use]
    pub fn challenge(&self) -> String {
        self.nonces.issue()
    }

    /// Says who has signed `statement`, whose nonce is used up by that.
    ///
    /// # Errors
    ///
    /// When the signature or the nonce is not good, or they may not offer one of the services.
    pub fn authenticate(
        &self,
        credentials: &Credentials,
        statement: &Statement<'_>,
    ) -> Result<Identity, Denied> {
        if credentials.nonce != statement.nonce {
            return Err(Denied::Nonce);
        }
        let mut bytes = [0; 64];
        let signature = match Base64UrlUnpadded::decode(&credentials.signature, &mut bytes) {
            Ok(signature) if signature.len() == 64 => signature,
            _ => return Err(Denied::Signature),
        };
        // Before the signature, which takes its time; used up after it, so that only who is authorized fills memory.
        self.nonces.check(statement.nonce)?;
        let message = statement.message();
        let who = self
            .verifier
            .verify_message(Statement::NAMESPACE, &credentials.key, &message, signature)
            .map_err(|error| match error.kind() {
                SignatureErrorKind::UnknownKey => Denied::Key,
                _ => Denied::Signature,
            })?;
        self.nonces.use_up(statement.nonce)?;
        let services = statement.offer.services();
        if let Some(service) = services
            .iter()
            .find(|service| !self.offers.allow(&who, service))
        {
            return Err(Denied::Service(who, service.clone()));
        }
        let key = credentials.key.as_str().into();
        Ok(Identity { who, key })
    }

    /// Whether the key of somebody who is in is still authorized, for all of `services`.
    #[must_use]
    pub fn still_allows(&self, identity: &Identity) -> bool {
        self.verifier.knows(&identity.key)
    }
}

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denied {
    /// The nonce is not of this hub, too old, or used: there is another one to sign.
    Nonce,
    /// The signature is not the key's over this.
    Signature,
    /// The key is not authorized.
    Key,
    /// The service is not theirs to offer.
    Service(Arc<str>, ServiceName),
    /// Too many have dialled in within a short time.
    Busy,
}

impl Denied {
    /// A stable `snake_case` label.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Nonce => "stale_nonce",
            Self::Signature => "signature_invalid",
            Self::Key => "unknown_key",
            Self::Service(..) => "service_not_allowed",
            Self::Busy => "too_many_nonces",
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nonce => f.write_str("the nonce is not a fresh one of this hub"),
            Self::Signature => {
                f.write_str("the signature is not that of the key, over this offer to this hub")
            }
            Self::Key => f.write_str("the key is not authorized at this hub"),
            Self::Service(who, service) => write!(f, "{who} may not offer {service} here"),
            Self::Busy => f.write_str("too many have dialled in within a minute"),
        }
    }
}

impl std::error::Error for Denied {}

impl From<NonceError> for Denied {
    fn from(error: NonceError) -> Self {
        match error {
            NonceError::Stale => Self::Nonce,
            NonceError::Full => Self::Busy,
        }
    }
}

#[cfg(test)]
mod tests {
    use devroute_tower::core::signature::{AuthorizedKeys, PrivateKeyFile, SigningKey};

    use super::*;

    const OFFER: &str =
        r#"{"services":["foo"],"name":"alice","token":"c2VjcmV0IG9mIHRoaXMgc2Vzc2lvbg"}"#;

    fn alice() -> SigningKey {
        let pem = include_bytes!("../../../devroute-core/tests/vectors/alice");
        match SigningKey::from_openssh(pem).unwrap() {
            PrivateKeyFile::Plain(key) => key,
            _ => panic!("it is plain"),
        }
    }

    fn hub(offers: Offers) -> Authenticator {
        let keys = AuthorizedKeys::parse(include_bytes!(
            "../../../devroute-core/tests/vectors/alice.pub"
        ));
        Authenticator::new(Verifier::new(keys), offers)
    }

    fn sign(statement: &Statement<'_>) -> Credentials {
        let key = alice();
        let signature = key.sign_message(Statement::NAMESPACE, &statement.message());
        statement.credentials(&key.public_key().id(), &signature)
    }

    #[test]
    fn a_signature_is_for_one_offer_to_one_host_over_one_session() {
        let hub = hub(Offers::anything());
        let offer = Offer::parse(OFFER.as_bytes()).unwrap();
        let other = Offer::parse(OFFER.replace("foo", "bar").as_bytes()).unwrap();
        let nonce = hub.challenge();
        let statement = Statement {
            nonce: &nonce,
            host: "hub.qa",
            binding: Some(ChannelBinding::new([7; 32])),
            offer: &offer,
        };
        let signed = sign(&statement);
        for changed in [
            Statement {
                host: "hub.prod",
                ..statement
            },
            Statement {
                offer: &other,
                ..statement
            },
            Statement {
                binding: None,
                ..statement
            },
            Statement {
                binding: Some(ChannelBinding::new([8; 32])),
                ..statement
            },
        ] {
            let denied = hub.authenticate(&signed, &changed).unwrap_err();
            assert_eq!(denied, Denied::Signature);
        }
        assert!(
            hub.authenticate(&signed, &statement).is_ok(),
            "none of these has used the nonce up"
        );
        assert_eq!(
            hub.authenticate(&signed, &statement).unwrap_err(),
            Denied::Nonce,
            "a replay"
        );
    }

    #[test]
    fn who_is_not_authorized_is_not_let_in() {
        let nobody =
            Authenticator::new(Verifier::new(AuthorizedKeys::default()), Offers::anything());
        let offer = Offer::parse(OFFER.as_bytes()).unwrap();
        let nonce = nobody.challenge();
        let statement = Statement {
            nonce: &nonce,
            host: "hub",
            binding: None,
            offer: &offer,
        };
        let mut signed = sign(&statement);
        let denied = nobody.authenticate(&signed, &statement).unwrap_err();
        assert_eq!(denied, Denied::Key);
        signed.signature = "AAAA".into();
        let denied = hub(Offers::anything()).authenticate(&signed, &statement);
        assert_eq!(denied.unwrap_err(), Denied::Signature);
    }

    #[test]
    fn a_service_is_offered_by_whom_the_deployment_says() {
        let offer = Offer::parse(OFFER.as_bytes()).unwrap();
        for (rule, allowed) in [("alice@laptop=foo", true), ("alice@laptop=bar", false)] {
            let hub = hub(Offers::anything().with(rule.parse().unwrap()));
            let nonce = hub.challenge();
            let statement = Statement {
                nonce: &nonce,
                host: "hub",
                binding: None,
                offer: &offer,
            };
            let authenticated = hub.authenticate(&sign(&statement), &statement);
            assert_eq!(authenticated.is_ok(), allowed, "{authenticated:?}");
        }
    }
}
