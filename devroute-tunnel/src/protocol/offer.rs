//! What a laptop offers, and who it says it is.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;

use devroute_tower::core::ServiceName;
use serde::{Deserialize, Serialize};

/// The most bytes of an offer.
pub const MAX_OFFER: usize = 8 * 1024;
/// The most services of an offer, as a contract has it.
pub const MAX_SERVICES: usize = 64;
/// The most characters of a session's name.
pub const MAX_NAME: usize = 64;
/// The fewest and the most characters of a token: at least 16 bytes in base64url.
const TOKEN: std::ops::RangeInclusive<usize> = 22..=86;

/// What a laptop offers: its services, the name of its session, and the token that the session is known by when the
/// laptop comes back.
///
/// The token is a secret of the two. It is chosen by the laptop, so that an answer that never came loses nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Offer {
    text: String,
    services: Vec<ServiceName>,
    name: String,
    token: String,
    outbound: bool,
    had: BTreeMap<String, SocketAddr>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Members {
    services: Vec<String>,
    name: String,
    token: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    outbound: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    had: BTreeMap<String, SocketAddr>,
}

impl Offer {
    /// An offer of `services`, in a session of this name and token; `outbound` asks for the way out as well.
    ///
    /// # Errors
    ///
    /// When it is longer than [`MAX_OFFER`], has more than [`MAX_SERVICES`] or one of them twice, or a name or token has other characters than it may.
    pub fn new(
        services: &[ServiceName],
        name: &str,
        token: &str,
        outbound: bool,
    ) -> Result<Self, MalformedOffer> {
        Self::again(services, name, token, outbound, &BTreeMap::new())
    }

    /// The same for a laptop that comes back, perhaps to a hub that knows nothing of it any more: it says where its
    /// services were, and gets these addresses again if they are free.
    ///
    /// # Errors
    ///
    /// As those of [`new`](Self::new).
    pub fn again(
        services: &[ServiceName],
        name: &str,
        token: &str,
        outbound: bool,
        had: &BTreeMap<String, SocketAddr>,
    ) -> Result<Self, MalformedOffer> {
        let members = Members {
            services: services.iter().map(ToString::to_string).collect(),
            name: name.to_owned(),
            token: token.to_owned(),
            outbound,
            had: had.clone(),
        };
        let text = serde_json::to_string(&members).map_err(|_never| MalformedOffer("no JSON"))?;
        Self::of(text, members)
    }

    /// Reads an offer. Its text is kept as it came, since that is what was signed.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn parse(text: &[u8]) -> Result<Self, MalformedOffer> {
        if text.len() > MAX_OFFER {
            return Err(MalformedOffer("it is longer than 8 KiB"));
        }
        let not_json = "it is not the JSON of services, name and token";
        let text = std::str::from_utf8(text).map_err(|_invalid| MalformedOffer(not_json))?;
        let members = serde_json::from_str(text).map_err(|_malformed| MalformedOffer(not_json))?;
        Self::of(text.to_owned(), members)
    }

    fn of(text: String, members: Members) -> Result<Self, MalformedOffer> {
        let Members {
            services: names,
            name,
            token,
            outbound,
            had,
        } = members;
        if text.len() > MAX_OFFER {
            return Err(MalformedOffer("it is longer than 8 KiB"));
        }
        if names.len() > MAX_SERVICES {
            return Err(MalformedOffer("it has more than 64 services"));
        }
        if names.is_empty() && !outbound {
            return Err(MalformedOffer("it has no service"));
        }
        let mut services: Vec<ServiceName> = Vec::with_capacity(names.len());
        for text in names {
            let service = ServiceName::new(&text)
                .map_err(|_malformed| MalformedOffer("one of its services has no valid name"))?;
            if services.contains(&service) {
                return Err(MalformedOffer("it has a service twice"));
            }
            services.push(service);
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_name) {
            return Err(MalformedOffer(
                "its name has not 1 to 64 of A-Z a-z 0-9 . _ @ + -",
            ));
        }
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !TOKEN.contains(&token.len()) || !token.bytes().all(is_token) {
            return Err(MalformedOffer(
                "its token is not the base64url of 16 to 64 bytes",
            ));
        }
        Ok(Self {
            text,
            services,
            name,
            token,
            outbound,
            had,
        })
    }

    /// The JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The services, each once.
    #[must_use]
    pub fn services(&self) -> &[ServiceName] {
        &self.services
    }

    /// The name of the session, which is shown to people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The secret by which the session is known.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Where the service was before.
    #[must_use]
    pub fn had(&self, service: &ServiceName) -> Option<SocketAddr> {
        self.had.get(service.as_str()).copied()
    }

    /// Whether the laptop wants to send requests of its own.
    #[must_use]
    pub fn outbound(&self) -> bool {
        self.outbound
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer")
            .field("services", &self.services)
            .field("name", &self.name)
            .field("outbound", &self.outbound)
            .finish_non_exhaustive()
    }
}

/// Why something is no [`Offer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedOffer(&'static str);

impl fmt::Display for MalformedOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the offer is malformed: {}", self.0)
    }
}

impl Error for MalformedOffer {}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "c2VjcmV0IG9mIHRoaXMgc2Vzc2lvbg";

    fn services(names: &[&str]) -> Vec<ServiceName> {
        let name = |name: &&str| ServiceName::new(name).unwrap();
        names.iter().map(name).collect()
    }

    #[test]
    fn an_offer_is_read_as_it_was_written() {
        let offer = Offer::new(&services(&["foo", "bar"]), "alice@laptop", TOKEN, true).unwrap();
        assert_eq!(Offer::parse(offer.as_str().as_bytes()).unwrap(), offer);
        assert!(!format!("{offer:?}").contains(TOKEN), "a secret");
        // Only the way out.
        assert!(Offer::new(&[], "alice", TOKEN, true).is_ok());
    }

    #[test]
    fn what_is_no_offer_is_refused() {
        let wrong = |text: String| Offer::parse(text.as_bytes()).unwrap_err().to_string();
        let with = |services: &str, name: &str, token: &str| {
            wrong(format!(
                r#"{{"services":[{services}],"name":"{name}","token":"{token}"}}"#
            ))
        };
        assert!(with("", "a", TOKEN).contains("no service"));
        assert!(with(r#""a","a""#, "a", TOKEN).contains("twice"));
        assert!(with(r#""a b""#, "a", TOKEN).contains("valid name"));
        assert!(with(r#""a""#, "", TOKEN).contains("name"));
        assert!(with(r#""a""#, "a b", TOKEN).contains("name"));
        assert!(with(r#""a""#, &"a".repeat(65), TOKEN).contains("name"));
        assert!(with(r#""a""#, "a", "short").contains("token"));
        assert!(with(r#""a""#, "a", &"=".repeat(22)).contains("token"));
        assert!(with(r#"7"#, "a", TOKEN).contains("JSON"));
        assert!(wrong(r#"{"services":["a"]}"#.into()).contains("JSON"));
        assert!(wrong(String::from_utf8_lossy(&[b' '; 9000]).into()).contains("8 KiB"));
        let many: Vec<String> = (0..65).map(|number| format!("\"s{number}\"")).collect();
        assert!(with(&many.join(","), "a", TOKEN).contains("64 services"));
        assert!(Offer::parse(b"\xff").is_err());
    }
}
