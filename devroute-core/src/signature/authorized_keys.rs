//! Whose contracts are obeyed: a file in the `authorized_keys` format of OpenSSH (sshd(8)).

use std::collections::HashMap;
use std::sync::Arc;

use super::key::PublicKey;

/// The keys of an `authorized_keys` file, those of the type `ssh-ed25519`.
///
/// A line that cannot be used is skipped, and told by [`skipped`](Self::skipped): a file is often one that serves
/// sshd too. Of the options in front of a key those that say what a login may do mean nothing here and are
/// ignored. Those that limit the key in a way that cannot be held to here (`from`, `expiry-time`), make it another
/// kind of key (`cert-authority`), or are not known make the line be skipped: a key never does more here than its
/// line allows.
///
/// ```
/// use devroute_core::signature::AuthorizedKeys;
///
/// let keys = AuthorizedKeys::parse(
///     b"# the team\n\
///       ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDHz9XpnTjH/7YMFd5nbDPAEuia+xNRj6Jr82WT/lOso alice@laptop\n\
///       ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 bob@laptop\n",
/// );
/// assert_eq!(keys.len(), 1);
/// assert_eq!(keys.skipped()[0].line(), 3);
/// ```
#[derive(Clone, Debug, Default)]
pub struct AuthorizedKeys {
    keys: HashMap<String, AuthorizedKey>,
    skipped: Vec<SkippedLine>,
}

/// A key, and what to call who has it.
#[derive(Clone, Debug)]
pub(super) struct AuthorizedKey {
    pub(super) key: PublicKey,
    pub(super) name: Arc<str>,
}

/// A line that has no key that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkippedLine {
    line: usize,
    reason: &'static str,
}

impl SkippedLine {
    /// Its number; the first line is 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// Why it is skipped.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

impl AuthorizedKeys {
    /// Reads the content of a file. Nothing in it is an error: what cannot be used authorizes nobody.
    #[must_use]
    pub fn parse(content: &[u8]) -> Self {
        let mut this = Self::default();
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            match std::str::from_utf8(line)
                .map_err(|_invalid| "not UTF-8")
                .and_then(key)
            {
                Ok(None) => {}
                Ok(Some(key)) => {
                    // The first line of a key is the one that counts, as for sshd.
                    this.keys.entry(key.id()).or_insert_with(|| AuthorizedKey {
                        name: key.name().into(),
                        key,
                    });
                }
                Err(reason) => this.skipped.push(SkippedLine {
                    line: index + 1,
                    reason,
                }),
            }
        }
        this
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether nobody is authorized.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The lines that have no key that can be used.
    #[must_use]
    pub fn skipped(&self) -> &[SkippedLine] {
        &self.skipped
    }

    pub(super) fn get(&self, id: &str) -> Option<&AuthorizedKey> {
        self.keys.get(id)
    }
}

/// Options that are about what a login may do.
const OF_LOGINS: [&str; 19] = [
    "agent-forwarding",
    "command",
    "environment",
    "no-agent-forwarding",
    "no-port-forwarding",
    "no-pty",
    "no-touch-required",
    "no-user-rc",
    "no-x11-forwarding",
    "permitlisten",
    "permitopen",
    "port-forwarding",
    "principals",
    "pty",
    "restrict",
    "tunnel",
    "user-rc",
    "verify-required",
    "x11-forwarding",
];

/// The key of a line; none in a blank line or a comment.
fn key(line: &str) -> Result<Option<PublicKey>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut rest = line;
    if !is_key_type(first(line)) {
        let end = end_of_options(line)?;
        let (options, key) = line.split_at_checked(end).unwrap_or((line, ""));
        check_options(options)?;
        rest = key.trim_start_matches([' ', '\t']);
    }
    match first(rest) {
        "ssh-ed25519" => match PublicKey::from_openssh(rest) {
            Ok(key) => Ok(Some(key)),
            Err(_malformed) => Err("not a key in the format of OpenSSH"),
        },
        kind if is_key_type(kind) => Err("only keys of the type ssh-ed25519 sign contracts"),
        _ => Err("no key"),
    }
}

fn first(text: &str) -> &str {
    text.split([' ', '\t']).next().unwrap_or_default()
}

fn is_key_type(token: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"]
        .iter()
        .any(|prefix| token.starts_with(prefix))
}

/// Where the options end: at the first blank outside quotes.
fn end_of_options(line: &str) -> Result<usize, &'static str> {
    let mut quotes = Quotes::default();
    for (index, character) in line.char_indices() {
        if !quotes.is_quoted(character) && matches!(character, ' ' | '\t') {
            return Ok(index);
        }
    }
    Err(if quotes.open {
        "a quote that is not closed"
    } else {
        "no key"
    })
}

