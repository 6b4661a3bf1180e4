//! Rule 15 against the real `ssh-keygen`: what it signs is good here, and what is signed here is good there.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use devroute_core::Contract;
use devroute_core::signature::{PrivateKeyFile, SigningKey};
use ssh_key::{Algorithm, HashAlg, LineEnding, Signature, SshSig};

use crate::signature::{ALICE, ALICE_PUB, alice, contract, verifier};

/// A directory of one test, with alice's key in it; none where there is no `ssh-keygen`.
struct Desk(PathBuf);

impl Desk {
    fn new(name: &str) -> Option<Self> {
        if Command::new("ssh-keygen").arg("-?").output().is_err() {
            eprintln!("SKIPPED {name}: there is no ssh-keygen on this machine");
            return None;
        }
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let desk = Self(path);
        desk.write("alice", ALICE);
        desk.write("alice.pub", ALICE_PUB.as_bytes());
        desk.write(
            "allowed",
            format!("alice namespaces=\"devroute\" {ALICE_PUB}").as_bytes(),
        );
        Some(desk)
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.0.join(name);
        let _ = fs::remove_file(&path);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        // It refuses a key that others can read.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path).unwrap().write_all(content).unwrap();
    }

    fn ssh_keygen(&self, arguments: &[&str], input: &str) -> std::process::Output {
        let mut child = Command::new("ssh-keygen")
            .args(arguments)
            .current_dir(&self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The canonical form, made by a model: serde_json's sorted object.
fn canonical(contract: &Contract) -> String {
    let mut members: std::collections::BTreeMap<String, String> =
        serde_json::from_str(contract.as_str()).unwrap();
    members.remove("$sig");
    serde_json::to_string(&members).unwrap()
}

#[test]
fn rule_15_ssh_keygen_verifies_what_is_signed_here() {
    let Some(desk) = Desk::new("verified-there") else {
        return;
    };
    let unsigned =
        contract(r#"{"foo":"192.168.1.12:8001","$id":"run-7","bar":"h2c://[fd00::7]:1"}"#);
    let expires = SystemTime::now() + Duration::from_secs(3600);
    let signed = alice().sign_contract(&unsigned, expires).unwrap();
    let signature = signed
        .reserved()
        .find(|(name, _)| name == "$sig")
        .unwrap()
        .1;
    let signature = Base64UrlUnpadded::decode_vec(&signature).unwrap();
    let signature = Signature::new(Algorithm::Ed25519, signature).unwrap();
    let public = ssh_key::PublicKey::from_openssh(ALICE_PUB).unwrap();
    let armoured = SshSig::new(
        public.key_data().clone(),
        "devroute",
        HashAlg::Sha512,
        signature,
    )
    .unwrap()
    .to_pem(LineEnding::LF)
    .unwrap();
    desk.write("sig", armoured.as_bytes());

    let arguments = [
        "-Y", "verify", "-f", "allowed", "-I", "alice", "-n", "devroute", "-s", "sig",
    ];
    let text = canonical(&signed);
    let verdict = desk.ssh_keygen(&arguments, &text);
    assert!(verdict.status.success(), "{verdict:?}");
    let verdict = desk.ssh_keygen(&arguments, &text.replace("1.12", "1.13"));
    assert!(!verdict.status.success(), "{verdict:?}");
}

#[test]
fn rule_15_what_ssh_keygen_signs_is_good_here() {
    let Some(desk) = Desk::new("signed-there") else {
        return;
    };
    let now = SystemTime::now();
    let expires = now.duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600;
    let id = alice().public_key().id();
    let text = format!(r#"{{"$exp":"{expires}","$key":"{id}","foo":"10.0.0.1:80"}}"#);
    let output = desk.ssh_keygen(
        &["-q", "-Y", "sign", "-f", "alice", "-n", "devroute"],
        &text,
    );
    let armoured = String::from_utf8(output.stdout).unwrap();
    let signature = armoured.parse::<SshSig>().unwrap();
    let signature = Base64UrlUnpadded::encode_string(signature.signature_bytes());
    let signed = contract(&text.replace('}', &format!(r#","$sig":"{signature}"}}"#)));
    let by = verifier().verify(&signed, now).unwrap();
    assert_eq!(by.as_deref(), Some("alice@laptop"));
}

#[test]
fn rule_15_keys_of_ssh_keygen_are_read_and_named_alike() {
    let Some(desk) = Desk::new("keys") else {
        return;
    };
    let listed = desk.ssh_keygen(&["-l", "-f", "alice.pub"], "");
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains(&alice().public_key().fingerprint()),
        "{listed}"
    );

    for (kind, passphrase) in [("ed25519", ""), ("ed25519", "secret"), ("ecdsa", "")] {
        let name = format!("{kind}{passphrase}");
        let made = [
            "-q", "-t", kind, "-N", passphrase, "-C", "bob@desk", "-f", &name,
        ];
        assert!(desk.ssh_keygen(&made, "").status.success());
        let pem = fs::read(desk.0.join(&name)).unwrap();
        match (&*name, SigningKey::from_openssh(&pem)) {
            ("ed25519", Ok(PrivateKeyFile::Plain(key))) => {
                assert_eq!(key.public_key().comment(), "bob@desk");
            }
            ("ed25519secret", Ok(PrivateKeyFile::Encrypted(key))) => {
                let line = fs::read_to_string(desk.0.join("ed25519secret.pub")).unwrap();
                let fields = format!("ssh-ed25519 {}", line.split(' ').nth(1).unwrap());
                let of_line = devroute_core::signature::PublicKey::from_openssh(&fields).unwrap();
                assert_eq!(key.id(), of_line.id());
            }
            ("ecdsa", Err(error)) => {
                assert!(error.to_string().contains("ssh-ed25519"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}
