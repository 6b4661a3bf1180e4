//! The built binary, in an environment that holds nothing but what the test puts there.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use serde_json::Value;

use super::PATIENCE;

#[derive(Debug)]
pub(crate) struct Devroute(Command);

/// How it ended, and what it said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Devroute {
    /// With these arguments, separated by blanks.
    pub(crate) fn new(arguments: &str) -> Self {
        Self::with(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    pub(crate) fn with(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_devroute"));
        command.args(arguments).env_clear().stdin(Stdio::null());
        Self(command)
    }

    /// With these listeners passed to it by the convention of socket activation.
    pub(crate) fn activated(arguments: &str, listeners: &[&TcpListener]) -> Self {
        // A shell moves them to where they belong: to do that here would take unsafe code.
        let script = r#"
            LISTEN_FDS=$1 LISTEN_PID=$$; export LISTEN_FDS LISTEN_PID; shift
            exec 3<&0 4<&1 0</dev/null 1<&2
            exec "$@"
        "#;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script, "sh", &listeners.len().to_string()])
            .arg(env!("CARGO_BIN_EXE_devroute"))
            .args(arguments.split_whitespace())
            .env_clear();
        let mut descriptors = listeners
            .iter()
            .map(|listener| Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
        command.stdin(descriptors.next().unwrap());
        command.stdout(descriptors.next().unwrap_or_else(Stdio::null));
        Self(command)
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    pub(crate) fn directory(mut self, path: &Path) -> Self {
        self.0.current_dir(path);
        self
    }

    pub(crate) fn stdin(mut self, file: std::fs::File) -> Self {
        self.0.stdin(file);
        self
    }

    /// Runs it to its end, which is soon.
    pub(crate) fn run(mut self) -> Output {
        let child = self
            .0
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id().to_string();
        let (ended, watch) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if watch.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-s", "KILL", &pid]).status();
            }
        });
        let output = child.wait_with_output().unwrap();
        drop(ended);
        watchdog.join().unwrap();
        Output {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts a server, and waits until it says where it listens.
    pub(crate) fn serve(mut self) -> Running {
        let mut child = self.0.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let started: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let address = started["listen"].as_str().unwrap().parse().unwrap();
        Running {
            child,
            log,
            started,
            address,
        }
    }

    /// Starts it, with its standard output to be read.
    pub(crate) fn spawn(mut self) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut child = self.0.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        (child, out)
    }
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    /// Its first log line.
    pub(crate) started: Value,
    pub(crate) address: SocketAddr,
}

impl Running {
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// The next line of the log.
    pub(crate) fn log_line(&mut self) -> Value {
        let mut line = String::new();
        self.log.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Waits for its end; the status, and the rest of the log.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
