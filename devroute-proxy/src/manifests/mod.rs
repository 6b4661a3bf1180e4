//! `devroute manifests`: prints what one service needs in a cluster, to be applied or to be kept.
//!
//! Everything comes from the files of `deploy/`, which are part of the binary: the router of
//! `deploy/kubernetes` with the networks of the laptops, the hub with the keys of their owners, and for the service either a sidecar or, in a
//! mesh of Istio, the filter at its callers. What is printed is what Kustomize makes of those files.
//!
//! What is wrong is refused before a line is printed. Nothing is asked of a cluster.

mod template;

use std::net::IpAddr;
use std::path::Path;

use devroute_tower::core::signature::AuthorizedKeys;
use devroute_tower::core::{HostSuffix, NetworkRule, ServiceName};

pub(crate) use self::template::IMAGE;
use self::template::Template;
use crate::cli::{ManifestsArgs, Mesh, Part};
use crate::config::{ConfigError, parse_port};
use crate::print;

/// Prints the manifests that `args` ask for.
///
/// # Errors
///
/// When a name, a port or a network is wrong.
pub fn run(args: &ManifestsArgs) -> Result<(), ConfigError> {
    let wanted = Wanted::of(args).map_err(ConfigError::new)?;
    print::line(wanted.text().trim_end());
    Ok(())
}

/// What is asked for, and well.
#[derive(Debug)]
struct Wanted {
    service: String,
    namespace: String,
    port: u16,
    target_port: u16,
    laptops: Vec<String>,
    suffixes: Vec<String>,
    image: String,
    /// Those of a file that may dial in, a line each.
    keys: Option<Vec<String>>,
    mesh: Mesh,
    part: Part,
}

impl Wanted {
    fn of(args: &ManifestsArgs) -> Result<Self, String> {
        let at = |flag: &'static str| move |message| format!("--{flag}: {message}");
        let port = parse_port(&args.port).map_err(at("port"))?;
        let target_port = args.target_port.as_deref().map(parse_port).transpose();
        let all = |flag, texts: &[String], check: fn(&str) -> Result<String, String>| {
            let checked: Result<Vec<_>, _> = texts.iter().map(|text| check(text)).collect();
            checked.map_err(at(flag))
        };
        Ok(Self {
            service: label(&args.service)
                .and_then(|name| match ServiceName::new(&name) {
                    Ok(_) => Ok(name),
                    Err(error) => Err(error.to_string()),
                })
                .map_err(at("service"))?,
            namespace: label(&args.namespace).map_err(at("namespace"))?,
            port,
            target_port: target_port.map_err(at("target-port"))?.unwrap_or(port),
            laptops: all("laptops", &args.laptops, network)?,
            suffixes: all("allow-suffix", &args.allow_suffix, suffix)?,
            image: image(&args.image).map_err(at("image"))?,
            keys: args
                .authorized_keys
                .as_deref()
                .map(keys)
                .transpose()
                .map_err(at("authorized-keys"))?,
            mesh: args.mesh,
            part: args.part,
        })
    }

    fn text(&self) -> String {
        let mut manifests = Vec::new();
        if matches!(self.part, Part::All | Part::Router) {
            manifests.extend(self.router());
        }
        if let (Part::All | Part::Hub, Some(keys)) = (self.part, &self.keys) {
            manifests.extend(self.hub(keys));
        }
        if matches!(self.part, Part::All | Part::Service) {
            manifests.extend(match self.mesh {
                Mesh::None => self.sidecar(),
                Mesh::Istio => self.filter(),
            });
        }
        let texts: Vec<String> = manifests.into_iter().map(Template::into_text).collect();
        texts.join("---\n")
    }

