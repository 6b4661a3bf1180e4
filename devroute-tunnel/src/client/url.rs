//! Where a hub is.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, Scheme};

use crate::protocol::PATH;

/// The URL of a hub: `https://hub.qa`, or `http://127.0.0.1:8090` for one that is reached by `kubectl port-forward`; with
/// a path where an ingress has it below one.
///
/// ```
/// use devroute_tunnel::client::HubUrl;
///
/// let url: HubUrl = "https://qa.example/hub".parse()?;
/// assert_eq!((url.host(), url.port(), url.is_tls()), ("qa.example", 443, true));
/// assert!("ftp://qa.example".parse::<HubUrl>().is_err());
/// # Ok::<(), devroute_tunnel::client::MalformedUrl>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubUrl {
    authority: Authority,
    prefix: String,
    tls: bool,
}

impl HubUrl {
    /// The host, without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.authority.host();
        host.strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host)
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        let default = if self.tls { 443 } else { 80 };
        self.authority.port_u16().unwrap_or(default)
    }

    /// Whether TLS is spoken.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The value of `Host`.
    pub(crate) fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// What is asked for there.
    pub(crate) fn path(&self) -> String {
        format!("{}{PATH}", self.prefix)
    }
}

impl fmt::Display for HubUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.prefix)
    }
}

impl FromStr for HubUrl {
    type Err = MalformedUrl;

    fn from_str(text: &str) -> Result<Self, MalformedUrl> {
        let uri: Uri = text.parse().map_err(|_malformed| MalformedUrl)?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(MalformedUrl),
        };
        let authority = uri.authority().ok_or(MalformedUrl)?.clone();
        let port = authority.as_str().rsplit_once(':');
        let has_bad_port = port.is_some_and(|(_, port)| !port.ends_with(']'))
            && authority.port_u16().is_none_or(|port| port == 0);
        if authority.as_str().contains('@') || has_bad_port || uri.query().is_some() {
            return Err(MalformedUrl);
        }
        Ok(Self {
            authority,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            tls,
        })
    }
}

/// Why something is no [`HubUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedUrl;

impl fmt::Display for MalformedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected the URL of a hub, such as https://hub.qa or http://127.0.0.1:8090")
    }
}

impl std::error::Error for MalformedUrl {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_may_be_below_a_path() {
        let url: HubUrl = "https://qa.example:8443/hub/".parse().unwrap();
        assert_eq!(url.path(), format!("/hub{PATH}"));
        assert_eq!(url.authority(), "qa.example:8443");
        assert_eq!(url.to_string(), "https://qa.example:8443/hub");
        let url: HubUrl = "http://[::1]:8090".parse().unwrap();
        assert_eq!((url.host(), url.port()), ("::1", 8090));
        assert_eq!(url.path(), PATH);
        let url: HubUrl = "http://[::1]".parse().unwrap();
        assert_eq!((url.host(), url.port()), ("::1", 80));
    }

    #[test]
    fn what_is_no_url_of_a_hub_is_refused() {
        for wrong in [
            "",
            "hub.qa",
            "hub.qa:8090",
            "ws://hub.qa",
            "https://",
            "https://a@hub.qa",
            "https://hub.qa:0",
            "https://hub.qa:99999",
            "https://hub.qa/?a=b",
        ] {
            assert_eq!(wrong.parse::<HubUrl>(), Err(MalformedUrl), "{wrong}");
        }
    }
}
