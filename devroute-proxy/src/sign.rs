//! Signs a contract with the key that a developer has: in a file, or held by ssh-agent.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use devroute_tower::core::Contract;
use devroute_tower::core::signature::{Namespace, PrivateKeyFile, PublicKey, SigningKey, ToSign};

use crate::agent::{Agent, SOCKET};

/// How long a signed contract is good where nothing else is said: a day's work.
pub(crate) const LIFETIME: Duration = Duration::from_secs(8 * 60 * 60);

/// A signed contract, and what is to be said about it.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) contract: Contract,
    pub(crate) key: PublicKey,
    pub(crate) expires: SystemTime,
}

/// Signs `contract` with the key in `file`, or without one with the usual key, for `lifetime` from now.
///
/// # Errors
///
/// When there is no key, or neither this process nor the agent can sign with it; says what to do.
pub(crate) fn sign(
    contract: &Contract,
    file: Option<&Path>,
    lifetime: Duration,
) -> Result<Signed, String> {
    let expires = SystemTime::now() + lifetime;
    let (contract, key) = match key(file, "--sign")? {
        Key::Here(key) => {
            let signed = key.sign_contract(contract, expires);
            (
                signed.map_err(|error| error.to_string())?,
                key.public_key().clone(),
            )
        }
        Key::WithAgent(mut agent, key) => {
            let to_sign =
                ToSign::new(contract, &key, expires).map_err(|error| error.to_string())?;
            let signature = agent.sign(&key, to_sign.message());
            let signature = signature.map_err(|error| error.to_string())?;
            let signed = to_sign.finish(&signature);
            (signed.map_err(|error| error.to_string())?, key)
        }
    };
    Ok(Signed {
        contract,
        key,
        expires,
    })
}

/// Signs `message` under `namespace` with the key in `file`, or without one with the usual key; `flag` is what the key was
/// given by.
///
/// # Errors
///
/// As those of [`sign`].
pub(crate) fn sign_message(
    namespace: Namespace,
    message: &[u8],
    file: Option<&Path>,
    flag: &str,
) -> Result<(PublicKey, Vec<u8>), String> {
    match key(file, flag)? {
        Key::Here(key) => {
            let signature = key.sign_message(namespace, message);
            Ok((key.public_key().clone(), signature.to_vec()))
        }
        Key::WithAgent(mut agent, key) => {
            let signature = agent.sign(&key, &namespace.to_sign(message));
            let signature = signature.map_err(|error| error.to_string())?;
            if !key.verifies_message(namespace, message, &signature) {
                return Err("ssh-agent has made a signature that is not the key's".to_owned());
            }
            Ok((key, signature))
        }
    }
}

/// Who can sign.
enum Key {
    Here(SigningKey),
    WithAgent(Agent, PublicKey),
}

fn key(file: Option<&Path>, flag: &str) -> Result<Key, String> {
    let path = match file {
        Some(file) => file.to_owned(),
        None => match usual_file() {
            Some(path) if path.exists() => path,
            usual => return only_key_of_agent(usual.as_deref(), flag),
        },
    };
    let at = path.display();
    let content = fs::read(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound if at.to_string().contains('=') => {
            format!("{flag}: {at} is no file; put entries before {flag}, or write {flag}=KEYFILE")
        }
        _ => format!("{flag}: {at}: {error}"),
    })?;
    if content.starts_with(b"ssh-") {
        let text = String::from_utf8_lossy(&content);
        let line = text.lines().next().unwrap_or_default();
        let key =
            PublicKey::from_openssh(line).map_err(|error| format!("{flag}: {at}: {error}"))?;
        return with_agent(
            key,
            &format!("{at} is the public half of a key"),
            &path,
            flag,
        );
    }
    match SigningKey::from_openssh(&content) {
        Ok(PrivateKeyFile::Plain(key)) => Ok(Key::Here(key)),
        Ok(PrivateKeyFile::Encrypted(key)) => {
            with_agent(key, &format!("{at} is encrypted"), &path, flag)
        }
        Ok(_) => Err(format!("{flag}: {at}: a key of a kind that is not known")),
        Err(error) => Err(format!("{flag}: {at}: {error}")),
    }
}

/// The key with which `ssh-keygen` begins.
fn usual_file() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty())?;
    Some(Path::new(&home).join(".ssh/id_ed25519"))
}

/// The agent signs with `key`, whose file says `why` this process cannot.
fn with_agent(key: PublicKey, why: &str, path: &Path, flag: &str) -> Result<Key, String> {
    let private = path.with_extension("");
    let private = private.display();
    let Some(mut agent) = agent(flag)? else {
        return Err(format!(
            "{flag}: {why}, and there is no ssh-agent to ask ({SOCKET} is not set): start one, and \
             `ssh-add {private}`"
        ));
    };
    let keys = agent.keys().map_err(|error| format!("{flag}: {error}"))?;
    // The agent's comment is the better one: an encrypted file shows none.
    match keys.into_iter().find(|held| held.id() == key.id()) {
        Some(held) => Ok(Key::WithAgent(agent, held)),
        None => Err(format!(
            "{flag}: {why}, and ssh-agent does not have it: `ssh-add {private}`"
        )),
    }
}

/// Some have their keys in an agent only; with one there is nothing to choose.
fn only_key_of_agent(usual: Option<&Path>, flag: &str) -> Result<Key, String> {
    let usual = usual.map_or_else(
        || "no home directory".into(),
        |usual| usual.to_string_lossy(),
    );
    let nothing = |agent: &str| {
        format!(
            "{flag}: no key ({usual} is not there, and {agent}): give one with {flag} KEYFILE, or make \
             one with `ssh-keygen -t ed25519`"
        )
    };
    let Some(mut agent) = agent(flag)? else {
        return Err(nothing(&format!("{SOCKET} is not set")));
    };
    let mut keys = agent.keys().map_err(|error| format!("{flag}: {error}"))?;
    match (keys.pop(), &*keys) {
        (Some(key), []) => Ok(Key::WithAgent(agent, key)),
        (None, _) => Err(nothing("ssh-agent has no Ed25519 key")),
        (Some(last), others) => {
            let names: Vec<String> = others.iter().chain([&last]).map(PublicKey::name).collect();
            Err(format!(
                "{flag}: ssh-agent has several keys ({}): say which with {flag} KEYFILE, the file of \
                 its public half will do",
                names.join(", ")
            ))
        }
    }
}

fn agent(flag: &str) -> Result<Option<Agent>, String> {
    Agent::connect().map_err(|error| format!("{flag}: {error}"))
}
