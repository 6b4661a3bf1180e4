//! Whom a certificate has to be for.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use rustls::pki_types::ServerName;

/// Whom a certificate has to be for: a host name or an address (RFC 9525, section 6).
///
/// An address is never told to the server, which has to know without (RFC 6066, section 3).
///
/// ```
/// use devroute_tower::transport::TlsName;
///
/// let name: TlsName = "foo.example".parse()?;
/// assert_eq!(name.to_string(), "foo.example");
/// assert_eq!(name, "Foo.Example".parse()?);
/// assert!("foo example".parse::<TlsName>().is_err());
/// # Ok::<(), devroute_tower::transport::ParseTlsNameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsName(Arc<ServerName<'static>>);

/// Something that no certificate can be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseTlsNameError(());

impl TlsName {
    pub(super) fn as_server_name(&self) -> &ServerName<'static> {
        &self.0
    }
}

impl From<IpAddr> for TlsName {
    fn from(ip: IpAddr) -> Self {
        Self(Arc::new(ip.to_canonical().into()))
    }
}

impl FromStr for TlsName {
    type Err = ParseTlsNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match ServerName::try_from(text) {
            Ok(name) => Ok(Self(Arc::new(name.to_owned()))),
            Err(_invalid) => Err(ParseTlsNameError(())),
        }
    }
}

impl fmt::Display for TlsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_str())
    }
}

impl fmt::Display for ParseTlsNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither a host name nor an IP address")
    }
}

impl std::error::Error for ParseTlsNameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_name_of_its_own() {
        let ip = |text: &str| TlsName::from(text.parse::<IpAddr>().unwrap());
        let name = |text: &str| text.parse::<TlsName>().unwrap();
        assert_eq!(ip("10.0.0.1"), ip("::ffff:10.0.0.1"));
        assert_eq!(ip("10.0.0.1"), name("10.0.0.1"));
        assert_eq!(ip("::1"), name("::1"));
        assert_ne!(ip("10.0.0.1"), name("foo.qa"));
    }
}
