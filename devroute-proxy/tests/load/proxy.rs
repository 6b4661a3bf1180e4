//! The proxy in a process of its own, and what it takes.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::asking::Connection;

#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) max_connections: u64,
    admin: SocketAddr,
    /// The listener for the service's own requests, where there is one.
    pub(crate) outbound: Option<SocketAddr>,
    lines: Arc<AtomicU64>,
}

impl Proxy {
    /// A sidecar of foo in front of `upstream`.
    pub(crate) fn start(upstream: SocketAddr, flags: &[&str]) -> Self {
        let upstream = format!("http://{upstream}");
        let of_sidecar = [
            "--service",
            "foo",
            "--allow",
            "loopback",
            "--upstream",
            &upstream,
        ];
        Self::start_mode("sidecar", &of_sidecar, flags)
    }

    /// A process in `mode`.
    pub(crate) fn start_mode(mode: &str, of_mode: &[&str], flags: &[&str]) -> Self {
        let built = env!("CARGO_BIN_EXE_devroute").into();
        let mut child = Command::new(env::var_os("DEVROUTE_BIN").unwrap_or(built))
            .args([mode, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--workers", "2", "--log-format", "json"])
            .args(of_mode)
            .args(flags)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let started: Value = log
            .by_ref()
            .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
            .find(|line| line["message"] == format!("{mode} listens"))
            .unwrap();
        // What it logs from now on are the faults it is given.
        let lines = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&lines);
        thread::spawn(move || {
            log.for_each(|_line| {
                counted.fetch_add(1, Ordering::Relaxed);
            });
        });
        Self {
            child,
            lines,
            admin: started["admin"].as_str().unwrap().parse().unwrap(),
            outbound: started["outbound"].as_str().map(|it| it.parse().unwrap()),
            address: started["listen"].as_str().unwrap().parse().unwrap(),
            // A hub does not say.
            max_connections: started["max_connections"].as_u64().unwrap_or_default(),
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    /// The processor time it has had.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the name, which may hold anything: the 12th and the 13th, in hundredths of a second.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Lines that it has logged since it began to serve.
    pub(crate) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    /// A counter of its metrics.
    pub(crate) async fn sample(&self, sample: &str) -> u64 {
        let mut connection = Connection::http1(self.admin).await.unwrap();
        let scrape = connection.get("/metrics").await.unwrap().body;
        let scrape = String::from_utf8(scrape.into()).unwrap();
        let line = scrape.lines().find_map(|line| line.strip_prefix(sample));
        // What has counted nothing may have no line yet.
        line.map_or(0, |count| count.trim().parse().unwrap())
    }

    /// Open files.
    pub(crate) fn files(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        files.count()
    }

    /// Ends it as an operator would; whether it went well.
    pub(crate) fn stop(mut self) -> bool {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let signal = pid.map(|pid| kill_process(pid, Signal::TERM));
        signal.is_some_and(|signal| signal.is_ok())
            && self.child.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
