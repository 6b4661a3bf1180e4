//! The agent of OpenSSH that this user runs: which keys it holds, and its signature with one of them
//! (draft-ietf-sshm-ssh-agent; two of its messages).
//!
//! By hand, because the crates that speak it bring every kind of key there is, RSA and the NIST curves
//! included, for those two.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use devroute_tower::core::signature::PublicKey;

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// The longest answer that is read, as OpenSSH has it.
const MAX_ANSWER: u32 = 256 * 1024;
/// How long an agent may take: it may ask its user first.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the variable is that names the agent's socket.
pub(crate) const SOCKET: &str = "SSH_AUTH_SOCK";

/// A connection to an agent.
#[derive(Debug)]
pub(crate) struct Agent(UnixStream);

impl Agent {
    /// Connects to the agent that the environment names; none where it names none.
    ///
    /// # Errors
    ///
    /// When nothing answers there.
    pub(crate) fn connect() -> Result<Option<Self>, AgentError> {
        let Some(path) = std::env::var_os(SOCKET).filter(|path| !path.is_empty()) else {
            return Ok(None);
        };
        let connect = || {
            let stream = UnixStream::connect(&path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Self(stream))
        };
        connect().map(Some).map_err(|error: std::io::Error| {
            AgentError(format!("{} ({SOCKET}): {error}", path.to_string_lossy()))
        })
    }

    /// The keys that it holds and that can sign contracts.
    ///
    /// # Errors
    ///
    /// When it does not answer, or not by the protocol.
    pub(crate) fn keys(&mut self) -> Result<Vec<PublicKey>, AgentError> {
        let answer = self.ask(&[REQUEST_IDENTITIES])?;
        identities(&answer).ok_or_else(AgentError::protocol)
    }

    /// The signature of `message` with `key`: 64 bytes, if it is what the agent says it is.
    ///
    /// # Errors
    ///
    /// When it does not answer, or will not sign.
    pub(crate) fn sign(&mut self, key: &PublicKey, message: &[u8]) -> Result<Vec<u8>, AgentError> {
        let mut request = vec![SIGN_REQUEST];
        push_string(&mut request, &key.to_blob());
        push_string(&mut request, message);
        // No flags: they are about RSA.
        request.extend(0_u32.to_be_bytes());
        let answer = self.ask(&request)?;
        match signature(&answer) {
            Some(signature) => Ok(signature),
            None => Err(AgentError("it does not sign with this key".to_owned())),
        }
    }

    fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, AgentError> {
        let mut ask = || {
            let mut message = Vec::with_capacity(request.len() + 4);
            push_string(&mut message, request);
            self.0.write_all(&message)?;
            let mut length = [0; 4];
            self.0.read_exact(&mut length)?;
            let length = u32::from_be_bytes(length);
            if length > MAX_ANSWER {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            let mut answer = Vec::new();
            let stream: &UnixStream = &self.0;
            stream.take(length.into()).read_to_end(&mut answer)?;
            Ok(answer)
        };
        ask().map_err(|error: std::io::Error| AgentError(error.to_string()))
    }
}

fn identities(answer: &[u8]) -> Option<Vec<PublicKey>> {
    let (kind, rest) = answer.split_first()?;
    let (count, mut rest) = rest.split_first_chunk()?;
    if *kind != IDENTITIES_ANSWER {
        return None;
    }
    let mut keys = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (blob, comment) = (string(&mut rest)?, string(&mut rest)?);
        // The others are of other kinds.
        keys.extend(PublicKey::from_blob(
            blob,
            &String::from_utf8_lossy(comment),
        ));
    }
    Some(keys)
}

fn signature(answer: &[u8]) -> Option<Vec<u8>> {
    let (kind, mut rest) = answer.split_first()?;
    let mut signature = string(&mut rest).filter(|_| *kind == SIGN_RESPONSE)?;
    let algorithm = string(&mut signature)?;
    let bytes = string(&mut signature)?;
    (algorithm == b"ssh-ed25519").then(|| bytes.to_vec())
}

/// A string of SSH: its length, and as many bytes (RFC 4251, section 5).
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (string, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(string)
}

fn push_string(message: &mut Vec<u8>, string: &[u8]) {
    // A contract and a key have some kilobytes.
    let length = u32::try_from(string.len()).unwrap_or(u32::MAX);
    message.extend(length.to_be_bytes());
    message.extend(string);
}

/// Why an agent was of no use.
#[derive(Debug)]
pub(crate) struct AgentError(String);

impl AgentError {
    fn protocol() -> Self {
        Self("it does not answer as an agent does".to_owned())
    }
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ssh-agent: {}", self.0)
    }
}

impl std::error::Error for AgentError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_or_no_answer_is_nothing() {
        let key = include_str!("../../devroute-core/tests/vectors/alice.pub");
        let key = PublicKey::from_openssh(key).unwrap();
        let mut answer = vec![IDENTITIES_ANSWER, 0, 0, 0, 2];
        push_string(&mut answer, b"\0\0\0\x07ssh-rsa");
        push_string(&mut answer, b"of another kind");
        push_string(&mut answer, &key.to_blob());
        push_string(&mut answer, b"alice@laptop");
        assert_eq!(identities(&answer), Some(vec![key]));
        for length in 0..answer.len() {
            assert_eq!(identities(&answer[..length]), None, "{length}");
        }
        answer[0] = SIGN_RESPONSE;
        assert_eq!(identities(&answer), None);

        let mut inner = Vec::new();
        push_string(&mut inner, b"ssh-ed25519");
        push_string(&mut inner, &[7; 64]);
        let mut answer = vec![SIGN_RESPONSE];
        push_string(&mut answer, &inner);
        assert_eq!(signature(&answer), Some(vec![7; 64]));
        for length in 0..answer.len() {
            assert_eq!(signature(&answer[..length]), None, "{length}");
        }
        assert_eq!(signature(&[5]), None, "SSH_AGENT_FAILURE");
    }
}
