//! `devroute connect foo=8001 --hub URL`: the cluster reaches what runs on this machine, and this machine the cluster.
//!
//! The connection to the hub, and what goes through it, is of `devroute-tunnel`. This puts around it what a developer
//! sees: the contract to send, a line for each request with who asked (`caller.rs`), and answers for an application that does not run (`local.rs`). The
//! machine's own requests come in at a proxy or at a fixed port (`outward.rs`), and get the contract of the request that
//! they belong to, as those of a sidecar's service do. With `--inspect` a page of `devroute-inspector` shows what comes, and
//! gives it to the application again.

mod caller;
mod local;
mod outward;
mod printer;

use std::io;
use std::sync::Arc;

use devroute_inspector::{Inspector, Page};
use devroute_tower::core::ServiceName;
use devroute_tower::correlation::{Correlations, RememberLayer};
use devroute_tower::transport::{Body, HttpTransport};
use devroute_tunnel::client::{self, Signed, Signer, WayOut};
use tower_layer::Layer as _;

use self::local::{Local, LocalLayer};
use self::outward::Outward;
use self::printer::Printer;
use crate::ServeError;
use crate::config::ConnectConfig;
use crate::print;
use crate::shutdown::Signal;
use crate::sign;

/// Keeps a connection to the hub until `signal`; whether it came to an end that was meant.
///
/// # Errors
///
/// When an address for the machine's own requests, or for the inspector, cannot be listened on.
pub async fn run(config: ConnectConfig, signal: Signal) -> Result<bool, ServeError> {
    let config = Arc::new(config);
    let correlations = config.has_way_out().then(Correlations::new);
    let way_out = config.has_way_out().then(WayOut::new);
    let printer = Printer::new(&config);
    if let (Some(correlations), Some(way_out)) = (&correlations, &way_out) {
        let outward = Outward::bind(&config, correlations.clone(), way_out.clone()).await?;
        printer.outward(&outward);
        tokio::spawn(outward.serve(signal.clone()));
    }

    let inspector = Inspector::new();
    if let Some(address) = config.inspect {
        let page = Page::bind(&inspector, address).await;
        let page =
            page.map_err(|error| cannot_listen(format_args!("{address} (--inspect)"), error))?;
        printer.inspector(&page.url());
        tokio::spawn(page.serve());
    }

    let entries = config.entries.iter();
    let services = entries.map(|entry| entry.service.clone()).collect();
    let mut dialling = client::Config::new(config.hub.clone(), services, config.name.clone());
    dialling.tls = config.hub.is_tls().then(|| config.client_config());
    dialling.plain = config.plain;
    dialling.signer = Some(Arc::new(KeyOrAgent(Arc::clone(&config))));
    dialling.way_out = way_out;
    dialling.liveness = config.liveness;

    let transport = HttpTransport::new();
    let remember = correlations.map_or_else(RememberLayer::off, RememberLayer::new);
    let make = |service: &ServiceName| {
        let entry = config
            .entries
            .iter()
            .find(|entry| entry.service == *service);
        let local = Local::new(service, entry, &transport);
        // Without a page nobody watches, and it is not there.
        let inspect = inspector.layer(service.as_str()).bodies(Body::new);
        LocalLayer::new(printer.clone()).layer(inspect.layer(remember.layer(local)))
    };
    let told = printer.clone();
    let ended = client::run(dialling, make, |event| told.event(event), signal.begun()).await;
    if let Err(fatal) = &ended {
        print::error(format_args!("devroute: {}: {fatal}", config.hub));
    }
    Ok(ended.is_ok())
}

/// Signs with the developer's key, in a file or held by ssh-agent; it is looked for when it is needed.
struct KeyOrAgent(Arc<ConnectConfig>);

impl Signer for KeyOrAgent {
    fn sign(&self, message: &[u8]) -> Result<Signed, String> {
        let namespace = devroute_tunnel::auth::Statement::NAMESPACE;
        let (key, signature) =
            sign::sign_message(namespace, message, self.0.key.as_deref(), "--key")?;
        let key = key.id();
        Ok(Signed { key, signature })
    }
}

/// Wraps the failure to listen for the machine's own requests.
fn cannot_listen(what: impl std::fmt::Display, source: io::Error) -> ServeError {
    ServeError::new(format!("cannot listen on {what}"), source)
}
