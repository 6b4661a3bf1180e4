use ::reqwest::{Request, Response};
use async_trait::async_trait;
use devroute_core::carrier;
use http::{Extensions, Uri};
use reqwest_middleware::{Middleware, Next, Result};

use crate::{
    context::ContractExt as _,
    outbound::{Attach, InternalHosts},
};

/// Carries the contract on to the requests of a `ClientWithMiddleware`.
///
/// Does what [`outbound`](crate::outbound) says, with the same order of preference: the field that
/// the application set on the request, a [`Contract`](devroute_core::Contract) among the request's
/// extensions (`.with_extension(contract)`), the one in scope, the member of its `baggage`.
///
/// Add it **last**, so that it runs next to the client: a middleware below it that writes `baggage`,
/// as those of OpenTelemetry do, replaces what this one has written.
///
/// What runs below (other middleware, and [`redirect_policy`](super::redirect_policy)) has the
/// request's contract in scope, wherever it came from.
///
/// ```no_run
/// use devroute_tower::{
///     outbound::InternalHosts,
///     reqwest::{DevRouteMiddleware, redirect_policy},
/// };
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = reqwest::Client::builder()
///     .redirect(redirect_policy(InternalHosts::default()))
///     .build()?;
/// let client = reqwest_middleware::ClientBuilder::new(client)
///     .with(DevRouteMiddleware::new())
///     .build();
/// client.get("http://checkout:8080/cart").send().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct DevRouteMiddleware {
    attach: Attach,
}

impl DevRouteMiddleware {
    /// Makes a middleware that sends contracts to the default [`InternalHosts`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets which hosts a contract is sent to; give [`redirect_policy`](super::redirect_policy) the
    /// same list.
    #[must_use]
    pub fn internal_hosts(mut self, hosts: InternalHosts) -> Self {
        self.attach.hosts = hosts;
        self
    }
}

#[async_trait]
impl Middleware for DevRouteMiddleware {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let Some(pending) = self.attach.find(request.headers(), extensions) else {
            return next.run(request, extensions).await;
        };
        // A URL that is no URI never leaves reqwest either; without one nothing is attached.
        let uri = request.url().as_str().parse::<Uri>().unwrap_or_default();
        self.attach.apply(&uri, request.headers_mut(), pending);
        match carrier::read(request.headers()) {
            Ok(Some(contract)) => next.run(request, extensions).in_contract(contract).await,
            _ => next.run(request, extensions).await,
        }
    }
}
