//! The proxy in a process of its own, and what it takes.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;

#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) max_connections: u64,
}

impl Proxy {
    /// A sidecar of foo in front of `upstream`.
    pub(crate) fn start(upstream: SocketAddr, flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_devroute"))
            .args(["sidecar", "--service", "foo", "--listen", "127.0.0.1:0"])
            .args(["--admin", "off", "--allow", "loopback", "--workers", "2"])
            .args(["--log-format", "json", "--upstream"])
            .arg(format!("http://{upstream}"))
            .args(flags)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let started: Value = log
            .by_ref()
            .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
            .find(|line| line["message"] == "sidecar listens")
            .unwrap();
        // What it logs from now on are the faults it is given.
        thread::spawn(move || log.for_each(drop));
        Self {
            child,
            address: started["listen"].as_str().unwrap().parse().unwrap(),
            max_connections: started["max_connections"].as_u64().unwrap(),
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    /// Open files.
    pub(crate) fn files(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        files.count()
    }

    /// Ends it as an operator would; whether it went well.
    pub(crate) fn stop(mut self) -> bool {
        let pid = self.child.id().to_string();
        let signal = Command::new("kill").args(["-s", "TERM", &pid]).status();
        signal.is_ok() && self.child.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
