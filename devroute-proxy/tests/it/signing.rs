//! `contract --sign` signs with the keys that developers have, and `explain` says what a signature is
//! worth.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::support::binary::Output;
use crate::support::desk::{ALICE, ALICE_PUB, Desk};
use crate::support::{Devroute, PATIENCE};

#[test]
fn a_contract_is_signed_with_a_key_file_and_explained() {
    let desk = Desk::new("cli");
    let key = desk.write("alice", ALICE);
    let keys = desk.write("keys", ALICE_PUB);
    let (key, keys) = (key.to_str().unwrap(), keys.to_str().unwrap());
    let line = [
        "contract",
        "foo=10.0.0.7:8001",
        "--id",
        "run-7",
        "--json",
        "--sign",
        key,
    ];
    let output = Devroute::with(&line).run();
    assert_eq!(output.status, Some(0), "{output:?}");
    let made: Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(made["signed_by"], "alice@laptop");
    assert!(made["baggage"]["fits"].as_bool().unwrap());
    let text = made["header"]["value"].as_str().unwrap();

    let explain = |text: &str, more: &[&str]| {
        let mut line = vec!["explain", text];
        line.extend(more);
        Devroute::with(&line).run()
    };
    let output = explain(text, &["--authorized-keys", keys]);
    assert_eq!(output.status, Some(0), "{output:?}");
    assert!(
        output
            .out
            .contains("\nsigned by alice@laptop, good until 20"),
        "{output:?}"
    );
    assert!(output.out.contains("of the test run run-7"), "{output:?}");
    let output = explain(text, &[]);
    assert_eq!(output.status, Some(0), "{output:?}");
    assert!(output.out.contains("\nsigned, not verified"), "{output:?}");

    // Eight hours are more than one.
    let output = explain(
        text,
        &["--authorized-keys", keys, "--max-expires", "1h", "--json"],
    );
    assert_eq!(output.status, Some(1), "{output:?}");
    let verdict: Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(
        verdict["signature"]["cause"], "expires_too_late",
        "{verdict}"
    );
    let output = explain(
        &text.replace("7:8001", "7:8002"),
        &["--authorized-keys", keys],
    );
    assert_eq!(output.status, Some(1), "{output:?}");
    assert!(
        output.out.contains("\nrefused: its signature is not valid"),
        "{output:?}"
    );

    let home = Desk::new("home");
    fs::create_dir(home.0.join(".ssh")).unwrap();
    fs::write(home.0.join(".ssh/id_ed25519"), ALICE).unwrap();
    let signed = Devroute::new("contract foo=10.0.0.7:8001 --expires 2d --sign");
    let output = signed.env("HOME", home.0.to_str().unwrap()).run();
    assert_eq!(output.status, Some(0), "{output:?}");
    assert!(
        output.out.contains("\nsigned   by alice@laptop (SHA256:"),
        "{output:?}"
    );
}

#[test]
fn what_cannot_sign_says_what_to_do() {
    let desk = Desk::new("cannot");
    desk.write("text", "no key");
    desk.write("alice.pub", ALICE_PUB);
    let entry = "foo=10.0.0.7:8001";
    for (line, expected) in [
        (
            vec![entry, "--sign", "text"],
            "--sign: text: not a private key",
        ),
        (vec![entry, "--sign", "nowhere"], "--sign: nowhere: "),
        (
            vec![entry, "--sign", "bar=8001"],
            "put entries before --sign",
        ),
        (
            vec![entry, "--sign", "alice.pub"],
            "SSH_AUTH_SOCK is not set",
        ),
        (vec![entry, "--sign"], "ssh-keygen -t ed25519"),
        (
            vec![entry, "--expires", "100d", "--sign", "text"],
            "--expires: ",
        ),
    ] {
        let mut arguments = vec!["contract"];
        arguments.extend(&line);
        let output = Devroute::with(&arguments).directory(&desk.0).run();
        assert_eq!(output.status, Some(64), "{line:?}: {output:?}");
        assert!(output.err.contains(expected), "{line:?}: {output:?}");
    }
    let output = Devroute::new("contract foo=10.0.0.7:1 --expires 1h").run();
    assert_eq!(output.status, Some(64), "{output:?}");
    let dead = Devroute::with(&["contract", entry, "--sign", "alice.pub"]);
    let output = dead.directory(&desk.0).env("SSH_AUTH_SOCK", "dead").run();
    assert!(
        output.err.contains("ssh-agent: dead (SSH_AUTH_SOCK): "),
        "{output:?}"
    );
}

