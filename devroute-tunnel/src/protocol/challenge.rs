//! The challenge of a hub and what answers it, as the fields of RFC 9110, section 11.

use std::fmt;

use http::HeaderValue;

/// The name of the scheme.
const SCHEME: &str = "DevRoute";

/// What a hub asks to be signed (`WWW-Authenticate`).
///
/// ```
/// use devroute_tunnel::protocol::Challenge;
///
/// let challenge = Challenge { nonce: "bm9uY2U".to_owned(), bound: true };
/// let value = http::HeaderValue::try_from(challenge.to_string()).unwrap();
/// assert_eq!(value, r#"DevRoute nonce="bm9uY2U", binding="tls-exporter""#);
/// assert_eq!(Challenge::parse(&value), Some(challenge));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Good once, and not for long.
    pub nonce: String,
    /// Whether the signature has to cover the TLS session (RFC 9266), which the hub ends itself.
    pub bound: bool,
}

impl Challenge {
    /// Reads the field; none where it is of another scheme, or malformed.
    #[must_use]
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let mut this = Self {
            nonce: String::new(),
            bound: false,
        };
        for (name, value) in parameters(value)? {
            match name {
                "nonce" => this.nonce = value.to_owned(),
                "binding" if value == BINDING => this.bound = true,
                // Something to sign that this side knows nothing of.
                "binding" => return None,
                _ => {}
            }
        }
        (!this.nonce.is_empty()).then_some(this)
    }
}

const BINDING: &str = "tls-exporter";

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME} nonce=\"{}\"", self.nonce)?;
        if self.bound {
            write!(f, ", binding=\"{BINDING}\"")?;
        }
        Ok(())
    }
}

/// Who has signed a [`Challenge`] (`Authorization`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The id of the key.
    pub key: String,
    /// The nonce that it has signed.
    pub nonce: String,
    /// The signature in base64url.
    pub signature: String,
}

impl Credentials {
    /// Reads the field; none where it is of another scheme, or lacks something.
    #[must_use]
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let mut this = Self {
            key: String::new(),
            nonce: String::new(),
            signature: String::new(),
        };
        for (name, value) in parameters(value)? {
            let part = match name {
                "key" => &mut this.key,
                "nonce" => &mut this.nonce,
                "sig" => &mut this.signature,
                _ => continue,
            };
            value.clone_into(part);
        }
        let complete = [&this.key, &this.nonce, &this.signature]
            .iter()
            .all(|part| !part.is_empty());
        complete.then_some(this)
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            nonce,
            signature,
        } = self;
        write!(
            f,
            "{SCHEME} key=\"{key}\", nonce=\"{nonce}\", sig=\"{signature}\""
        )
    }
}

/// The parameters behind the scheme. All values are base64url, so none has a quote or a comma in it.
fn parameters(value: &HeaderValue) -> Option<Vec<(&str, &str)>> {
    const MAX: usize = 1024;
    let text = value.to_str().ok().filter(|text| text.len() <= MAX)?;
    let (scheme, rest) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    rest.split(',')
        .map(|parameter| {
            let (name, value) = parameter.trim().split_once('=')?;
            let value = value.strip_prefix('"')?.strip_suffix('"')?;
            Some((name, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_as_they_were_written() {
        let credentials = Credentials {
            key: "a".into(),
            nonce: "b".into(),
            signature: "c".into(),
        };
        let value = HeaderValue::try_from(credentials.to_string()).unwrap();
        assert_eq!(Credentials::parse(&value), Some(credentials));
    }

    #[test]
    fn what_is_incomplete_or_of_another_scheme_is_nothing() {
        for text in [
            "",
            "DevRoute",
            "DevRoute ",
            "Basic YTpi",
            r#"DevRoute key="a", nonce="b""#,
            r#"DevRoute key=a, nonce=b, sig=c"#,
            r#"DevRoute key="a", nonce="b", sig="c", "#,
            r#"DevRoute key="a", nonce="b", sig="#,
        ] {
            let value = HeaderValue::from_static(text);
            assert_eq!(Credentials::parse(&value), None, "{text}");
        }
        let long = format!(r#"DevRoute key="{}", nonce="b", sig="c""#, "a".repeat(2000));
        assert_eq!(
            Credentials::parse(&HeaderValue::try_from(long).unwrap()),
            None
        );
        let unknown = HeaderValue::from_static(r#"DevRoute nonce="a", binding="tls-unique""#);
        assert_eq!(Challenge::parse(&unknown), None);
    }
}
