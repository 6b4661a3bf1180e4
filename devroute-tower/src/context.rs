//! The contract of the request that the current task is serving.
//!
//! A service receives a contract with one request and must hand it to every request that this one
//! causes. Between the two lies code that knows nothing of contracts, so the contract waits in a
//! task-local *scope*:
//!
//! 1. [`DevRouteLayer`](crate::DevRouteLayer) puts the contract of an incoming request in scope:
//!    for the call of the inner service, for every poll of its future and for every poll of the
//!    response body.
//! 2. [`DevRouteClientLayer`](crate::DevRouteClientLayer), or whoever calls [`current`], finds it
//!    there.
//!
//! A scope belongs to the *polls of one future*, not to a thread and not to a connection: tasks
//! that share a worker thread never see each other's contract, and a future that is moved to
//! another thread takes its contract along. Scopes nest; the inner one wins while it lasts. Where
//! there is no contract there is no scope, and outside any runtime [`current`] is `None`.
//!
//! # What plain `tokio::spawn` loses
//!
//! A spawned task is polled by the runtime and no longer by the future that spawned it, so it runs
//! outside the scope. Nothing can change that from the outside: tokio has no hook that would let a
//! library inherit a task-local. Spawn through this module instead, or wrap the future with
//! [`ContractExt::in_current_contract`], which works for everything that takes a future
//! (`JoinSet`, `LocalSet`, `FuturesUnordered`, an executor of your own):
//!
//! ```
//! use devroute_core::Contract;
//! use devroute_tower::context::{self, ContractExt as _};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let contract: Contract = r#"{"foo":"192.168.1.12:8001"}"#.parse()?;
//!
//! context::scope(contract.clone(), async {
//!     assert_eq!(context::current().as_ref(), Some(&contract));
//!
//!     // Lost: the runtime polls this task, not the scope around us.
//!     let lost = tokio::spawn(async { context::current() });
//!     assert_eq!(lost.await?, None);
//!
//!     // Kept.
//!     let kept = context::spawn(async { context::current() });
//!     assert_eq!(kept.await?.as_ref(), Some(&contract));
//!     let kept = tokio::spawn(async { context::current() }.in_current_contract());
//!     assert_eq!(kept.await?.as_ref(), Some(&contract));
//!     let kept = context::spawn_blocking(context::current);
//!     assert_eq!(kept.await?.as_ref(), Some(&contract));
//!     Ok(())
//! })
//! .await
//! # }
//! ```
//!
//! The same holds for a channel to a worker task: the worker is not inside the request's scope.
//! Send the contract along with the message ([`current`]) and enter it on the other side
//! ([`scope`], [`sync_scope`]), or put it into the extensions of the outgoing request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use devroute_core::Contract;
use pin_project_lite::pin_project;
use tokio::task::{AbortHandle, JoinHandle, JoinSet, futures::TaskLocalFuture};

tokio::task_local! {
    /// Has a value only inside a request that carries a contract, so that "is there one?" costs a
    /// thread-local read and nothing is wrapped, cloned or dropped for everybody else.
    static CURRENT: Contract;
}

/// Returns the contract in scope, or `None` outside any.
///
/// The clone is a reference count; nothing is parsed or copied.
///
/// ```
/// assert_eq!(devroute_tower::context::current(), None);
/// ```
#[must_use]
pub fn current() -> Option<Contract> {
    CURRENT.try_with(Contract::clone).ok()
}

/// Puts `contract` in scope for every poll of `future`, and for its drop.
///
/// A scope around a scope is allowed: the inner contract wins, and the outer one is back as soon
/// as the inner future is not being polled.
///
/// ```
/// use devroute_core::Contract;
/// use devroute_tower::context;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let outer: Contract = r#"{"foo":"192.168.1.12:8001"}"#.parse()?;
/// let inner: Contract = r#"{"bar":"10.8.0.7:9000"}"#.parse()?;
///
/// context::scope(outer.clone(), async {
///     let seen = context::scope(inner.clone(), async { context::current() }).await;
///     assert_eq!(seen, Some(inner));
///     assert_eq!(context::current(), Some(outer));
/// })
/// .await;
/// # Ok(())
/// # }
/// ```
pub fn scope<F: Future>(contract: Contract, future: F) -> Scope<F> {
    Scope {
        state: State::Scoped {
            future: CURRENT.scope(contract, future),
        },
    }
}

/// Puts `contract` in scope while `f` runs.
///
/// For code that is not a future: a thread of one's own, one poll of a stream, a message handler.
///
/// ```
/// use devroute_tower::context;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let contract: devroute_core::Contract = r#"{"foo":"192.168.1.12:8001"}"#.parse()?;
/// let seen = context::sync_scope(contract.clone(), context::current);
/// assert_eq!(seen, Some(contract));
/// assert_eq!(context::current(), None);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// Only where `f` does; the scope ends then as well.
pub fn sync_scope<R>(contract: Contract, f: impl FnOnce() -> R) -> R {
    CURRENT.sync_scope(contract, f)
}

