//! Flag, else environment, else file, else default; and every wrong value names its source.

use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use crate::support::Devroute;

/// A directory with a `devroute.toml` of this content.
fn directory(name: &str, content: &str) -> std::path::PathBuf {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("devroute.toml"), content).unwrap();
    directory
}

/// What the first line of standard error is, the status being 64.
fn refused(devroute: Devroute) -> String {
    let output = devroute.run();
    assert_eq!(output.status, Some(64), "{output:?}");
    assert_eq!(output.out, "");
    output.err.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_wrong_flag_names_the_flag() {
    for (flags, expected) in [
        (
            "--listen nonsense",
            "--listen: \"nonsense\" is not an address and port",
        ),
        (
            "--listen 8080",
            "--listen: \"8080\" is not an address and port",
        ),
        ("--admin on", "--admin: \"on\" is not an address and port"),
        (
            "--workers 0",
            "--workers: \"0\" is not a number from 1 to 1024",
        ),
        (
            "--drain-timeout 30",
            "--drain-timeout: \"30\" is not a time with its unit",
        ),
        (
            "--connect-timeout 0s",
            "--connect-timeout: \"0s\" leaves no time at all",
        ),
        (
            "--max-connects 0",
            "--max-connects: \"0\" is not a number from 1 to 16384",
        ),
        (
            "--timeout-memory never",
            "--timeout-memory: \"never\" is not a time with its unit",
        ),
        ("--allow 10.0.0.0/33", "--allow: "),
        ("--allow cgnat,everything", "--allow: "),
        ("--deny somewhere", "--deny: "),
        ("--allow-suffix ..", "--allow-suffix: "),
        (
            "--reveal-addresses maybe",
            "--reveal-addresses: \"maybe\" is neither `true` nor `false`",
        ),
        ("--strip=maybe", "--strip: \"maybe\" is neither"),
        ("--cookie=maybe", "--cookie: \"maybe\" is neither"),
        ("--strip --trust 10.0.0.5/8", "--trust: invalid network"),
        ("--strip --trust office", "--trust: invalid network"),
        (
            "--strip --trust 10.0.0.0/8:80",
            "--trust: a client's port says nothing",
        ),
        ("--trust 10.0.0.0/8", "--trust: is for what --strip removes"),
        (
            "--log-format xml",
            "--log-format: \"xml\" is none of `human`, `json` and `auto`",
        ),
        ("--log-level loud", "--log-level: \"loud\" is not a level"),
        (
            "--on-failure fallback",
            "--on-failure: a router has no baseline to fall back to",
        ),
        (
            "--forwarded yes",
            "--forwarded: \"yes\" is none of `x-forwarded`, `forwarded`, `both` and `none`",
        ),
        (
            "--target-insecure=maybe",
            "--target-insecure: \"maybe\" is neither",
        ),
        ("--target-ca Cargo.toml", "--target-ca: Cargo.toml: "),
        (
            "--tls-cert /nowhere.pem --tls-key Cargo.toml",
            "--tls-cert: /nowhere.pem: it cannot be read",
        ),
        (
            "--first-byte-timeout 0s",
            "--first-byte-timeout: \"0s\" leaves no time at all",
        ),
        (
            "--head-timeout off",
            "--head-timeout: \"off\" is not a time",
        ),
        (
            "--idle-timeout never",
            "--idle-timeout: \"never\" is not a time",
        ),
        (
            "--drain-grace soon",
            "--drain-grace: \"soon\" is not a time",
        ),
        ("--drain-delay 1", "--drain-delay: \"1\" is not a time"),
        (
            "--max-connections 0",
            "--max-connections: \"0\" is not a number from 1 to 1048576",
        ),
        (
            "--max-streams many",
            "--max-streams: \"many\" is not a number from 1 to 1048576",
        ),
        (
            "--max-headers 0",
            "--max-headers: \"0\" is not a number from 1 to 16384",
        ),
        (
            "--max-head-size 4KiB",
            "--max-head-size: \"4KiB\" is not a size from 8KiB to 1MiB",
        ),
        (
            "--max-head-size 65536",
            "--max-head-size: \"65536\" is not a size",
        ),
        (
            "--half-close maybe",
            "--half-close: \"maybe\" is neither `gone` nor `keep`",
        ),
        (
            "--max-body 1000",
            "--max-body: \"1000\" is neither a size (such as 100MiB) nor `off`",
        ),
        ("--reuse-port=maybe", "--reuse-port: \"maybe\" is neither"),
        ("--tls-reload 10", "--tls-reload: \"10\" is not a time"),
        ("--config /nonexistent", "--config: /nonexistent: "),
    ] {
        let listen = if flags.contains("--listen") {
            ""
        } else {
            "--listen 127.0.0.1:0"
        };
        let error = refused(Devroute::new(&format!("router {listen} {flags}")));
        assert!(
            error.starts_with(&format!("devroute: {expected}")),
            "{flags}: {error}"
        );
    }
    for (name, value, expected) in [
        ("--service", "a/b", "service name"),
        (
            "--upstream",
            "http://foo:1/bar",
            "\"http://foo:1/bar\" is not an upstream",
        ),
        (
            "--upstream",
            "https://foo/bar",
            "neither a host name nor an IP address",
        ),
        (
            "--upstream-ca",
            "/nowhere.pem",
            "is for an upstream that begins with https://",
        ),
        (
            "--upstream-name",
            "foo",
            "is for an upstream that begins with https://",
        ),
        (
            "--response-timeout",
            "0s",
            "leaves no time at all, or `off`",
        ),
        ("--target-ca", "/nowhere.pem", "/nowhere.pem: "),
        ("--tls-cert", "Cargo.toml", "without its key"),
        ("--tls-key", "/nowhere.pem", "the key of a certificate"),
        (
            "--via",
            "router",
            "\"router\" is not an address or a name, and a port",
        ),
        (
            "--forwarded-on",
            "baseline",
            "\"baseline\" is neither `rerouted` nor `all`",
        ),
        (
            "--on-failure",
            "maybe",
            "\"maybe\" is neither `fail` nor `fallback`",
        ),
    ] {
        let mut flags = vec!["--service", "foo", "--upstream", "http://127.0.0.1:1"];
        match flags.iter().position(|&flag| flag == name) {
            Some(index) => flags[index + 1] = value,
            None => flags.extend([name, value]),
        }
        let line = [&["sidecar", "--listen", "127.0.0.1:0"], &flags[..]].concat();
        let error = refused(Devroute::with(&line));
        assert!(error.starts_with(&format!("devroute: {name}: ")), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_required_says_all_the_places_it_can_come_from() {
    assert_eq!(
        refused(Devroute::new("sidecar --listen 127.0.0.1:0 --service foo")),
        "devroute: --upstream: is required (or DEVROUTE_UPSTREAM, or `upstream` in the \
         configuration file)"
    );
    // All of them at once.
    assert_eq!(
        refused(Devroute::new("sidecar")),
        "devroute: --listen, --upstream, --service are required (or DEVROUTE_* variables, or a \
         configuration file); --help says what they are"
    );
}

#[test]
fn an_upstream_that_is_the_sidecar_itself_is_refused() {
    for (listen, upstream) in [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0:8080", "https://127.0.0.1:8080"),
        ("[::]:8080", "h2c://[::1]:8080"),
    ] {
        let line = format!("sidecar --listen {listen} --service foo --upstream {upstream}");
        let error = refused(Devroute::new(&line));
        let expected = format!("devroute: --upstream: {upstream:?} is where this sidecar listens");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn a_wrong_variable_names_the_variable() {
    for (name, value) in [
        ("DEVROUTE_LISTEN", "nonsense"),
        ("DEVROUTE_WORKERS", "many"),
        ("DEVROUTE_ALLOW", "10.0.0.0/8,nonsense"),
        ("DEVROUTE_STRIP", "perhaps"),
        ("DEVROUTE_ON_FAILURE", "fallback"),
        ("DEVROUTE_CONFIG", "/nonexistent"),
        ("PORT", "http"),
        ("PORT", "0"),
    ] {
        let error = refused(Devroute::new("router").env(name, value));
        assert!(error.starts_with(&format!("devroute: {name}: ")), "{error}");
    }
}

#[test]
fn a_wrong_value_in_the_file_names_file_setting_and_line() {
    for (name, content, expected) in [
        (
            "listen",
            "\nlisten = 'x'",
            "devroute.toml: listen: \"x\" is not an address",
        ),
        (
            "type",
            "\nlisten = 1.5",
            "devroute.toml: listen: must be a string, not a float, line 2",
        ),
        (
            "key",
            "\nlistn = 'x'",
            "devroute.toml: listn: is not a setting (did you mean `listen`?), line 2",
        ),
        ("list", "allow = [\n 'x' ]", "devroute.toml: allow: "),
        ("syntax", "\nlisten = ", "devroute.toml: "),
    ] {
        let directory = directory(&format!("wrong-{name}"), content);
        let error = refused(Devroute::new("router --config devroute.toml").directory(&directory));
        assert!(
            error.starts_with(&format!("devroute: {expected}")),
            "{error}"
        );
        assert!(error.ends_with(", line 2"), "{error}");
    }
}

#[test]
fn a_flag_is_stronger_than_a_variable_and_a_variable_than_the_file() {
    let directory = directory("precedence", "allow = ['loopback']\nlog-format = 'human'\n");
    let allowed = |devroute: Devroute, env: Option<&str>| {
        let devroute = devroute
            .env("DEVROUTE_CONFIG", "devroute.toml")
            .directory(&directory);
        let devroute = match env {
            Some(value) => devroute.env("DEVROUTE_ALLOW", value),
            None => devroute,
        };
        let output = devroute.run();
        let json: Value =
            serde_json::from_str(&output.out).unwrap_or_else(|_| panic!("{output:?}"));
        let entries = json["entries"].as_array().unwrap().clone();
        let allowed = entries.iter().filter(|entry| entry["allowed"] == true);
        allowed
            .map(|entry| entry["service"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let contract = r#"{"loopback":"127.0.0.1:1","cgnat":"100.64.0.1:1","public":"69.1.2.3:1"}"#;
    let explain =
        |flags: &[&str]| Devroute::with(&[&["explain", "--json", contract], flags].concat());
    assert_eq!(allowed(explain(&[]), None), ["loopback"]);
    assert_eq!(
        allowed(explain(&[]), Some("")),
        ["loopback"],
        "an empty variable is not set"
    );
    assert_eq!(allowed(explain(&[]), Some("cgnat")), ["cgnat"]);
    assert_eq!(
        allowed(explain(&[]), Some("tailscale,69.0.0.0/8")),
        ["cgnat", "public"]
    );
    assert_eq!(
        allowed(explain(&["--allow", "69.0.0.0/8"]), Some("cgnat")),
        ["public"]
    );
    let both = [
        "--allow",
        "loopback",
        "--allow",
        "69.0.0.0/8",
        "--deny",
        "69.1.0.0/16:1-2",
    ];
    assert_eq!(allowed(explain(&both), None), ["loopback"]);
}

#[test]
fn usage_errors_end_with_64_and_help_with_0() {
    for line in [
        "",
        "nonsense",
        "router --nonsense",
        "router --listen",
        "contract",
    ] {
        assert_eq!(Devroute::new(line).run().status, Some(64), "{line}");
    }
    for line in ["--help", "--version", "router --help", "help sidecar"] {
        assert_eq!(Devroute::new(line).run().status, Some(0), "{line}");
    }
    let help = Devroute::new("sidecar --help").run().out;
    assert!(
        help.contains("DEVROUTE_UPSTREAM") && help.contains("127.0.0.1:15099"),
        "{help}"
    );
}

#[test]
fn an_address_that_is_taken_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = Devroute::new(&format!("router --listen 127.0.0.1:0 --admin {address}")).run();
    assert_eq!(output.status, Some(1));
    let expected = format!("devroute: cannot listen on {address} (admin listener)");
    assert!(output.err.contains(&expected), "{output:?}");
    assert!(output.err.contains("--admin off"), "{output:?}");
    let output = Devroute::new(&format!("router --listen {address} --admin off")).run();
    assert!(
        output
            .err
            .contains(&format!("cannot listen on {address}: ")),
        "{output:?}"
    );
}

#[test]
fn rule_05_inside_kubernetes_the_api_server_and_the_ports_of_nodes_are_refused() {
    let explain = |flags: &[&str]| {
        let contract = r#"{"api":"10.96.0.1:443","kubelet":"10.0.0.1:10250","foo":"10.0.0.1:80"}"#;
        let explain = Devroute::with(&[&["explain", "--json", contract], flags].concat());
        let output = explain.env("KUBERNETES_SERVICE_HOST", "10.96.0.1").run();
        let json: Value = serde_json::from_str(&output.out).unwrap();
        let entries = json["entries"].as_array().unwrap().clone();
        entries
            .iter()
            .map(|entry| entry["reason"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        explain(&[]),
        [
            "kubernetes_api".into(),
            "kubernetes_port".into(),
            Value::Null
        ]
    );
    let named = explain(&["--allow", "10.0.0.1:10250"]);
    assert_eq!(named, ["kubernetes_api".into(), Value::Null, Value::Null]);
}