    /// Once for a cluster.
    fn router(&self) -> Vec<Template> {
        let laptops: Vec<String> = self
            .laptops
            .iter()
            .map(|network| format!("    - ipBlock: {{ cidr: \"{network}\" }}\n"))
            .collect();
        let caller = format!(
            "    - namespaceSelector: {{ matchLabels: {{ kubernetes.io/metadata.name: \"{}\" }} }}\n",
            self.namespace
        );
        let policy = Template::new(template::NETWORK_POLICY)
            .replace("    - ipBlock: { cidr: LAPTOPS }\n", &laptops.concat())
            .insert_before(
                "    - namespaceSelector: { matchLabels: { devroute/callers: \"true\" } }\n",
                &caller,
            );
        let mut manifests = vec![
            Template::new(match self.mesh {
                Mesh::None => template::NAMESPACE,
                Mesh::Istio => template::NAMESPACE_IN_ISTIO,
            }),
            Template::new(template::SERVICE_ACCOUNT),
            self.laptops(),
            policy,
            Template::new(template::ROUTER).replace(IMAGE, &self.image),
            Template::new(template::DISRUPTION_BUDGET),
            Template::new(template::ROUTER_SERVICE),
        ];
        if !self.suffixes.is_empty() {
            manifests.push(Template::new(template::NAMES));
        }
        if self.mesh == Mesh::Istio {
            manifests.extend(template::ROUTER_IN_ISTIO.map(Template::new));
        }
        manifests
    }

    /// Whom the router may dial.
    fn laptops(&self) -> Template {
        let mut text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: devroute-laptops\n  namespace: devroute\n\
             data:\n  networks: \"{}\"\n",
            self.laptops.join(",")
        );
        if !self.suffixes.is_empty() {
            text.push_str(&format!("  suffixes: \"{}\"\n", self.suffixes.join(",")));
        }
        Template::new(&text)
    }

    /// Where laptops dial in, once for a cluster; how they get there is the ingress's business.
    fn hub(&self, keys: &[String]) -> Vec<Template> {
        let callee = format!(
            "    - namespaceSelector: {{ matchLabels: {{ kubernetes.io/metadata.name: \"{}\" }} }}\n",
            self.namespace
        );
        let lines: Vec<String> = keys.iter().map(|line| format!("    {line}\n")).collect();
        let keys = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: devroute-keys\n  namespace: devroute\n\
             data:\n  authorized_keys: |\n{}",
            lines.concat()
        );
        let mut manifests = vec![
            Template::new(&keys),
            Template::new(template::HUB_NETWORK_POLICY).insert_before(
                "    - namespaceSelector: { matchLabels: { devroute/callees: \"true\" } }\n",
                &callee,
            ),
            Template::new(template::HUB).replace(IMAGE, &self.image),
        ];
        manifests.extend(template::HUB_BESIDE.map(Template::new));
        manifests
    }

    /// Those parts of a Deployment and of a Service that make a sidecar stand in front.
    fn sidecar(&self) -> Vec<Template> {
        let Self {
            service,
            namespace,
            port,
            target_port,
            ..
        } = self;
        let deployment = Template::new(template::SIDECAR)
            .replace(IMAGE, &self.image)
            .replace(
                "  name: SERVICE\n",
                &format!("  name: \"{service}\"\n  namespace: \"{namespace}\"\n"),
            )
            .replace(
                "  template:\n",
                &format!(
                    "  template:\n    metadata:\n      annotations:\n        devroute/service: \"{service}\"\n        \
                     devroute/port: \"{target_port}\"\n"
                ),
            );
        // Kustomize takes a `protocol` for part of the name of a port, and would find none where the Service has none.
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: \"{service}\"\n  namespace: \"{namespace}\"\n\
             spec:\n  ports:\n  - port: {port}\n    targetPort: 15080\n"
        );
        vec![deployment, Template::new(&service)]
    }

    /// What makes the callers of the service reroute.
    fn filter(&self) -> Vec<Template> {
        let Self {
            service,
            namespace,
            port,
            ..
        } = self;
        let host = format!("{service}.{namespace}.svc.cluster.local");
        vec![
            Template::new(template::CALLER).inline(template::LUA_IS_HERE, template::LUA),
            Template::new(template::SERVICE_FILTER)
                .replace(
                    "devroute-foo.shop",
                    &format!("devroute-{service}.{namespace}"),
                )
                .replace("foo.shop.svc.cluster.local:8000", &format!("{host}:{port}"))
                .replace("service: \"foo\"", &format!("service: \"{service}\"")),
            Template::new(template::VIRTUAL_SERVICE)
                .replace("name: \"foo\"", &format!("name: \"{service}\""))
                .replace(
                    "namespace: \"shop\"",
                    &format!("namespace: \"{namespace}\""),
                )
                .replace("exact: \"foo\"", &format!("exact: \"{service}\""))
                .replace("foo.shop.svc.cluster.local", &host)
                .replace("number: 8000", &format!("number: {port}")),
        ]
    }
}

