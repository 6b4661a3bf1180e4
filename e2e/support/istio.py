"""Envoy's configuration as Istio makes it of the manifests: pilot's part in it, as far as those go.

Names are Istio's: the filter chain of a proxy has the router filter at its end, the routes of a port are a route configuration
with a virtual host for each service (`foo.shop.svc.cluster.local:8000`) and `allow_any` for all other hosts, and clusters are
called `outbound|8080||HOST`. EnvoyFilters are applied by the operations that the manifests use.
"""

import copy
import json

HCM = "envoy.filters.network.http_connection_manager"
TYPE = "type.googleapis.com/envoy.extensions"
FOO = "foo.shop.svc.cluster.local"
BAR = "bar.shop.svc.cluster.local"
ROUTER = "devroute-router.devroute.svc.cluster.local"


def merged(base, patch):
    """As protobuf merges: lists grow, mappings are merged, and everything else is replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {**base, **{key: merged(base[key], value) if key in base else value for key, value in patch.items()}}
    if isinstance(base, list) and isinstance(patch, list):
        return base + patch
    return patch


def cluster(name, port):
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    options = {
        "@type": f"{TYPE}.upstreams.http.v3.HttpProtocolOptions",
        "use_downstream_protocol_config": {"http2_protocol_options": {}},
    }
    return {
        "name": name,
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {f"{TYPE.partition('/')[2]}.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def matcher(name, match, **more):
    if "exact" in match:
        return {"name": name, "string_match": {"exact": match["exact"]}, **more}
    if "regex" in match:
        return {"name": name, "string_match": {"safe_regex": {"regex": match["regex"]}}, **more}
    assert not match, match
    return {"name": name, "present_match": True, **more}


def routes_of(virtual_service):
    """The routes of a VirtualService."""
    for http in virtual_service["spec"]["http"]:
        (match,) = http.get("match", [{}])
        headers = [matcher(*it) for it in match.get("headers", {}).items()]
        headers += [matcher(*it, invert_match=True) for it in match.get("withoutHeaders", {}).items()]
        changes = http.get("headers", {}).get("request", {})
        (route,) = http["route"]
        destination = route["destination"]
        name = f"outbound|{destination['port']['number']}||{destination['host']}"
        yield {
            "match": {"prefix": "/", "headers": headers},
            "route": {"cluster": name, "timeout": http.get("timeout", "0s")},
            "request_headers_to_remove": changes.get("remove", []),
            "request_headers_to_add": [
                {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
                for key, value in changes.get("set", {}).items()
            ],
        }


def virtual_host(name, domains, to):
    return {"name": name, "domains": domains, "routes": [{"match": {"prefix": "/"}, "route": {"cluster": to}}]}


class Proxy:
    """The configuration of one proxy, to which EnvoyFilters and VirtualServices are applied."""

    def __init__(self, context, clusters):
        self.context = context
        self.clusters = clusters
        if context == "SIDECAR_INBOUND":
            hosts = [virtual_host("inbound|http|8000", ["*"], "inbound|8000||")]
        elif context == "GATEWAY":
            hosts = [virtual_host("foo.example:80", ["*"], f"outbound|8000||{FOO}")]
        else:
            hosts = [
                virtual_host(f"{host}:8000", [host.partition(".")[0], host], f"outbound|8000||{host}")
                for host in (FOO, BAR)
            ]
            hosts.append(virtual_host("allow_any", ["*"], "PassthroughCluster"))
        self.routes = {"virtual_hosts": hosts, "validate_clusters": False}
        router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}}
        self.filters = [router]

    def apply(self, documents):
        for it in documents:
            if it["kind"] == "VirtualService":
                (host,) = it["spec"]["hosts"]
                (found,) = [to for to in self.routes["virtual_hosts"] if host in to["domains"]]
                found["routes"] = list(routes_of(it))
        for it in documents:
            if it["kind"] == "EnvoyFilter":
                for patch in it["spec"]["configPatches"]:
                    self.patch(copy.deepcopy(patch))
        return self

    def patch(self, it):
        match, operation, value = it["match"], it["patch"]["operation"], it["patch"]["value"]
        assert match["context"] == self.context
        hosts = self.routes["virtual_hosts"]
        where = it["applyTo"], operation
        if where == ("HTTP_FILTER", "INSERT_BEFORE"):
            by = match["listener"]["filterChain"]["filter"]
            assert by["name"] == HCM
            at = [filter_["name"] for filter_ in self.filters].index(by["subFilter"]["name"])
            self.filters.insert(at, value)
        elif where == ("ROUTE_CONFIGURATION", "MERGE"):
            self.routes = merged(self.routes, value)
        elif where == ("VIRTUAL_HOST", "MERGE"):
            name = match["routeConfiguration"]["vhost"]["name"]
            assert name in [host["name"] for host in hosts], "a patch that changes nothing"
            self.routes["virtual_hosts"] = [
                merged(host, value) if host["name"] == name else host for host in hosts
            ]
        elif where == ("HTTP_ROUTE", "INSERT_FIRST"):
            for host in hosts:
                host["routes"].insert(0, value)
        else:
            raise AssertionError(where)

    def write(self, file):
        manager = {
            "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": self.context,
            "stream_idle_timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http_filters": self.filters,
            "route_config": self.routes,
        }
        anywhere = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
        listener = {
            "name": self.context,
            "address": anywhere,
            "filter_chains": [{"filters": [{"name": HCM, "typed_config": manager}]}],
        }
        clusters = [cluster(*it) for it in self.clusters.items()]
        config = {
            "admin": {"address": anywhere},
            "static_resources": {"listeners": [listener], "clusters": clusters},
        }
        file.write_text(json.dumps(config), encoding="utf-8")
        return file
