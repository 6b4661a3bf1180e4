//! Files of one test, gone when it ends; and a key for signatures.

use std::fs;
use std::path::{Path, PathBuf};

/// A private key of these tests alone, in the format of OpenSSH.
pub(crate) const ALICE: &[u8] = include_bytes!("../../../../devroute-core/tests/vectors/alice");
/// Its line in a file of authorized keys.
pub(crate) const ALICE_PUB: &str =
    include_str!("../../../../devroute-core/tests/vectors/alice.pub");

/// A directory of one test.
#[derive(Debug)]
pub(crate) struct Desk(pub(crate) PathBuf);

impl Desk {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        // As an editor does, and whoever mounts files in a pod.
        fs::write(self.0.join("new"), content).unwrap();
        fs::rename(self.0.join("new"), &path).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
