//! Listeners that were opened for this process by whoever started it: socket activation.
//!
//! The convention is that of sd_listen_fds(3): descriptors from 3 on, their number in `LISTEN_FDS`, and
//! in `LISTEN_PID` whom they are for. The listener lives in systemd, or in whatever holds it, and not in
//! the process that accepts from it: two processes can accept from the same queue while one replaces
//! the other, and none of those who wait in it is lost.

use std::io;
use std::sync::{LazyLock, Mutex, PoisonError};

use listenfd::ListenFd;
use tokio::net::TcpListener;

/// Of the process, as the descriptors are: each can be taken once.
static SOCKETS: LazyLock<Mutex<ListenFd>> = LazyLock::new(|| Mutex::new(ListenFd::from_env()));

/// Whether there are any.
pub(crate) fn are_there() -> bool {
    sockets(|sockets| sockets.len() > 0)
}

/// Takes the listener with this number, counted from 0.
///
/// # Errors
///
/// When the descriptor is no TCP socket.
pub(crate) fn take(index: usize) -> io::Result<Option<TcpListener>> {
    let Some(listener) = sockets(|sockets| sockets.take_tcp_listener(index))? else {
        return Ok(None);
    };
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).map(Some)
}

fn sockets<T>(with: impl FnOnce(&mut ListenFd) -> T) -> T {
    with(&mut SOCKETS.lock().unwrap_or_else(PoisonError::into_inner))
}
