//! What router and sidecar share: their listeners, their counters, and their life from the first
//! connection to the end of the drain.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use devroute_tower::ClientInfo;
use devroute_tower::transport::Connects;
use http::{Request, Response};
use hyper::body::Body;
use tokio::net::TcpListener;
use tower_service::Service;

use crate::admin::Admin;
use crate::config::{Bind, ProcessConfig, RerouteConfig};
use crate::files;
use crate::machine;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::records::Records;
use crate::server::{self, BoxError, Drained, Limits, Options, RequestBody, inherited};
use crate::shutdown::{self, Signal};
use crate::stack::Shared;

/// A process that listens, and does not serve yet.
///
/// It listens before anything else is made, because its own addresses belong in the policy: a
/// contract that names the proxy itself would loop.
#[derive(Debug)]
pub(crate) struct Process {
    config: ProcessConfig,
    listener: TcpListener,
    admin: Option<TcpListener>,
    outbound: Option<TcpListener>,
    pub(crate) address: SocketAddr,
    pub(crate) admin_address: Option<SocketAddr>,
    /// Where the application's own requests come in.
    pub(crate) outbound_address: Option<SocketAddr>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) records: Arc<Records>,
    /// The connections of clients that it takes at a time.
    pub(crate) max_connections: usize,
    /// Whether requests are told of their TLS session.
    pub(crate) channel_binding: bool,
}

impl Process {
    /// Opens the listeners of `config`, and one at `outbound`.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on.
    pub(crate) async fn bind(
        mode: &'static str,
        config: &ProcessConfig,
        outbound: Option<SocketAddr>,
    ) -> Result<Self, ServeError> {
        let failed = |source| match config.listen {
            Bind::Address(address) => ServeError::listener(address, source),
            Bind::Everywhere(port) => ServeError::listener(format_args!("port {port}"), source),
            Bind::Inherited => ServeError::new("cannot use the socket of LISTEN_FDS", source),
        };
        let listener = listener(0, config.listen, config.reuse_port);
        let listener = listener.await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (admin, admin_address) =
            another(1, config.admin, config.reuse_port, ServeError::admin).await?;
        let (outbound, outbound_address) =
            another(2, outbound, config.reuse_port, ServeError::outbound).await?;
        Ok(Self {
            metrics: Metrics::new(mode, config.workers.get()),
            records: Arc::default(),
            max_connections: possible(
                config.limits.connections,
                if outbound.is_some() { 2 } else { 1 },
            ),
            channel_binding: false,
            config: config.clone(),
            listener,
            admin,
            outbound,
            address,
            admin_address,
            outbound_address,
        })
    }

    /// What the stacks of all workers share, with a policy that knows this process's own listeners.
    pub(crate) fn shared(&self, reroute: &RerouteConfig) -> Shared {
        let mut policy = reroute.policy.clone();
        self.metrics.add_connects(reroute.connects.clone());
        let own_listeners: Vec<SocketAddr> = [
            Some(self.address),
            self.admin_address,
            self.outbound_address,
        ]
        .into_iter()
        .flatten()
        .collect();
        for &address in &own_listeners {
            policy = policy.own_listener(address);
        }
        if own_listeners
            .iter()
            .any(|address| address.ip().is_unspecified())
        {
            match machine::addresses() {
                Ok(addresses) => {
                    for address in addresses {
                        policy = policy.own_address(address.ip);
                    }
                }
                // The transport still sees a connection that ends in this process.
                Err(error) => tracing::warn!(%error, "cannot find the addresses of this machine"),
            }
        }
        Shared {
            metrics: Arc::clone(&self.metrics),
            records: Arc::clone(&self.records),
            policy,
            own_listeners,
            forwards: Connects::new(),
            router: None,
        }
    }

    /// Says what an operator should know about the TLS to targets before one asks why it fails.
    pub(crate) fn announce(&self, reroute: &RerouteConfig) {
        match &reroute.tls {
            Some(tls) if tls.accepts_any() => {
                tracing::warn!("certificates of targets are not looked at (target-insecure)");
            }
            Some(tls) if tls.trusts_nobody() => tracing::debug!(
                "this machine names no certificate authority: https:// targets need target-ca"
            ),
            _ => {}
        }
    }

    /// Keeps up with the file of authorized keys, where there is one.
    pub(crate) fn watch_keys(&self, reroute: &RerouteConfig) {
        if let Some(file) = &reroute.signatures {
            file.announce("contracts have to be signed");
            self.metrics.add_verifier(file.verifier().clone());
            tokio::spawn(file.clone().watch());
        }
    }

    /// Takes the listener for the application's own requests, and how it is to be served.
    ///
    /// It begins to drain when everything else has: until then the application needs it.
    pub(crate) fn take_outbound(&mut self) -> Option<(TcpListener, Options)> {
        let mut options = self.options();
        options.tls = None;
        options.drain.delay = Duration::ZERO;
        // That protects the service from what is sent to it.
        options.limits.body = None;
        Some((self.outbound.take()?, options))
    }

    /// How its listener is served.
    pub(crate) fn options(&self) -> Options {
        let ProcessConfig {
            timers,
            limits,
            half_close,
            drain,
            workers,
            tls,
            ..
        } = &self.config;
        Options {
            workers: *workers,
            timers: *timers,
            limits: Limits {
                connections: Some(self.max_connections),
                ..*limits
            },
            half_close: *half_close,
            drain: *drain,
            tls: tls.as_ref().map(|tls| tls.certificates.clone()),
            channel_binding: self.channel_binding,
        }
    }

