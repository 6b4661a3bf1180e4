//! Contracts made here: out of names and targets, or of another contract's members.

use super::Contract;
use crate::error::ContractError;
use crate::parse;
use crate::service_name::ServiceName;
use crate::target::Target;
use crate::text;

/// Makes a [`Contract`] out of names and targets.
///
/// ```
/// use devroute_core::{Contract, ContractBuilder, ServiceName};
///
/// let contract = Contract::builder()
///     .entry(ServiceName::new("foo")?, "192.168.1.12:8001".parse()?)
///     .id("run-7")
///     .build()?;
/// assert_eq!(contract.to_string(), r#"{"foo":"192.168.1.12:8001","$id":"run-7"}"#);
///
/// let copy: ContractBuilder = contract.iter().collect();
/// assert_eq!(copy.id("run-7").build()?, contract);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it is built"]
pub struct ContractBuilder {
    entries: Vec<(ServiceName, Target)>,
    id: Option<String>,
}

impl ContractBuilder {
    /// Adds a service; a later entry for the same one replaces its target.
    pub fn entry(mut self, service: ServiceName, target: Target) -> Self {
        self.extend([(service, target)]);
        self
    }

    /// Names the test run (rule 15).
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Makes the contract, its entries in the order they were added.
    ///
    /// # Errors
    ///
    /// When the id is malformed, a target has port 0, or there are more than 64 members or 8192 bytes.
    pub fn build(self) -> Result<Contract, ContractError> {
        let mut spelled = Spelling::default();
        for (service, target) in &self.entries {
            spelled.push(service.as_str(), &target.to_string());
        }
        if let Some(id) = &self.id {
            parse::check_id(id)?;
            spelled.push(parse::ID, id);
        }
        Contract::parse(spelled.finish().as_bytes())
    }
}

impl Extend<(ServiceName, Target)> for ContractBuilder {
    fn extend<I: IntoIterator<Item = (ServiceName, Target)>>(&mut self, entries: I) {
        for (service, target) in entries {
            match self.entries.iter_mut().find(|(name, _)| *name == service) {
                Some((_, old)) => *old = target,
                None => self.entries.push((service, target)),
            }
        }
    }
}

impl FromIterator<(ServiceName, Target)> for ContractBuilder {
    fn from_iter<I: IntoIterator<Item = (ServiceName, Target)>>(entries: I) -> Self {
        let mut builder = Self::default();
        builder.extend(entries);
        builder
    }
}

/// The text of an object under way.
#[derive(Debug, Default)]
pub(crate) struct Spelling(String);

impl Spelling {
    pub(crate) fn push(&mut self, name: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        text::push_string(&mut self.0, name);
        self.0.push(':');
        text::push_string(&mut self.0, value);
    }

    pub(crate) fn finish(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ContractErrorKind;

    #[test]
    fn a_builder_replaces_and_refuses_what_no_contract_holds() {
        let name = |name: &str| ServiceName::new(name).unwrap();
        let target = |text: &str| text.parse::<Target>().unwrap();
        let built = Contract::builder()
            .entry(name("a"), target("10.0.0.1:1"))
            .entry(name("a"), target("10.0.0.1:2"))
            .build()
            .unwrap();
        assert_eq!(built.to_string(), r#"{"a":"10.0.0.1:2"}"#);
        assert_eq!(Contract::builder().build().unwrap(), Contract::empty());

        let zero = std::net::SocketAddr::from(([10, 0, 0, 1], 0));
        assert!(
            Contract::builder()
                .entry(name("a"), zero.into())
                .build()
                .is_err()
        );
        assert!(Contract::builder().id("no spaces").build().is_err());
        let many = (0..65).map(|n| (name(&format!("s{n}")), target("10.0.0.1:1")));
        let error = many.collect::<ContractBuilder>().build().unwrap_err();
        assert_eq!(error.kind(), ContractErrorKind::TooManyMembers);
    }
}