/// What a Service or a namespace can be called (RFC 1035, section 2.3.1).
fn label(text: &str) -> Result<String, String> {
    let is_well = text.len() <= 63
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if is_well {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not a name of Kubernetes (a to z, 0 to 9 and -, at most 63, beginning with a letter)"
    ))
}

/// A network, as a policy of Kubernetes has it.
fn network(text: &str) -> Result<String, String> {
    let expected = || format!("{text:?} is not a network (such as 10.8.0.0/16 or fd00:8::/32)");
    let (address, length) = text.split_once('/').ok_or_else(expected)?;
    let is_well = address.parse::<IpAddr>().is_ok() && length.parse::<u8>().is_ok();
    match text.parse::<NetworkRule>() {
        Ok(_) if is_well => Ok(text.to_owned()),
        Err(error) if is_well => Err(format!("{text:?}: {error}")),
        _ => Err(expected()),
    }
}

fn suffix(text: &str) -> Result<String, String> {
    match text.parse::<HostSuffix>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn keys(file: &Path) -> Result<Vec<String>, String> {
    let path = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{path}: {error}"))?;
    key_lines(&text).map_err(|message| format!("{path}: {message}"))
}

/// The lines of a file of keys, each of which has to be one: who is left out would find out at the hub.
fn key_lines(text: &str) -> Result<Vec<String>, String> {
    let keys = AuthorizedKeys::parse(text.as_bytes());
    if let Some(skipped) = keys.skipped().first() {
        let (line, reason) = (skipped.line(), skipped.reason());
        return Err(format!("line {line}: {reason}"));
    }
    if keys.is_empty() {
        return Err("there is no key in it".to_owned());
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| match line.chars().any(char::is_control) {
            true => Err(format!("{line:?} is no line of text")),
            false => Ok(line.to_owned()),
        })
        .collect()
}

/// What a reference to an image is made of; the registry knows the rest.
fn image(text: &str) -> Result<String, String> {
    let is_well = |byte: u8| byte.is_ascii_alphanumeric() || b"._/:@-".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_well) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not an image (such as registry.internal/devroute:0.1.0)"
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Mode};

    fn wanted(line: &str) -> Result<Wanted, String> {
        let given = "devroute manifests --service foo --port 8000 --laptops 10.8.0.0/16";
        let line = given.split(' ').chain(line.split_whitespace());
        let Mode::Manifests(args) = Cli::parse_from(line).mode else {
            panic!("asked for it")
        };
        Wanted::of(&args)
    }

    #[test]
    fn every_place_of_every_template_is_found() {
        for mesh in ["none", "istio"] {
            for part in ["all", "router", "hub", "service"] {
                let line = format!("--mesh {mesh} --part {part} --allow-suffix .ts.net {KEYS}");
                let text = wanted(&line).unwrap().text();
                assert!(
                    !text.contains("LAPTOPS") && !text.contains("name: SERVICE\n"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn what_is_asked_for_is_in_it_and_nothing_else_of_the_example() {
        let line = "--namespace on --target-port 9 --laptops fd00:8::/32 --image r.internal/d:1";
        for mesh in ["none", "istio"] {
            let text = wanted(&format!("{line} --mesh {mesh}")).unwrap().text();
            assert!(
                text.contains("networks: \"10.8.0.0/16,fd00:8::/32\""),
                "{text}"
            );
            assert!(text.contains("cidr: \"fd00:8::/32\""), "{text}");
            assert!(text.contains("image: r.internal/d:1\n"), "{text}");
            assert!(text.contains("metadata.name: \"on\""), "quoted: {text}");
            assert!(
                !text.contains("\"shop\"")
                    && !text.contains("foo.shop")
                    && !text.contains("image: devroute:"),
                "{text}"
            );
        }
        let text = wanted("--target-port 9").unwrap().text();
        assert!(
            text.contains("devroute/port: \"9\"") && text.contains("- port: 8000\n"),
            "{text}"
        );
    }

    const KEYS: &str = concat!(
        "--authorized-keys ",
        env!("CARGO_MANIFEST_DIR"),
        "/../devroute-core/tests/vectors/alice.pub"
    );

    #[test]
    fn the_hub_is_printed_where_there_are_keys_for_it() {
        for (line, is_there) in [
            ("", false),
            (KEYS, true),
            (&format!("{KEYS} --part hub"), true),
            (&format!("{KEYS} --part router"), false),
            (&format!("{KEYS} --part service"), false),
        ] {
            let text = wanted(line).unwrap().text();
            assert_eq!(text.contains("name: devroute-hub\n"), is_there, "{line}");
        }
        let text = wanted(&format!("{KEYS} --part hub --namespace shop --image r/d:1"));
        let text = text.unwrap().text();
        let key = include_str!("../../../devroute-core/tests/vectors/alice.pub");
        let block = format!("  authorized_keys: |\n    {}\n---\n", key.trim());
        assert!(text.contains(&block), "{text}");
        assert!(text.contains("metadata.name: \"shop\""), "{text}");
        assert!(text.contains("image: r/d:1\n"), "{text}");
        assert!(!text.contains("name: devroute-router\n"), "{text}");
    }

    #[test]
    fn a_file_of_keys_has_nothing_else_in_it() {
        let key = include_str!("../../../devroute-core/tests/vectors/alice.pub").trim();
        for (content, expected) in [
            (format!("# Alice\n\n  {key}\n"), Ok(2)),
            ("# nobody\n".to_owned(), Err("there is no key in it")),
            (format!("{key}\nssh-rsa AAAA bob\n"), Err("line 2: ")),
            (format!("{key} a\u{1b}[31m\n"), Err("is no line of text")),
            (format!("{key}\r- a: b\n"), Err("is no line of text")),
        ] {
            match (key_lines(&content), expected) {
                (Ok(lines), Ok(count)) => assert_eq!(lines.len(), count, "{content}"),
                (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
                (got, _) => panic!("{content}: {got:?}"),
            }
        }
        let error = wanted("--authorized-keys nowhere").unwrap_err();
        assert!(error.starts_with("--authorized-keys: nowhere: "), "{error}");
    }

    #[test]
    fn the_filter_is_the_file() {
        let text = wanted("--mesh istio --part service").unwrap().text();
        let (_, inlined) = text.split_once("inline_string: |\n").unwrap();
        let lua: Vec<&str> = template::LUA.lines().collect();
        for (line, printed) in lua.iter().zip(inlined.lines()) {
            assert_eq!(
                *line,
                printed.strip_prefix("              ").unwrap_or(printed)
            );
        }
        assert!(lua.len() > 100);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, expected) in [
            (
                "--namespace Shop",
                "--namespace: \"Shop\" is not a name of Kubernetes",
            ),
            ("--namespace shop-", "--namespace: "),
            ("--target-port 0", "--target-port: \"0\" is not a port"),
            (
                "--laptops 10.8.0.0",
                "--laptops: \"10.8.0.0\" is not a network (such as",
            ),
            ("--laptops 10.8.0.1/16", "--laptops: \"10.8.0.1/16\": "),
            ("--laptops 10.8.0.0/33", "--laptops: \"10.8.0.0/33\": "),
            (
                "--laptops 10.8.0.0/16:80",
                "--laptops: \"10.8.0.0/16:80\" is not a network",
            ),
            ("--allow-suffix ..", "--allow-suffix: "),
            ("--image a\"b", "--image: \"a\\\"b\" is not an image"),
        ] {
            let error = wanted(line).unwrap_err();
            assert!(error.starts_with(expected), "{line}: {error}");
        }
    }
}
