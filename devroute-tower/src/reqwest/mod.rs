//! For services that call others through [reqwest](https://docs.rs/reqwest).
//!
//! A `reqwest::Client` is no tower service for `http::Request`, and follows redirects by itself,
//! repeating every field at the new place. So two things are needed:
//!
//! 1. Attach the contract. With the feature `reqwest-middleware`: `DevRouteMiddleware`. Without it,
//!    in two lines: [`outgoing_headers`](crate::outbound::outgoing_headers).
//! 2. Stop it at the boundary: [`redirect_policy`]. A redirect from an internal host to an external
//!    one is then not followed; the caller gets the redirect as its answer.
//!
//! ```no_run
//! use devroute_tower::{
//!     outbound::{InternalHosts, outgoing_headers},
//!     reqwest::redirect_policy,
//! };
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = reqwest::Client::builder()
//!     .redirect(redirect_policy(InternalHosts::default()))
//!     .build()?;
//!
//! let url = "http://checkout:8080/cart";
//! let answer = client.get(url).headers(outgoing_headers(&url.parse()?)).send().await?;
//! # let _ = answer;
//! # Ok(())
//! # }
//! ```

use ::reqwest::{
    Url,
    redirect::{Attempt, Policy},
};

use crate::{context, outbound::InternalHosts};

#[cfg(feature = "reqwest-middleware")]
mod middleware;

#[cfg(feature = "reqwest-middleware")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest-middleware")))]
pub use self::middleware::DevRouteMiddleware;

/// Follows redirects as reqwest does by default, ten at most, but not where the contract would
/// leave the internal hosts.
///
/// It stops, and the redirect (a 3xx) is the answer, when all of this holds: a contract is in
/// scope, the chain began at an internal host, which is where contracts are attached, and the next
/// place is not internal. Without a contract it is exactly reqwest's default.
///
/// reqwest shows a policy the places, not the request. So a contract that was put on the request by
/// hand, outside a scope, is not seen here: send it inside [`context::scope`], or through
/// `DevRouteMiddleware`, which opens a scope for whatever contract the request carries.
#[must_use]
pub fn redirect_policy(hosts: InternalHosts) -> Policy {
    Policy::custom(move |attempt| {
        if context::current().is_some() && leaves(&hosts, &attempt) {
            return attempt.stop();
        }
        Policy::default().redirect(attempt)
    })
}

fn leaves(hosts: &InternalHosts, attempt: &Attempt<'_>) -> bool {
    let internal = |url: &Url| {
        url.host_str()
            .is_some_and(|host| hosts.contains_at(host, url.port()))
    };
    // No first place would be a surprise; then the careful answer is that the contract is there.
    attempt.previous().first().is_none_or(internal) && !internal(attempt.url())
}
