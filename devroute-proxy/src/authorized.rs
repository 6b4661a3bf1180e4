//! Whose contracts are obeyed: a file of keys, and how it is replaced while the process runs.
//!
//! The file is read again twice a second and compared by content, since neither the time of a file nor
//! a notification survives the symbolic links that Kubernetes mounts files by. A key that is gone from
//! it is refused within a second, also where a contract of its was good a moment ago. A file that
//! cannot be read authorizes nobody, as with sshd: to delete it takes everybody's leave. Replace the
//! file, rather than write into it: what is read in between may lack lines.
//!
//! ```
//! use devroute_proxy::authorized::AuthorizedFile;
//!
//! let error = AuthorizedFile::load("nowhere".as_ref()).unwrap_err();
//! assert!(error.to_string().starts_with("nowhere: "));
//! ```

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use devroute_tower::core::signature::{AuthorizedKeys, Verifier};

/// How often the file is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// A file in the `authorized_keys` format of OpenSSH. Clones share what was read.
#[derive(Clone)]
pub struct AuthorizedFile {
    path: PathBuf,
    verifier: Verifier,
    /// What was in the file when it was last looked at; nothing where it could not be read.
    seen: Arc<Mutex<Option<Vec<u8>>>>,
}

impl AuthorizedFile {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// When it cannot be read. One that has no key is no error: nobody is authorized then.
    pub fn load(path: &Path) -> Result<Self, AuthorizedFileError> {
        let content = read(path)?;
        Ok(Self {
            path: path.to_owned(),
            verifier: Verifier::new(AuthorizedKeys::parse(&content)),
            seen: Arc::new(Mutex::new(Some(content))),
        })
    }

    /// Sets how far away the expiry of a contract may be; 24 hours by default.
    #[must_use]
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.verifier = self.verifier.max_lifetime(lifetime);
        self
    }

    /// What obeys the keys that are in the file now.
    #[must_use]
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Reads the file again; the keys in it, if anything had changed.
    ///
    /// # Errors
    ///
    /// When it cannot be read any more, once: nobody is authorized from then on.
    pub fn reload(&self) -> Result<Option<AuthorizedKeys>, AuthorizedFileError> {
        let read = read(&self.path);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(content) if seen.as_ref() == Some(&content) => Ok(None),
            Ok(content) => {
                let keys = AuthorizedKeys::parse(&content);
                self.verifier.replace_keys(keys.clone());
                *seen = Some(content);
                Ok(Some(keys))
            }
            Err(_) if seen.is_none() => Ok(None),
            Err(error) => {
                self.verifier.replace_keys(AuthorizedKeys::default());
                *seen = None;
                Err(error)
            }
        }
    }

    /// Says what an operator should know about the file, and `what` it is for.
    pub(crate) fn announce(&self, what: &'static str) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = AuthorizedKeys::parse(seen.as_deref().unwrap_or_default());
        self.announce_keys(&keys, what);
    }

    fn announce_keys(&self, keys: &AuthorizedKeys, what: &'static str) {
        let file = self.path.display();
        tracing::info!(%file, keys = keys.len(), "{what}");
        for skipped in keys.skipped() {
            let (line, reason) = (skipped.line(), skipped.reason());
            tracing::warn!(%file, line, reason, "a line of the authorized keys is skipped");
        }
        if keys.is_empty() {
            tracing::warn!(%file, "there is no key in it: every contract is refused");
        }
    }

    /// Reloads twice a second, to the end of the runtime: while the process drains, a key that is gone is gone.
    pub(crate) async fn watch(self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let file = self.clone();
            // It may be on a network; the accept loop must not wait for it.
            match tokio::task::spawn_blocking(move || file.reload()).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(keys))) => {
                    self.announce_keys(&keys, "the authorized keys were replaced");
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "every contract is refused until the file is back");
                }
                Err(error) => tracing::error!(%error, "the authorized keys were not looked at"),
            }
        }
    }
}

impl fmt::Debug for AuthorizedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizedFile")
            .field("path", &self.path)
            .field("keys", &self.verifier.keys())
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, AuthorizedFileError> {
    std::fs::read(path).map_err(|source| AuthorizedFileError {
        path: path.to_owned(),
        source,
    })
}

/// Why a file of keys cannot be used; names the file.
#[derive(Debug)]
pub struct AuthorizedFileError {
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for AuthorizedFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, source) = (self.path.display(), &self.source);
        write!(f, "{path}: it cannot be read: {source}")
    }
}

impl StdError for AuthorizedFileError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = include_bytes!("../../devroute-core/tests/vectors/alice.pub");

    #[test]
    fn what_is_in_the_file_counts_and_a_file_that_is_gone_has_nobody() {
        let name = format!("devroute-authorized-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, KEY).unwrap();
        let file = AuthorizedFile::load(&path).unwrap();
        assert_eq!(file.verifier().keys(), 1);
        assert!(file.reload().unwrap().is_none(), "it is the same");

        std::fs::write(&path, [KEY, b"bob"].concat()).unwrap();
        let keys = file.reload().unwrap().unwrap();
        assert_eq!((keys.len(), keys.skipped().len()), (1, 1));

        std::fs::write(&path, b"").unwrap();
        assert!(file.reload().unwrap().unwrap().is_empty());
        assert_eq!(file.verifier().keys(), 0);

        std::fs::write(&path, KEY).unwrap();
        file.reload().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(file.reload().is_err());
        assert!(file.reload().unwrap().is_none(), "it is said once");
        assert_eq!(file.verifier().keys(), 0);
        std::fs::write(&path, KEY).unwrap();
        assert_eq!(
            file.reload().unwrap().unwrap().len(),
            1,
            "and it may come back"
        );
        std::fs::remove_file(&path).unwrap();
    }
}
