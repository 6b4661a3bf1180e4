//! Who may offer which services, where the deployment has an opinion.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use devroute_tower::core::ServiceName;

/// Who may offer which services: whoever is authorized may offer anything, until there is a rule; then only what one
/// of the rules says.
///
/// ```
/// use devroute_tunnel::auth::Offers;
///
/// let offers = Offers::anything().with("alice@laptop=foo,bar".parse()?).with("*=sandbox".parse()?);
/// assert!(offers.allow("alice@laptop", &"bar".parse()?));
/// assert!(offers.allow("bob@laptop", &"sandbox".parse()?));
/// assert!(!offers.allow("bob@laptop", &"bar".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Offers(Vec<OfferRule>);

impl Offers {
    /// No rule.
    #[must_use]
    pub fn anything() -> Self {
        Self::default()
    }

    /// With one more rule.
    #[must_use]
    pub fn with(mut self, rule: OfferRule) -> Self {
        self.0.push(rule);
        self
    }

    /// Whether the holder of a key with this comment may offer `service`.
    #[must_use]
    pub fn allow(&self, who: &str, service: &ServiceName) -> bool {
        self.0.is_empty() || self.0.iter().any(|rule| rule.allows(who, service))
    }
}

/// One rule: `WHO=SERVICE,SERVICE`, where who is the comment of a key, and either may be `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferRule {
    /// None for everybody.
    who: Option<String>,
    /// None for all of them.
    services: Option<Vec<ServiceName>>,
}

impl OfferRule {
    fn allows(&self, who: &str, service: &ServiceName) -> bool {
        self.who.as_deref().is_none_or(|allowed| allowed == who)
            && self
                .services
                .as_ref()
                .is_none_or(|services| services.contains(service))
    }
}

impl FromStr for OfferRule {
    type Err = MalformedRule;

    fn from_str(text: &str) -> Result<Self, MalformedRule> {
        // A comment may have `=` in it, a service may not.
        let (who, services) = text
            .rsplit_once('=')
            .filter(|(who, _)| !who.is_empty())
            .ok_or(MalformedRule)?;
        let services = match services {
            "*" => None,
            services => Some(
                services
                    .split(',')
                    .map(|service| ServiceName::new(service).map_err(|_malformed| MalformedRule))
                    .collect::<Result<_, _>>()?,
            ),
        };
        Ok(Self {
            who: (who != "*").then(|| who.to_owned()),
            services,
        })
    }
}

/// Why something is no rule of [`Offers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedRule;

impl fmt::Display for MalformedRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected WHO=SERVICE,SERVICE, such as alice@laptop=foo,bar or *=sandbox")
    }
}

impl Error for MalformedRule {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_rule_everybody_may_and_with_one_nobody_else() {
        let foo = ServiceName::new("foo").unwrap();
        assert!(Offers::anything().allow("anybody", &foo));
        let offers = Offers::anything().with("a=b@c=*".parse().unwrap());
        assert!(offers.allow("a=b@c", &foo));
        assert!(!offers.allow("anybody", &foo));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for wrong in ["", "alice", "=foo", "alice=", "alice=foo,", "alice=a b"] {
            assert_eq!(wrong.parse::<OfferRule>(), Err(MalformedRule), "{wrong}");
        }
    }
}