/// Spawns `future` with [`tokio::spawn`], inside the contract in scope.
///
/// The contract is taken when this is called, not when the task first runs. Without a contract the
/// task is spawned as it is.
///
/// # Panics
///
/// Outside a tokio runtime, as [`tokio::spawn`] does.
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future.in_current_contract())
}

/// Runs `f` with [`tokio::task::spawn_blocking`], inside the contract in scope.
///
/// # Panics
///
/// Outside a tokio runtime, as [`tokio::task::spawn_blocking`] does.
#[track_caller]
pub fn spawn_blocking<F, R>(f: F) -> JoinHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    tokio::task::spawn_blocking(bind(f))
}

/// Binds any future to a contract.
///
/// ```
/// use devroute_tower::context::{self, ContractExt as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let contract: devroute_core::Contract = r#"{"foo":"192.168.1.12:8001"}"#.parse()?;
///
/// let mut set = tokio::task::JoinSet::new();
/// set.spawn(async { context::current() }.in_contract(contract.clone()));
/// assert_eq!(set.join_next().await.unwrap()?, Some(contract));
/// # Ok(())
/// # }
/// ```
pub trait ContractExt: Future + Sized {
    /// Binds the future to the contract that is in scope now; without one it stays as it is.
    fn in_current_contract(self) -> Scope<Self> {
        match current() {
            Some(contract) => scope(contract, self),
            None => Scope {
                state: State::Bare { future: self },
            },
        }
    }

    /// Binds the future to `contract`: [`scope`] in the order that reads well after a future.
    fn in_contract(self, contract: Contract) -> Scope<Self> {
        scope(contract, self)
    }
}

impl<F: Future> ContractExt for F {}

/// Spawns onto a [`JoinSet`] inside the contract in scope.
///
/// ```
/// use devroute_tower::context::{self, JoinSetExt as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let contract: devroute_core::Contract = r#"{"foo":"192.168.1.12:8001"}"#.parse()?;
///
/// context::scope(contract.clone(), async {
///     let mut set = tokio::task::JoinSet::new();
///     set.spawn_in_current_contract(async { context::current() });
///     set.spawn_blocking_in_current_contract(context::current);
///     while let Some(seen) = set.join_next().await {
///         assert_eq!(seen?.as_ref(), Some(&contract));
///     }
///     Ok(())
/// })
/// .await
/// # }
/// ```
pub trait JoinSetExt<T> {
    /// [`JoinSet::spawn`], inside the contract in scope.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, as [`JoinSet::spawn`] does.
    fn spawn_in_current_contract<F>(&mut self, future: F) -> AbortHandle
    where
        F: Future<Output = T> + Send + 'static,
        T: Send;

    /// [`JoinSet::spawn_blocking`], inside the contract in scope.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, as [`JoinSet::spawn_blocking`] does.
    fn spawn_blocking_in_current_contract<F>(&mut self, f: F) -> AbortHandle
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send;
}

impl<T: 'static> JoinSetExt<T> for JoinSet<T> {
    #[track_caller]
    fn spawn_in_current_contract<F>(&mut self, future: F) -> AbortHandle
    where
        F: Future<Output = T> + Send + 'static,
        T: Send,
    {
        self.spawn(future.in_current_contract())
    }

    #[track_caller]
    fn spawn_blocking_in_current_contract<F>(&mut self, f: F) -> AbortHandle
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send,
    {
        self.spawn_blocking(bind(f))
    }
}

pin_project! {
    /// A future that runs inside a contract.
    ///
    /// Made by [`scope`] and [`ContractExt`]; adds no allocation.
    #[must_use = "futures do nothing unless polled"]
    pub struct Scope<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Bare { #[pin] future: F },
        Scoped { #[pin] future: TaskLocalFuture<Contract, F> },
    }
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Bare { future } => future.poll(cx),
            StateProj::Scoped { future } => future.poll(cx),
        }
    }
}

impl<F> fmt::Debug for Scope<F> {
    // The future is seldom `Debug`, and a contract has no business in a dump of one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scoped = matches!(self.state, State::Scoped { .. });
        f.debug_struct("Scope")
            .field("in_contract", &scoped)
            .finish_non_exhaustive()
    }
}

/// Binds a closure to the contract that is in scope now.
fn bind<R>(f: impl FnOnce() -> R) -> impl FnOnce() -> R {
    let contract = current();
    move || match contract {
        Some(contract) => sync_scope(contract, f),
        None => f(),
    }
}
