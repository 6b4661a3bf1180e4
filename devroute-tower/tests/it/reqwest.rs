//! reqwest: the two-line way, the middleware, and redirects that would take the contract outside.

use devroute_tower::{
    context,
    outbound::{InternalHosts, outgoing_headers},
    reqwest::redirect_policy,
};
use reqwest::{Client, StatusCode};

use crate::outbound_support::{
    Received, assert_carries, assert_carries_nothing, contract, serve, text,
};

/// Two servers on loopback, one by an internal name and one by a name outside, and a client that
/// finds both.
struct World {
    client: Client,
    inside: Received,
    outside: Received,
    /// `http://checkout:PORT` and `http://outside.example:PORT`.
    internal: String,
    external: String,
}

async fn world() -> World {
    let (inside_address, inside) = serve().await;
    let (outside_address, outside) = serve().await;
    let client = Client::builder()
        .no_proxy()
        .resolve("checkout", inside_address)
        .resolve("outside.example", outside_address)
        .redirect(redirect_policy(InternalHosts::default()))
        .build()
        .unwrap();
    World {
        client,
        inside,
        outside,
        internal: format!("http://checkout:{}", inside_address.port()),
        external: format!("http://outside.example:{}", outside_address.port()),
    }
}

impl World {
    /// The two-line way.
    async fn get(&self, url: &str) -> StatusCode {
        let headers = outgoing_headers(&url.parse().unwrap());
        let request = self.client.get(url).headers(headers);
        request.send().await.unwrap().status()
    }
}

#[tokio::test]
async fn the_two_line_way_attaches_inside_and_not_outside() {
    let world = world().await;
    context::scope(contract(1), async {
        assert_eq!(world.get(&world.internal).await, 200);
        assert_eq!(world.get(&world.external).await, 200);
    })
    .await;
    assert_carries(&world.inside.one().headers, 1);
    assert_carries_nothing(&world.outside.one().headers);
}

#[tokio::test]
async fn rule_11_a_redirect_that_leaves_is_not_followed() {
    let world = world().await;
    let url = format!("{}/to?{}/secret", world.internal, world.external);
    let status = context::scope(contract(1), world.get(&url)).await;
    assert_eq!(status, StatusCode::TEMPORARY_REDIRECT);
    assert_carries(&world.inside.one().headers, 1);
    assert!(world.outside.take().is_empty());
}

#[tokio::test]
async fn rule_11_a_redirect_that_stays_inside_is_followed_with_the_contract() {
    let world = world().await;
    let url = format!("{}/to?{}/there", world.internal, world.internal);
    assert_eq!(context::scope(contract(1), world.get(&url)).await, 200);
    let received = world.inside.take();
    assert_eq!(received.len(), 2);
    for parts in received {
        assert_carries(&parts.headers, 1);
    }
}

