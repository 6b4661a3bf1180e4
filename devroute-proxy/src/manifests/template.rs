//! The files of `deploy/` as they are, and how what a service needs is put into them.

/// The image that they name.
pub(crate) const IMAGE: &str = concat!("devroute:", env!("CARGO_PKG_VERSION"));

pub(super) const NAMESPACE: &str = include_str!("../../../deploy/kubernetes/router/namespace.yaml");
pub(super) const SERVICE_ACCOUNT: &str =
    include_str!("../../../deploy/kubernetes/router/service-account.yaml");
pub(super) const ROUTER: &str = include_str!("../../../deploy/kubernetes/router/deployment.yaml");
pub(super) const DISRUPTION_BUDGET: &str =
    include_str!("../../../deploy/kubernetes/router/disruption-budget.yaml");
pub(super) const ROUTER_SERVICE: &str =
    include_str!("../../../deploy/kubernetes/router/service.yaml");
pub(super) const NETWORK_POLICY: &str =
    include_str!("../../../deploy/kubernetes/router/network-policy.yaml");
pub(super) const NAMES: &str = include_str!("../../../deploy/kubernetes/names/network-policy.yaml");
pub(super) const HUB: &str = include_str!("../../../deploy/kubernetes/hub/deployment.yaml");
pub(super) const HUB_NETWORK_POLICY: &str =
    include_str!("../../../deploy/kubernetes/hub/network-policy.yaml");
/// What of the hub is printed as it is.
pub(super) const HUB_BESIDE: [&str; 3] = [
    include_str!("../../../deploy/kubernetes/hub/service-account.yaml"),
    include_str!("../../../deploy/kubernetes/hub/disruption-budget.yaml"),
    include_str!("../../../deploy/kubernetes/hub/service.yaml"),
];
pub(super) const SIDECAR: &str = include_str!("../../../deploy/kubernetes/sidecar/deployment.yaml");

pub(super) const NAMESPACE_IN_ISTIO: &str =
    include_str!("../../../deploy/istio/router/namespace.yaml");
pub(super) const ROUTER_IN_ISTIO: [&str; 4] = [
    include_str!("../../../deploy/istio/router/authorization-policy.yaml"),
    include_str!("../../../deploy/istio/router/destination-rule.yaml"),
    include_str!("../../../deploy/istio/router/network-policy.yaml"),
    include_str!("../../../deploy/istio/router/peer-authentication.yaml"),
];
pub(super) const CALLER: &str = include_str!("../../../deploy/istio/caller/envoy-filter.yaml");
pub(super) const SERVICE_FILTER: &str =
    include_str!("../../../deploy/istio/service/envoy-filter.yaml");
pub(super) const VIRTUAL_SERVICE: &str =
    include_str!("../../../deploy/istio/service/virtual-service.yaml");

pub(super) const LUA: &str = include_str!("../../../deploy/envoy/devroute.lua");
/// Stands where the filter goes.
pub(super) const LUA_IS_HERE: &str =
    "default_source_code: { inline_string: \"-- deploy/envoy/devroute.lua\" }";

/// A manifest to be filled in.
#[derive(Debug)]
pub(super) struct Template(String);

impl Template {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Puts `text` where `place` is, as often as it is there.
    pub(super) fn replace(self, place: &str, text: &str) -> Self {
        // The files are part of the binary, and a test goes through all of them.
        debug_assert!(self.0.contains(place), "{place} is not in {}", self.0);
        Self(self.0.replace(place, text))
    }

    pub(super) fn insert_before(self, place: &str, text: &str) -> Self {
        self.replace(place, &format!("{text}{place}"))
    }

    /// Puts a text of many lines where `place`, `key: { inner: … }` on a line of its own, is.
    pub(super) fn inline(self, place: &str, text: &str) -> Self {
        let before = self.0.split(place).next().unwrap_or_default();
        let indent = " ".repeat(before.len() - before.trim_end_matches(' ').len());
        let mut block = format!("default_source_code:\n{indent}  inline_string: |");
        for line in text.lines() {
            block.push('\n');
            if !line.is_empty() {
                block.push_str(&format!("{indent}    {line}"));
            }
        }
        self.replace(place, &block)
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}