    /// Serves until `signal`, drains, and says what was left. What `beside` serves is told to drain
    /// after that.
    ///
    /// # Errors
    ///
    /// When a worker cannot be started.
    pub(crate) async fn serve<M, C, S, B, F>(
        mut self,
        title: String,
        signal: Signal,
        make: M,
        beside: impl FnOnce(Signal) -> F,
    ) -> Result<Drained, ServeError>
    where
        F: Future<Output = io::Result<Drained>>,
        M: Fn(Arc<WorkerMetrics>) -> C + Send + Sync + 'static,
        C: Fn(ClientInfo) -> S + 'static,
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (stop_admin, admin_stopped) = shutdown::channel();
        let admin = self.admin.take().map(|listener| {
            let (metrics, records) = (Arc::clone(&self.metrics), Arc::clone(&self.records));
            let admin = Admin {
                title,
                metrics,
                records,
                signal: signal.clone(),
            };
            tokio::spawn(admin.serve(listener, admin_stopped))
        });

        if let Some(tls) = &self.config.tls {
            let certificates = tls.certificates.clone();
            tokio::spawn(certificates.watch(tls.reload, signal.clone()));
        }
        let (stop_beside, beside_stopped) = shutdown::channel();
        let options = self.options();
        let served = server::serve(self.listener, options, self.metrics, signal, make);
        let served = async {
            let drained = served.await;
            stop_beside.shut_down();
            drained
        };
        let (drained, beside) = tokio::try_join!(served, beside(beside_stopped))
            .map_err(|error| ServeError::new("cannot start a worker", error))?;
        let drained = Drained {
            abandoned: drained.abandoned + beside.abandoned,
        };

        stop_admin.shut_down();
        if let Some(admin) = admin {
            let _ = admin.await;
        }
        match drained.abandoned {
            0 => tracing::info!("drained"),
            abandoned => tracing::warn!(abandoned, "connections were cut at the end of the drain"),
        }
        Ok(drained)
    }
}

/// The listener that was passed to this process in this place, or a new one.
async fn listener(index: usize, bind: Bind, shared: bool) -> io::Result<TcpListener> {
    if let Some(listener) = inherited::take(index)? {
        return Ok(listener);
    }
    if shared {
        server::bind_shared(bind).await
    } else {
        server::bind(bind).await
    }
}

/// The listener in this place and its address, where one is wanted.
async fn another(
    index: usize,
    wanted: Option<SocketAddr>,
    shared: bool,
    failed: fn(SocketAddr, io::Error) -> ServeError,
) -> Result<(Option<TcpListener>, Option<SocketAddr>), ServeError> {
    let Some(wanted) = wanted else {
        return Ok((None, None));
    };
    let failed = |source| failed(wanted, source);
    let listener = listener(index, Bind::Address(wanted), shared)
        .await
        .map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((Some(listener), Some(address)))
}

/// As many connections as there may be, or what the limit of open files leaves room for.
///
/// Each of `listeners` may have as many.
fn possible(wanted: Option<usize>, listeners: usize) -> usize {
    let room = files::allow_all().map_or(usize::MAX, files::room);
    let Some(wanted) = wanted else {
        // A connection may need a second one, to who answers it.
        return (room / (2 * listeners)).clamp(1, Limits::CONNECTIONS);
    };
    if room < wanted {
        tracing::warn!(
            room,
            wanted,
            "the limit of open files leaves room for fewer connections than allowed"
        );
    }
    wanted.min(room.max(1))
}

/// Why a process could not start or go on; says what to do about it.
#[derive(Debug)]
pub struct ServeError {
    what: String,
    source: io::Error,
    help: &'static str,
}

impl ServeError {
    pub(crate) fn new(what: impl Into<String>, source: io::Error) -> Self {
        Self {
            what: what.into(),
            source,
            help: "",
        }
    }

    fn listener(wanted: impl fmt::Display, source: io::Error) -> Self {
        let help = match source.kind() {
            io::ErrorKind::AddrInUse => "; choose another address with --listen ADDR",
            io::ErrorKind::AddrNotAvailable => {
                "; no network interface here has this address: 0.0.0.0 and [::] are all of them"
            }
            io::ErrorKind::PermissionDenied => "; a port above 1023 needs no privilege",
            _ => "",
        };
        let mut error = Self::new(format!("cannot listen on {wanted}"), source);
        error.help = help;
        error
    }

    fn outbound(wanted: SocketAddr, source: io::Error) -> Self {
        Self::new(
            format!("cannot listen on {wanted} (outbound listener)"),
            source,
        )
    }

    fn admin(wanted: SocketAddr, source: io::Error) -> Self {
        let mut error = Self::new(
            format!("cannot listen on {wanted} (admin listener)"),
            source,
        );
        error.help = "; choose another address with --admin ADDR, or none with --admin off";
        error
    }

    /// Wraps the failure to set up the process around its servers.
    #[must_use]
    pub fn setup(source: io::Error) -> Self {
        Self::new("cannot set up the process", source)
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}{}", self.what, self.source, self.help)
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