#[tokio::test]
async fn rule_11_a_redirect_that_leaves_after_one_that_stays_is_not_followed() {
    let world = world().await;
    let url = format!("{0}/to?{0}/to?{1}/secret", world.internal, world.external);
    let status = context::scope(contract(1), world.get(&url)).await;
    assert_eq!(status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(world.inside.take().len(), 2);
    assert!(world.outside.take().is_empty());
}

#[tokio::test]
async fn a_redirect_that_leaves_is_followed_without_a_contract() {
    let world = world().await;
    let url = format!("{}/to?{}/page", world.internal, world.external);
    assert_eq!(world.get(&url).await, 200);
    assert_carries_nothing(&world.outside.one().headers);
}

#[tokio::test]
async fn a_chain_that_began_outside_carries_nothing_and_is_followed() {
    let world = world().await;
    let url = format!("{0}/to?{0}/page", world.external);
    assert_eq!(context::scope(contract(1), world.get(&url)).await, 200);
    for parts in world.outside.take() {
        assert_carries_nothing(&parts.headers);
    }

    // Also back inside: what a foreign server redirects to is not our request.
    let url = format!("{}/to?{}/page", world.external, world.internal);
    assert_eq!(context::scope(contract(1), world.get(&url)).await, 200);
    assert_carries_nothing(&world.inside.one().headers);
}

#[tokio::test]
async fn endless_redirects_end_as_they_do_with_reqwest() {
    let world = world().await;
    // A relative place: the server sends us to the same path and query over and over.
    let url = format!("{}/to?/to?/to?", world.internal);
    let url = url.replace("/to?/to?/to?", &"/to?".repeat(20));
    let request = world.client.get(url).send();
    let error = context::scope(contract(1), request).await.unwrap_err();
    assert!(error.is_redirect());
    assert_eq!(world.inside.take().len(), 11);
}

#[tokio::test]
async fn a_contract_set_by_hand_is_seen_by_the_policy_only_inside_its_scope() {
    let world = world().await;
    let url = format!("{}/to?{}/page", world.internal, world.external);
    let send = || {
        let request = world.client.get(&url).header("x-devroute", text(1));
        async { request.send().await.unwrap().status() }
    };
    let inside = context::scope(contract(1), send()).await;
    assert_eq!(inside, StatusCode::TEMPORARY_REDIRECT);
    assert!(world.outside.take().is_empty());

    // Documented: reqwest does not show the request to the policy.
    assert_eq!(send().await, 200);
    assert_eq!(world.outside.take().len(), 1);
}

#[cfg(feature = "reqwest-middleware")]
mod middleware {
    use devroute_tower::reqwest::DevRouteMiddleware;
    use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, RequestBuilder};

    use super::*;

    fn client(world: &World) -> ClientWithMiddleware {
        ClientBuilder::new(world.client.clone())
            .with(DevRouteMiddleware::new())
            .build()
    }

    async fn status(request: RequestBuilder) -> StatusCode {
        request.send().await.unwrap().status()
    }

    #[tokio::test]
    async fn the_middleware_attaches_inside_and_not_outside() {
        let world = world().await;
        let client = client(&world);
        context::scope(contract(1), async {
            assert_eq!(status(client.get(&world.internal)).await, 200);
            assert_eq!(status(client.get(&world.external)).await, 200);
            let own = client
                .get(&world.external)
                .header("x-devroute", text(2))
                .header("baggage", "user=alice,devroute=%7B%7D;p=1,team=b");
            assert_eq!(status(own).await, 200);
        })
        .await;
        assert_carries(&world.inside.one().headers, 1);
        let outside = world.outside.take();
        assert_eq!(outside.len(), 2);
        for parts in &outside {
            assert_carries_nothing(&parts.headers);
        }
        assert_eq!(outside[1].headers["baggage"], "user=alice,team=b");

        assert_eq!(status(client.get(&world.internal)).await, 200);
        assert_carries_nothing(&world.inside.one().headers);
    }

    #[tokio::test]
    async fn the_middleware_keeps_the_order_of_preference() {
        let world = world().await;
        let client = client(&world);
        context::scope(contract(1), async {
            let request = client.get(&world.internal).with_extension(contract(2));
            assert_eq!(status(request).await, 200);
            assert_carries(&world.inside.one().headers, 2);

            let request = client
                .get(&world.internal)
                .with_extension(contract(2))
                .header("x-devroute", text(3));
            assert_eq!(status(request).await, 200);
            assert_carries(&world.inside.one().headers, 3);
        })
        .await;
    }

    #[tokio::test]
    async fn rule_11_below_the_middleware_every_contract_is_seen_by_the_redirect_policy() {
        let world = world().await;
        let client = client(&world);
        let url = format!("{}/to?{}/secret", world.internal, world.external);

        let by_scope = context::scope(contract(1), status(client.get(&url))).await;
        let by_extension = status(client.get(&url).with_extension(contract(2))).await;
        let by_hand = status(client.get(&url).header("x-devroute", text(3))).await;
        for status in [by_scope, by_extension, by_hand] {
            assert_eq!(status, StatusCode::TEMPORARY_REDIRECT);
        }
        assert_eq!(world.inside.take().len(), 3);
        assert!(world.outside.take().is_empty());
    }

    #[tokio::test]
    async fn rule_07_the_middleware_drops_a_copied_matched_field() {
        let world = world().await;
        let request = client(&world)
            .get(&world.internal)
            .header("x-devroute-matched", "foo");
        assert_eq!(status(request).await, 200);
        assert_carries_nothing(&world.inside.one().headers);
    }
}