fn check_options(options: &str) -> Result<(), &'static str> {
    let mut quotes = Quotes::default();
    let is_comma = |c: char| !quotes.is_quoted(c) && c == ',';
    for option in options.split(is_comma) {
        let name = option.split('=').next().unwrap_or_default();
        let name = name.to_ascii_lowercase();
        match &*name {
            "cert-authority" => return Err("certificates do not sign contracts"),
            "from" => return Err("the option `from` cannot be held to here"),
            "expiry-time" => return Err("the option `expiry-time` cannot be held to here"),
            name if OF_LOGINS.contains(&name) => {}
            _ => return Err("an option that is not known"),
        }
    }
    Ok(())
}

/// Where a quoted value is, as sshd has it: a quote behind a backslash is none, and a backslash behind another one is
/// as good as any.
#[derive(Default)]
struct Quotes {
    open: bool,
    after_backslash: bool,
}

impl Quotes {
    /// Whether `character`, the next one, is in quotes.
    fn is_quoted(&mut self, character: char) -> bool {
        if character == '"' && !self.after_backslash {
            self.open = !self.open;
        }
        self.after_backslash = character == '\\';
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDHz9XpnTjH/7YMFd5nbDPAEuia+xNRj6Jr82WT/lOso";

    fn one(line: &str) -> Result<String, &'static str> {
        let keys = AuthorizedKeys::parse(line.as_bytes());
        match (keys.keys.values().next(), keys.skipped()) {
            (Some(key), []) => Ok(key.name.to_string()),
            (None, [skipped]) => Err(skipped.reason()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_comment_names_who_has_the_key() {
        assert_eq!(one(&format!("{KEY} alice@laptop")).unwrap(), "alice@laptop");
        assert_eq!(
            one(&format!("\t{KEY}\talice  # work \r")).unwrap(),
            "alice  # work"
        );
        assert!(one(KEY).unwrap().starts_with("SHA256:"));
        assert_eq!(one(&format!("{KEY} a\x1b[2Jb")).unwrap(), "a\u{fffd}[2Jb");
        assert_eq!(
            one(&format!("{KEY} {}", "x".repeat(500))).unwrap().len(),
            128
        );
    }

    #[test]
    fn options_of_logins_are_ignored() {
        for options in [
            "restrict",
            "no-pty,no-X11-forwarding,Restrict",
            r#"command="echo \"a b\", c",no-pty"#,
            r#"environment="A=from",permitopen="host:80""#,
            r#"command="a🦀\"é, b",no-pty"#,
        ] {
            assert_eq!(
                one(&format!("{options} {KEY} alice")).unwrap(),
                "alice",
                "{options}"
            );
        }
    }

    #[test]
    fn options_that_limit_a_key_are_not_overlooked() {
        for (options, reason) in [
            (r#"from="10.0.0.0/8""#, "from"),
            (r#"no-pty,FROM="a,b""#, "from"),
            (r#"command="x,\"",from="a""#, "from"),
            // Two backslashes hide no more than one: the value is `a",environment=`.
            (
                r#"command="a\\",environment=",from="a",command="\\"""#,
                "from",
            ),
            (r#"command="C:\\""#, "quote"),
            // Whatever stands behind a backslash that is no quote, it ends what the backslash does.
            (r#"command="\x",from="a""#, "from"),
            (r#"command="\é",from="a""#, "from"),
            (r#"command="\🦀",from="a""#, "from"),
            ("expiry-time=\"20300101\"", "expiry-time"),
            ("cert-authority", "certificates"),
            ("restrict,something-new", "not known"),
            ("restrict,", "not known"),
            (r#"command="open"#, "quote"),
        ] {
            let error = one(&format!("{options} {KEY} alice")).unwrap_err();
            assert!(error.contains(reason), "{options}: {error}");
        }
    }

    #[test]
    fn a_file_without_keys_authorizes_nobody() {
        assert!(AuthorizedKeys::parse(b"# nobody yet\nbob\n").is_empty());
        assert!(!AuthorizedKeys::parse(KEY.as_bytes()).is_empty());
    }

    #[test]
    fn what_is_no_ed25519_key_is_skipped_by_its_line() {
        for (line, reason) in [
            ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 bob", "only keys"),
            ("sk-ssh-ed25519@openssh.com AAAA bob", "only keys"),
            ("restrict ecdsa-sha2-nistp256 AAAA bob", "only keys"),
            ("ssh-ed25519 AAAA bob", "not a key"),
            ("ssh-ed25519", "not a key"),
            // The type in front and the one inside have to be one.
            (
                "ssh-ed25519 AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 bob",
                "not a key",
            ),
            ("bob", "no key"),
            ("restrict bob", "no key"),
        ] {
            let error = one(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
        let file = format!("\n# team\n{KEY} alice\r\n{KEY} again\nbob\n");
        let keys = AuthorizedKeys::parse(&file.into_bytes());
        let names: Vec<&str> = keys.keys.values().map(|key| &*key.name).collect();
        assert_eq!(names, ["alice"]);
        assert_eq!(keys.skipped()[0].line(), 5);
        let keys = AuthorizedKeys::parse(b"\xff\xfe\nbob");
        let lines: Vec<usize> = keys.skipped().iter().map(SkippedLine::line).collect();
        assert_eq!(lines, [1, 2]);
    }
}
