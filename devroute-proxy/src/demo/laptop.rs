//! The laptop: a process of its own, so that the reader can really kill it.
//!
//! It ends with the demo in any case. Its standard input is a pipe from there: the end of that pipe
//! is the end of the demo, however it died.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::process::{ExitCode, Stdio};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::service::Service;
use crate::config::Bind;
use crate::{print, server, shutdown};

/// The laptop's process, seen from the demo.
#[derive(Debug)]
pub(super) struct Laptop {
    child: Child,
    /// Held apart from the child, which would close it as soon as somebody waits for its end.
    _lifeline: ChildStdin,
    /// Where its `B` listens.
    pub(super) address: SocketAddr,
    /// Its process id.
    pub(super) pid: u32,
}

impl Laptop {
    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    ///
    /// When this program cannot be started again, or does not listen.
    pub(super) async fn start(listen: SocketAddr, next: SocketAddr) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "demo-laptop",
                "--listen",
                &listen.to_string(),
                "--next",
                &next.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let lifeline = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await?;
        let address = line.trim().parse().map_err(|_not_an_address| {
            io::Error::other("the laptop's process ended before it listened")
        })?;
        let pid = child.id().unwrap_or_default();
        Ok(Self {
            child,
            _lifeline: lifeline,
            address,
            pid,
        })
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When the system refuses to.
    pub(super) async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Waits until somebody has killed it.
    pub(super) async fn gone(&mut self) {
        let _ = self.child.wait().await;
    }
}

/// What runs in the laptop's process: `B`, until the demo ends or somebody kills it.
#[must_use]
pub fn run(listen: SocketAddr, next: SocketAddr) -> ExitCode {
    // A thread, because a runtime would wait for this read at its own end. It starts first: whatever
    // goes wrong below, this process does not outlive the demo.
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    runtime.block_on(async {
        let bound = server::bind(Bind::Address(listen)).await;
        match bound.and_then(|listener| Ok((listener.local_addr()?, listener))) {
            Ok((address, listener)) => {
                print::line(address);
                let service = Service {
                    name: "b",
                    says: "B (laptop)",
                    next: Some(next),
                };
                let (_running, signal) = shutdown::channel();
                service.serve(listener, signal).await;
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error),
        }
    })
}

fn failed(error: &io::Error) -> ExitCode {
    print::error(format_args!("devroute: the laptop's B: {error}"));
    ExitCode::FAILURE
}
