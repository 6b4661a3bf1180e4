//! The scope: who sees which contract, and when (invariant 2: in scope in every poll).

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use devroute_core::Contract;
use devroute_tower::context::{self, ContractExt as _, JoinSetExt as _, Scope};
use tokio::{
    sync::oneshot,
    task::{JoinSet, LocalSet},
};

use crate::outbound_support::contract;

#[test]
fn outside_any_runtime_there_is_no_contract() {
    assert_eq!(context::current(), None);
}

#[test]
fn sync_scope_ends_with_the_closure_and_restores_the_outer_contract() {
    context::sync_scope(contract(1), || {
        context::sync_scope(contract(2), || {
            assert_eq!(context::current(), Some(contract(2)));
        });
        assert_eq!(context::current(), Some(contract(1)));
    });
    assert_eq!(context::current(), None);
}

#[test]
fn sync_scope_ends_with_a_panic_as_well() {
    let panicked = std::panic::catch_unwind(|| {
        context::sync_scope(contract(1), || std::panic::resume_unwind(Box::new(())));
    });
    assert!(panicked.is_err());
    assert_eq!(context::current(), None);
}

#[tokio::test]
async fn nested_scopes_the_inner_wins_and_the_outer_is_restored() {
    context::scope(contract(1), async {
        assert_eq!(context::current(), Some(contract(1)));
        let inner = async {
            tokio::task::yield_now().await;
            context::current()
        };
        assert_eq!(inner.in_contract(contract(2)).await, Some(contract(2)));
        assert_eq!(context::current(), Some(contract(1)));
    })
    .await;
    assert_eq!(context::current(), None);
}

#[test]
fn a_pending_future_leaves_no_contract_behind_between_polls() {
    let (release, released) = oneshot::channel::<()>();
    let mut future = pin!(context::scope(contract(1), async {
        let before = context::current();
        let _ = released.await;
        (before, context::current())
    }));
    let mut cx = Context::from_waker(Waker::noop());

    assert!(future.as_mut().poll(&mut cx).is_pending());
    assert_eq!(context::current(), None);

    // Polled from inside another contract, it still has its own.
    release.send(()).unwrap();
    let done = context::sync_scope(contract(2), || future.as_mut().poll(&mut cx));
    assert_eq!(done, Poll::Ready((Some(contract(1)), Some(contract(1)))));
}

#[test]
fn a_dropped_future_is_dropped_inside_its_contract() {
    struct SeenAtDrop(Option<oneshot::Sender<Option<Contract>>>);
    impl Drop for SeenAtDrop {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(context::current());
        }
    }

    let (sender, mut seen) = oneshot::channel();
    let guard = SeenAtDrop(Some(sender));
    let mut future = Box::pin(context::scope(contract(1), async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    }));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    drop(future);
    assert_eq!(seen.try_recv().unwrap(), Some(contract(1)));
    assert_eq!(context::current(), None);
}

#[tokio::test]
async fn plain_spawn_loses_the_contract_and_the_helper_keeps_it() {
    context::scope(contract(1), async {
        let lost = tokio::spawn(async { context::current() });
        assert_eq!(lost.await.unwrap(), None);
        let kept = context::spawn(async { context::current() });
        assert_eq!(kept.await.unwrap(), Some(contract(1)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helpers_keep_the_contract_on_other_threads() {
    context::scope(contract(1), async {
        let task = context::spawn(async {
            tokio::task::yield_now().await;
            context::current()
        });
        assert_eq!(task.await.unwrap(), Some(contract(1)));

        let blocking = context::spawn_blocking(context::current);
        assert_eq!(blocking.await.unwrap(), Some(contract(1)));

        let mut set = JoinSet::new();
        set.spawn(async { context::current() }.in_current_contract());
        set.spawn_in_current_contract(async { context::current() });
        set.spawn_blocking_in_current_contract(context::current);
        let seen = set.join_all().await;
        assert_eq!(seen, vec![Some(contract(1)); 3]);
    })
    .await;
}

#[tokio::test]
async fn helpers_without_a_contract_spawn_without_one() {
    assert_eq!(
        context::spawn(async { context::current() }).await.unwrap(),
        None
    );
    assert_eq!(
        context::spawn_blocking(context::current).await.unwrap(),
        None
    );
    assert_eq!(
        async { context::current() }.in_current_contract().await,
        None
    );
}

#[tokio::test]
async fn a_future_enters_a_contract_that_was_remembered_if_there_was_one() {
    let seen = async { context::current() };
    assert_eq!(seen.in_contract(None).await, None);
    let seen = async { context::current() };
    assert_eq!(seen.in_contract(Some(contract(1))).await, Some(contract(1)));
    // To remember none is not to leave the scope that is there.
    let seen = context::scope(contract(2), async { context::current() }.in_contract(None));
    assert_eq!(seen.await, Some(contract(2)));
}

#[tokio::test]
async fn the_contract_is_taken_when_the_helper_is_called() {
    let future = context::sync_scope(contract(1), || {
        async { context::current() }.in_current_contract()
    });
    let seen = context::scope(contract(2), future).await;
    assert_eq!(seen, Some(contract(1)));
}

#[tokio::test]
async fn a_local_set_keeps_the_contract_through_the_extension_trait() {
    let local = LocalSet::new();
    let task = context::sync_scope(contract(1), || {
        local.spawn_local(async { context::current() }.in_current_contract())
    });
    local.await;
    assert_eq!(task.await.unwrap(), Some(contract(1)));
}

#[tokio::test]
async fn a_task_has_the_contract_of_the_request_and_its_neighbour_another() {
    let task = |number| {
        tokio::spawn(context::scope(contract(number), async move {
            for _ in 0..100 {
                assert_eq!(context::current(), Some(contract(number)));
                tokio::task::yield_now().await;
            }
        }))
    };
    let (first, second) = (task(1), task(2));
    first.await.unwrap();
    second.await.unwrap();
}

#[test]
fn auto_traits() {
    fn is<T: Send + Sync + 'static>() {}
    is::<Scope<std::future::Ready<()>>>();
}

#[test]
fn debug_does_not_print_the_contract() {
    let scope = context::scope(contract(1), async {});
    assert_eq!(format!("{scope:?}"), "Scope { in_contract: true, .. }");
}
