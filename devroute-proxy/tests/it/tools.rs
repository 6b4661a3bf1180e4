//! `contract` makes what `explain` explains.

use std::fs::File;
use std::io::Write as _;

use serde_json::Value;

use crate::support::Devroute;

#[test]
fn a_contract_is_printed_as_header_curl_line_and_member() {
    let output =
        Devroute::new("contract foo=8001 bar=10.0.0.7:9000 --id run-7 --address 192.168.1.12")
            .run();
    assert_eq!(output.status, Some(0), "{output:?}");
    let contract = r#"{"foo":"192.168.1.12:8001","bar":"10.0.0.7:9000","$id":"run-7"}"#;
    let lines: Vec<&str> = output.out.lines().collect();
    assert_eq!(lines[0], format!("x-devroute: {contract}"));
    assert!(
        output
            .out
            .contains(&format!("curl -H 'x-devroute: {contract}' URL")),
        "{output:?}"
    );
    assert!(
        output
            .out
            .contains("devroute=%7B%22foo%22%3A%22192.168.1.12%3A8001%22"),
        "{output:?}"
    );
    assert!(
        output
            .out
            .contains(&format!("size     {} bytes, as baggage ", contract.len()))
    );
    assert_eq!(output.err, "");
    let header =
        Devroute::new("header foo=8001 bar=10.0.0.7:9000 --id run-7 --address 192.168.1.12");
    assert_eq!(
        header.run().out,
        output.out,
        "header is another name for it"
    );
}

#[test]
fn a_contract_that_the_policy_would_refuse_comes_with_a_warning() {
    let output = Devroute::new("contract foo=127.0.0.1:1 bar=100.64.0.1:1").run();
    assert_eq!(output.status, Some(0));
    let warnings: Vec<&str> = output.err.lines().collect();
    assert_eq!(warnings.len(), 2, "{output:?}");
    assert!(warnings[0].starts_with("warning: foo: ") && warnings[0].contains("--allow loopback"));
    assert!(warnings[1].starts_with("warning: bar: ") && warnings[1].contains("--allow tailscale"));
    let output = Devroute::new("contract foo=127.0.0.1:1 --allow loopback").run();
    assert_eq!(output.err, "");
}

#[test]
fn what_contract_makes_explain_takes_in_every_form() {
    let line = "contract foo=8001 --address 10.1.2.3 --id run-7 --json";
    let made: Value = serde_json::from_str(&Devroute::new(line).run().out).unwrap();
    let header = made["header"]["value"].as_str().unwrap();
    let member = made["baggage"]["value"].as_str().unwrap();
    let field = format!("x-devroute: {header}");
    let baggage = format!("other=1,{member}");
    let script = made["cookie"].as_str().unwrap();
    let (_, cookie) = script.split_once('\'').unwrap();
    let cookie = format!("cookie: a=1; {}", cookie.split(';').next().unwrap());
    for arguments in [
        vec!["explain", header],
        vec!["explain", member],
        vec!["explain", &field],
        vec!["explain", "--header", &field],
        vec!["explain", "--header", &cookie],
        vec!["explain", &cookie],
        vec!["explain", "--baggage", &baggage],
    ] {
        let output = Devroute::with(&arguments).run();
        assert_eq!(output.status, Some(0), "{arguments:?}: {output:?}");
        assert!(output.out.contains("of the test run run-7"), "{output:?}");
        assert!(
            output.out.contains("foo  10.1.2.3:8001  allowed"),
            "{output:?}"
        );
    }
}

#[test]
fn a_refused_or_malformed_contract_is_status_1() {
    let output = Devroute::with(&[
        "explain",
        r#"{"foo":"10.0.0.1:1","bar":"169.254.169.254:80"}"#,
    ])
    .run();
    assert_eq!(output.status, Some(1));
    assert!(output.out.contains("metadata service"), "{output:?}");

    let output = Devroute::with(&["explain", r#"{"foo": [1,2,3]}"#]).run();
    assert_eq!(output.status, Some(1));
    let lines: Vec<&str> = output.out.lines().collect();
    assert_eq!(lines[1], r#"  {"foo": [1,2,3]}"#);
    assert_eq!(lines[2].find('^'), Some(10), "{output:?}");

    let output = Devroute::with(&["explain", "--json", r#"{"foo":1}"#]).run();
    assert_eq!(output.status, Some(1));
    let json: Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(
        (&json["ok"], &json["error"]["offset"]),
        (&false.into(), &7.into()),
        "{json}"
    );
    let output = Devroute::with(&["explain", "--baggage", "other=1"]).run();
    assert_eq!(
        (output.status, output.out.trim()),
        (Some(1), "no contract in it: the baselines answer")
    );
}

#[test]
fn explain_reads_standard_input() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("contract.json");
    File::create(&path)
        .unwrap()
        .write_all(b"{\"foo\":\"10.0.0.1:1\"}\n")
        .unwrap();
    let output = Devroute::new("explain -")
        .stdin(File::open(&path).unwrap())
        .run();
    assert_eq!(output.status, Some(0), "{output:?}");
}

#[test]
fn wrong_arguments_are_status_64() {
    for line in [
        "contract foo",
        "contract foo=70000",
        "contract foo=1 --address here",
    ] {
        let output = Devroute::new(line).run();
        assert_eq!(output.status, Some(64), "{line}: {output:?}");
        assert!(output.err.starts_with("devroute: "), "{line}: {output:?}");
    }
    let output = Devroute::with(&["explain", "--header", "no colon"]).run();
    assert_eq!(output.status, Some(64), "{output:?}");
}
