#![doc = include_str!("context.md")]

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
        self.in_contract(current())
    }

    /// Binds the future to `contract`, which may be one that was remembered before: what [`current`]
    /// returned then. Without one the future stays as it is.
    fn in_contract(self, contract: impl Into<Option<Contract>>) -> Scope<Self> {
        match contract.into() {
            Some(contract) => scope(contract, self),
            None => Scope {
                state: State::Bare { future: self },
            },
        }
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
