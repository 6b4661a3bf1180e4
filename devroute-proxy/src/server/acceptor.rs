//! Accepts for all workers, in the thread of the first one.
//!
//! A thread of its own would have to be woken for each connection, and to wake a worker: where every
//! request comes on a new connection that is a twentieth of what it costs. What the first worker serves
//! itself does not even leave its runtime.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::accept::accept;
use super::admission::{Admission, Place};
use super::lifetime::Draining;
use super::worker::Accepted;
use crate::metrics::{ConnectionMetrics, Metrics};
use crate::shutdown::Signal;

/// The accept loop, and whom it gives connections.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) admission: Admission,
    pub(super) metrics: Arc<Metrics>,
    /// Those that are let in only to be told that they are one too many.
    pub(super) refused: Arc<ConnectionMetrics>,
    /// The workers but the one that this runs in.
    pub(super) others: Vec<mpsc::UnboundedSender<Accepted>>,
    pub(super) stop: Stop,
}

/// When it ends.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) signal: Signal,
    /// How long connections are still taken after that.
    pub(super) delay: Duration,
    pub(super) draining: Arc<Draining>,
    /// Never sent to: it ends with whoever waits for the server.
    pub(super) wanted: oneshot::Receiver<()>,
}

impl Stop {
    async fn begun(self) {
        let signal = async {
            self.signal.begun().await;
            sleep(self.delay).await;
        };
        tokio::select! {
            () = signal => {}
            _unwanted = self.wanted => {}
        }
        // Before the listener closes: whoever has seen that hears from every answer that it is the
        // last one.
        self.draining.begin();
    }
}

impl Acceptor {
    /// Gives one connection after the other to the next worker in turn, which is this one for those
    /// that are `taken`.
    pub(super) async fn run(
        self,
        listener: TcpListener,
        mut taken: impl FnMut(TcpStream, SocketAddr, Place),
    ) {
        let Self {
            admission,
            metrics,
            refused,
            others,
            stop,
        } = self;
        // Its own is the first.
        let mut turn = 0_usize;
        accept(listener, stop.begun(), &metrics, |stream, client| {
            let beyond = admission.beyond(client.ip());
            if let Some(limit) = beyond {
                refused.limit_reached(limit);
            }
            let Some(place) = admission.admit(client.ip(), beyond.is_some()) else {
                return;
            };
            let next = turn.checked_sub(1).and_then(|other| others.get(other));
            turn = if turn < others.len() { turn + 1 } else { 0 };
            let Some(next) = next else {
                return taken(stream, client, place);
            };
            let Ok(stream) = stream.into_std() else {
                return;
            };
            let given = next.send(Accepted {
                stream,
                client,
                place,
            });
            // A worker that has died takes nothing; this one goes on.
            if let Err(mpsc::error::SendError(returned)) = given {
                if let Ok(stream) = TcpStream::from_std(returned.stream) {
                    taken(stream, client, returned.place);
                }
            }
        })
        .await;
    }
}
