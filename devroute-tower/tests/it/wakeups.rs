//! The transport wakes an exchange for what comes, and for nothing that it does itself: each wake-up is a poll
//! of all that is around it.

use std::time::Duration;

use devroute_tower::transport::{Body, HttpTransport};
use http::Request;
use http_body_util::BodyExt as _;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use tokio_test::{assert_pending, assert_ready, task};
use tower::Service as _;

use crate::support::read_head;

#[tokio::test]
async fn an_exchange_is_woken_by_its_answer_and_by_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        loop {
            read_head(&mut stream).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
            stream.write_all(answer).await.unwrap();
        }
    });
    let mut transport = HttpTransport::new();
    let mut exchange = || {
        let request = Request::get(format!("http://{addr}/"));
        task::spawn(transport.call(request.body(Body::empty()).unwrap()))
    };
    exchange()
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();

    let mut first = exchange();
    assert_pending!(first.poll());
    tokio::time::timeout(Duration::from_secs(10), async {
        while !first.is_woken() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    let response = assert_ready!(first.poll()).unwrap();
    assert!(!first.is_woken(), "by the answer that it was just given");

    let mut body = response.into_body();
    let mut frame = task::spawn(body.frame());
    let data = assert_ready!(frame.poll()).unwrap().unwrap();
    assert_eq!(data.into_data().unwrap(), "hello");
    assert!(!frame.is_woken() && !first.is_woken(), "by the body");
    drop(frame);

    let mut second = exchange();
    assert_pending!(second.poll());
    assert!(!first.is_woken(), "by the next exchange on its connection");
}