/// A real ssh-agent, with a socket in a directory of its own.
#[derive(Debug)]
struct RealAgent {
    desk: Desk,
    process: Child,
}

impl RealAgent {
    /// None where there is no OpenSSH.
    fn start(name: &str) -> Option<Self> {
        let desk = Desk::new(name);
        // The path of a socket has at most 107 bytes, so it is a relative one.
        let process = Command::new("ssh-agent")
            .args(["-D", "-a", "agent"])
            .current_dir(&desk.0)
            .stdout(Stdio::null())
            .spawn();
        let Ok(process) = process else {
            eprintln!("SKIPPED {name}: there is no ssh-agent on this machine");
            return None;
        };
        let began = Instant::now();
        while !desk.0.join("agent").exists() {
            assert!(began.elapsed() < PATIENCE, "it never listens");
            std::thread::yield_now();
        }
        Some(Self { desk, process })
    }

    fn openssh(&self, program: &str, arguments: &[&str]) {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(&self.desk.0)
            .env("SSH_AUTH_SOCK", "agent")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {output:?}"
        );
    }

    fn make_key(&self, name: &str) {
        let comment = format!("{name}@desk");
        let made = ["-q", "-t", "ed25519", "-N", "", "-C", &*comment, "-f", name];
        self.openssh("ssh-keygen", &made);
    }

    fn devroute(&self, arguments: &[&str]) -> Output {
        Devroute::with(arguments)
            .directory(&self.desk.0)
            .env("SSH_AUTH_SOCK", "agent")
            .run()
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_key_that_is_encrypted_signs_through_the_real_ssh_agent() {
    let Some(agent) = RealAgent::start("agent") else {
        return;
    };
    for name in ["bob", "carol"] {
        agent.make_key(name);
    }
    agent.openssh("ssh-add", &["-q", "bob"]);
    for name in ["bob", "carol"] {
        let encrypt = ["-q", "-p", "-P", "", "-N", "secret", "-f", name];
        agent.openssh("ssh-keygen", &encrypt);
    }

    // By the encrypted file, by its public half, and as the only key there is.
    for sign in [&["--sign", "bob"][..], &["--sign", "bob.pub"], &["--sign"]] {
        let mut line = vec!["contract", "foo=10.0.0.7:8001", "--json"];
        line.extend(sign);
        let output = agent.devroute(&line);
        assert_eq!(output.status, Some(0), "{sign:?}: {output:?}");
        let made: Value = serde_json::from_str(&output.out).unwrap();
        assert_eq!(made["signed_by"], "bob@desk");
        let text = made["header"]["value"].as_str().unwrap();
        let output = agent.devroute(&["explain", text, "--authorized-keys", "bob.pub"]);
        assert_eq!(output.status, Some(0), "{output:?}");
        let output = agent.devroute(&["explain", text, "--authorized-keys", "carol.pub"]);
        assert!(output.out.contains("not authorized"), "{output:?}");
    }
    let output = agent.devroute(&["contract", "foo=10.0.0.7:1", "--sign", "carol"]);
    assert_eq!(output.status, Some(64), "{output:?}");
    assert!(output.err.contains("`ssh-add carol`"), "{output:?}");

    agent.make_key("dave");
    agent.openssh("ssh-add", &["-q", "dave"]);
    let output = agent.devroute(&["contract", "foo=10.0.0.7:1", "--sign"]);
    assert!(
        output.err.contains("several keys (bob@desk, dave@desk)"),
        "{output:?}"
    );
}
