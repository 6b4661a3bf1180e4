//! The name of the service that asked, where something on the way has said it.
//!
//! It is for a person to read. Any client may write these fields, so nothing is decided by them. What they say is shown only
//! where it could be the name of a service, so that a terminal gets nothing to obey.

use devroute_tower::core::{ServiceName, via};
use http::HeaderMap;

/// What Envoy writes of itself at its caller, with `add_user_agent`.
const ENVOY: &str = "x-envoy-downstream-service-cluster";
/// What Linkerd knows by mutual TLS: `ACCOUNT.NAMESPACE.serviceaccount.identity.…`.
const LINKERD: &str = "l5d-client-id";
/// What Envoy and Istio know by mutual TLS: elements of pairs, in one of which is `URI=spiffe://…/ns/NAMESPACE/sa/ACCOUNT`.
const CERTIFICATE: &str = "x-forwarded-client-cert";

/// Who has asked for `service`, as far as the fields tell.
///
/// First comes the outbound listener of a sidecar, since it is told what the service is called. A mesh knows accounts, and
/// its proxy at `service` may have written its own.
pub(super) fn named(headers: &HeaderMap, service: Option<&ServiceName>) -> Option<ServiceName> {
    let own = service.map(ServiceName::as_str);
    let another = |name: &str| {
        let is_another = own != Some(name) && name != NO_NAME;
        is_another.then(|| ServiceName::new(name).ok())?
    };
    let last = |field| headers.get_all(field).iter().next_back()?.to_str().ok();
    via::caller(headers)
        .or_else(|| another(last(ENVOY)?))
        .or_else(|| another(linkerd_account(last(LINKERD)?)?))
        .or_else(|| {
            let lines = headers.get_all(CERTIFICATE).iter().rev();
            let mut lines = lines.filter_map(|line| line.to_str().ok());
            lines.find_map(|line| {
                let elements = split(line, ',').into_iter().rev();
                elements.filter_map(account).find_map(another)
            })
        })
}

/// The account of whoever has none of its own.
const NO_NAME: &str = "default";

fn linkerd_account(identity: &str) -> Option<&str> {
    let (account, _) = identity.split_once(".serviceaccount.identity.")?;
    account
        .rsplit_once('.')
        .map(|(account, _namespace)| account)
}

/// The account in an element of `x-forwarded-client-cert`.
fn account(element: &str) -> Option<&str> {
    split(element, ';').into_iter().find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let is_uri = key.trim().eq_ignore_ascii_case("uri");
        let uri = is_uri.then(|| value.trim().trim_matches('"'))?;
        let (_, account) = uri.strip_prefix("spiffe://")?.rsplit_once("/sa/")?;
        Some(account)
    })
}

/// Parts between `separator`s that are not in quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(|letter| {
        let is_end = letter == separator && !is_quoted;
        if letter == '"' && !is_escaped {
            is_quoted = !is_quoted;
        }
        is_escaped = letter == '\\' && !is_escaped;
        is_end
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn caller(fields: &[(&'static str, &str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let service = ServiceName::new("foo").unwrap();
        Some(named(&headers, Some(&service))?.to_string())
    }

    /// An element of a peer with this account, as Istio's proxy writes it.
    fn element(account: &str) -> String {
        format!(
            "By=spiffe://cluster.local/ns/qa/sa/foo;Hash=0a;Subject=\"CN=x,O=\\\"y;URI=z\";\
             URI=spiffe://cluster.local/ns/qa/sa/{account}"
        )
    }

    #[test]
    fn each_of_the_fields_names_the_caller() {
        let (certificate, of_foo) = (element("bar"), element("foo"));
        let both = format!("{},{certificate}", element("gateway"));
        let behind = format!("{certificate},{of_foo}");
        for (field, value) in [
            ("via", "1.1 devroute (bar), 1.1 devroute"),
            (ENVOY, "bar"),
            (
                LINKERD,
                "bar.qa.serviceaccount.identity.linkerd.cluster.local",
            ),
            (CERTIFICATE, &certificate),
            (CERTIFICATE, "uri=\"spiffe://td/ns/qa/sa/bar\""),
            // Who came last is who asked, but for the proxy of the service itself.
            (CERTIFICATE, &both),
            (CERTIFICATE, &behind),
        ] {
            assert_eq!(caller(&[(field, value)]).as_deref(), Some("bar"), "{value}");
        }
        let lines = [(CERTIFICATE, &*certificate), (CERTIFICATE, &*of_foo)];
        assert_eq!(caller(&lines).as_deref(), Some("bar"));
    }

    #[test]
    fn what_a_sidecar_says_comes_first() {
        let certificate = element("account-of-bar");
        let fields = [(CERTIFICATE, &*certificate), (ENVOY, "bar.qa")];
        assert_eq!(caller(&fields).as_deref(), Some("bar.qa"));
        let fields = [fields[0], fields[1], ("via", "2 devroute (bar)")];
        assert_eq!(caller(&fields).as_deref(), Some("bar"));
        // A service that asks itself is told apart only by its sidecar.
        assert_eq!(
            caller(&[("via", "2 devroute (foo)")]).as_deref(),
            Some("foo")
        );
    }

    #[test]
    fn what_could_be_no_name_is_none() {
        let (default, own) = (element("default"), element("foo"));
        let (colour, path) = (element("\u{fc}"), element("a/b"));
        for (field, value) in [
            ("via", "1.1 devroute, 1.1 gateway (bar)"),
            ("user-agent", "bar"),
            (ENVOY, "foo"),
            (ENVOY, "b a r"),
            (ENVOY, "\u{9b}31mbar"),
            (ENVOY, ""),
            (
                LINKERD,
                "default.qa.serviceaccount.identity.linkerd.cluster.local",
            ),
            (LINKERD, "bar"),
            (LINKERD, ".serviceaccount.identity."),
            (CERTIFICATE, &default),
            (CERTIFICATE, &own),
            (CERTIFICATE, &colour),
            (CERTIFICATE, &path),
            (CERTIFICATE, "By=spiffe://td/ns/qa/sa/bar;Hash=0a"),
            (CERTIFICATE, "Subject=\"URI=spiffe://td/ns/qa/sa/bar\""),
            (CERTIFICATE, "URI=https://bar.qa/sa/bar"),
            (CERTIFICATE, "\",;=\\"),
        ] {
            assert_eq!(caller(&[(field, value)]), None, "{field}: {value}");
        }
    }
}
