//! Laptops that come, go, and come back.

use std::time::Duration;

use devroute_tunnel::client::Event;
use http::StatusCode;
use tokio::net::TcpStream;

use crate::support::{Laptop, Link, echo, get, start, until};

#[tokio::test]
async fn a_laptop_is_reached_at_an_address_of_the_hub() {
    let (hub, address) = start(|_| {}).await;
    let mut laptop = Laptop::start(address, |_| {}, echo);
    let foo = laptop.foo().await;
    assert_eq!(get(foo, "/a").await, (StatusCode::OK, "/a".to_owned()));
    let stats = hub.stats();
    assert_eq!((stats.connected, stats.held, stats.services), (1, 0, 1));

    // One that says good-bye leaves nothing.
    laptop.stop().await;
    until(|| hub.list().is_empty()).await;
    until(|| std::net::TcpStream::connect(foo).is_err()).await;
}

#[tokio::test]
async fn who_hears_nothing_of_the_other_knows_that_it_is_gone() {
    let (hub, address) = start(|_| {}).await;
    let link = Link::to(address).await;
    let mut laptop = Laptop::start(link.address, |_| {}, echo);
    let foo = laptop.foo().await;
    link.hold(true);
    until(|| hub.stats().held == 1).await;
    let (status, problem) = get(foo, "/").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(
        problem.contains("laptop_disconnected") && problem.contains("alice"),
        "{problem}"
    );
    assert!(
        matches!(laptop.event().await, Event::Lost { .. }),
        "both do"
    );

    link.hold(false);
    let grant = laptop.connected().await;
    assert!(grant.resumed);
    assert_eq!(grant.services["foo"], foo.to_string());
    assert_eq!(get(foo, "/b").await, (StatusCode::OK, "/b".to_owned()));
    assert_eq!(hub.list().len(), 1, "there is no stale session");
}

#[tokio::test]
async fn what_is_in_flight_when_a_laptop_goes_is_ended() {
    let (_hub, address) = start(|_| {}).await;
    let link = Link::to(address).await;
    let mut laptop = Laptop::start(link.address, |_| {}, |_request| std::future::pending());
    let foo = laptop.foo().await;
    let asked = tokio::spawn(async move { get(foo, "/").await });
    // It is in flight, or it comes too late: it is ended either way.
    link.hold(true);
    let (status, problem) = asked.await.unwrap();
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(problem.contains("laptop_disconnected"), "{problem}");
}

#[tokio::test]
async fn an_address_is_held_for_its_time_and_no_longer() {
    let (hub, address) = start(|config| config.hold = Duration::from_secs(2)).await;
    let mut laptop = Laptop::start(address, |_| {}, echo);
    let foo = laptop.foo().await;
    laptop.running.abort();
    until(|| hub.stats().held == 1).await;
    assert_eq!(get(foo, "/").await.0, StatusCode::BAD_GATEWAY);
    until(|| hub.list().is_empty()).await;
    until(|| std::net::TcpStream::connect(foo).is_err()).await;
}

#[tokio::test]
async fn a_hub_that_knows_nothing_gives_back_the_address_that_was_had() {
    let (first, address) = start(|_| {}).await;
    let mut laptop = Laptop::start(address, |_| {}, echo);
    let foo = laptop.foo().await;
    // It lets go of everything, as one that is started again has.
    first.drain(Duration::from_secs(5)).await;
    assert_eq!(laptop.event().await, Event::Draining);
    until(|| std::net::TcpStream::connect(foo).is_err()).await;
    let (second, address) = start(|_| {}).await;
    // A laptop that comes back says where it was.
    let had = [("foo".to_owned(), foo)].into_iter().collect();
    let offer = devroute_tunnel::protocol::Offer::again(
        &["foo".parse().unwrap()],
        "alice",
        "c2VjcmV0IG9mIHRoaXMgc2Vzc2lvbg",
        false,
        &had,
    )
    .unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "GET /.well-known/devroute-tunnel HTTP/1.1\r\nhost: hub\r\nconnection: upgrade\r\n\
         upgrade: devroute-tunnel/1\r\ndevroute-offer: {}\r\n\r\n",
        offer.as_str()
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes())
        .await
        .unwrap();
    until(|| !second.list().is_empty()).await;
    let at: Vec<_> = second.list()[0].services.values().copied().collect();
    assert_eq!(at, [foo]);
}

#[tokio::test]
async fn a_hub_that_goes_away_lets_answers_finish() {
    let (hub, address) = start(|_| {}).await;
    let (answer, answered) = tokio::sync::watch::channel(false);
    let slow = move |request| {
        let mut answered = answered.clone();
        async move {
            let _ = answered.wait_for(|now| *now).await;
            echo(request).await
        }
    };
    let mut laptop = Laptop::start(address, |_| {}, slow);
    let foo = laptop.foo().await;
    let asked = tokio::spawn(async move { get(foo, "/slow").await });
    until(|| hub.stats().streams == 1).await;
    let draining = hub.clone();
    let drained = tokio::spawn(async move { draining.drain(Duration::from_secs(20)).await });
    assert_eq!(laptop.event().await, Event::Draining);
    until(|| std::net::TcpStream::connect(foo).is_err()).await;
    answer.send_replace(true);
    assert_eq!(asked.await.unwrap(), (StatusCode::OK, "/slow".to_owned()));
    drained.await.unwrap();
    assert!(hub.list().is_empty());
}
