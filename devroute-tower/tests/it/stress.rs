//! Invariant 2 under load: thousands of requests at once, and none sees another's contract.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use devroute_core::carrier;
use devroute_tower::{
    DevRouteClientLayer,
    context::{self, JoinSetExt as _},
};
use futures_util::future::{Either, join_all, select};
use http::{Request, Response};
use tokio::task::{JoinSet, yield_now};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::outbound_support::{assert_carries, assert_carries_nothing, contract, serve, text};

const REQUESTS: u16 = 3000;

/// Makes one outgoing request through the layer and returns the contract it carried.
async fn call() -> Option<String> {
    let client = DevRouteClientLayer::new().layer(service_fn(|request: Request<()>| async move {
        yield_now().await;
        let field = request.headers().get(carrier::CONTRACT);
        let field = field.map(|value| value.to_str().unwrap().to_owned());
        Ok::<_, Infallible>(Response::new(field))
    }));
    let request = Request::get("http://checkout/").body(()).unwrap();
    client.oneshot(request).await.unwrap().into_body()
}

/// One incoming request.
#[derive(Clone)]
struct Incoming {
    number: u16,
    /// What each of the calls that it causes has to carry.
    expected: Option<String>,
    calls: Arc<AtomicUsize>,
}

impl Incoming {
    async fn check(self) {
        for _ in 0..self.number % 3 {
            yield_now().await;
        }
        assert_eq!(call().await, self.expected);
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    async fn check_forever(self) {
        loop {
            self.clone().check().await;
        }
    }

    /// Everything a handler may do between its request and the ones it makes.
    async fn handle(self) {
        let check = || self.clone().check();

        check().await;
        join_all((0..3).map(|_| check())).await;

        // The loser of a race is dropped half-way, be it a check or not.
        match select(Box::pin(check()), Box::pin(yield_now())).await {
            Either::Left(_) => {}
            Either::Right((_, abandoned)) => drop(abandoned),
        }
        tokio::select! {
            () = check() => {}
            () = std::future::pending() => {}
        }
        let cut = tokio::time::timeout(Duration::ZERO, self.clone().check_forever()).await;
        assert!(cut.is_err());
        check().await;

        context::spawn(check()).await.unwrap();
        assert_eq!(tokio::spawn(call()).await.unwrap(), None);
        let aborted = context::spawn(self.clone().check_forever());
        yield_now().await;
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_cancelled());

        let mut set = JoinSet::new();
        set.spawn_in_current_contract(check());
        set.spawn_in_current_contract(check());
        set.join_all().await;

        // A scope inside the scope, and out again.
        let other = u16::MAX - self.number;
        let inner = context::scope(contract(other), call()).await;
        assert_eq!(inner, Some(text(other)));
        check().await;
    }
}

async fn stress() {
    let calls = Arc::new(AtomicUsize::new(0));
    let requests = (0..REQUESTS).map(|number| {
        // Every fourth request has no contract, among those that have.
        let has_contract = number % 4 != 0;
        let incoming = Incoming {
            number,
            expected: has_contract.then(|| text(number)),
            calls: calls.clone(),
        };
        if has_contract {
            tokio::spawn(context::scope(contract(number), incoming.handle()))
        } else {
            tokio::spawn(incoming.handle())
        }
    });
    for request in join_all(requests).await {
        request.unwrap();
    }
    assert!(calls.load(Ordering::Relaxed) >= 10 * usize::from(REQUESTS));
    assert_eq!(context::current(), None);
}

#[tokio::test]
async fn contracts_never_mix_on_one_thread() {
    stress().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn contracts_never_mix_on_several_threads() {
    stress().await;
}

/// All futures in one task: what separates them is only whose poll it is.
#[tokio::test]
async fn contracts_never_mix_inside_one_task() {
    let requests = (0..REQUESTS).map(|number| async move {
        let work = async {
            for _ in 0..number % 7 {
                yield_now().await;
            }
            call().await
        };
        let seen = if number % 4 == 0 {
            (work.await, None)
        } else {
            (
                context::scope(contract(number), work).await,
                Some(text(number)),
            )
        };
        assert_eq!(seen.0, seen.1);
        assert_eq!(context::current(), None);
    });
    join_all(requests).await;
}

/// One pooled client, many connections reused in any order: what the server got is what each
/// request's own contract says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contracts_never_mix_on_pooled_connections() {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};

    let (server, received) = serve().await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let client = DevRouteClientLayer::new().layer(client);
    let requests = (0..400u16).map(|number| {
        let client = client.clone();
        let call = async move {
            let request = Request::get(format!("http://{server}/{number}"))
                .body(Empty::new())
                .unwrap();
            let response = client.oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        };
        if number % 4 == 0 {
            tokio::spawn(call)
        } else {
            tokio::spawn(context::scope(contract(number), call))
        }
    });
    for request in join_all(requests).await {
        request.unwrap();
    }

    let received = received.take();
    assert_eq!(received.len(), 400);
    for parts in received {
        let number: u16 = parts.uri.path().trim_start_matches('/').parse().unwrap();
        if number % 4 == 0 {
            assert_carries_nothing(&parts.headers);
        } else {
            assert_carries(&parts.headers, number);
        }
    }
}
