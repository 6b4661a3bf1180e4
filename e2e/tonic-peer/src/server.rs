//! The server. It answers in whatever compression it is asked in.

use std::{
    convert::Infallible,
    error::Error,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Code, Status, Streaming,
    body::Body,
    codec::CompressionEncoding,
    server::{Grpc, NamedService},
    transport::server::TcpIncoming,
};
use tower::{Service, service_fn};

use crate::echo::{Codec, NAME, Text};

/// Serves until it is ended.
pub(crate) async fn serve() -> Result<(), Box<dyn Error + Send + Sync>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    tonic::transport::Server::builder()
        .add_service(Echo)
        .serve_with_incoming(TcpIncoming::from(listener))
        .await?;
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = NAME;
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut grpc = Grpc::new(Codec::default())
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(usize::MAX);
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default();
            Ok(match method {
                "Unary" => grpc.unary(service_fn(unary), request).await,
                "Collect" => grpc.client_streaming(service_fn(collect), request).await,
                "Chat" => grpc.streaming(service_fn(chat), request).await,
                "Fail" => grpc.unary(service_fn(fail), request).await,
                "Hang" => grpc.server_streaming(service_fn(hang), request).await,
                _ => Status::unimplemented("there is no such method").into_http(),
            })
        })
    }
}

/// A call is given up by dropping it.
struct SaysWhenItIsOver;

impl Drop for SaysWhenItIsOver {
    fn drop(&mut self) {
        println!("cancelled");
    }
}

async fn unary(request: tonic::Request<Text>) -> Result<tonic::Response<Text>, Status> {
    let (sent, _, mut text) = request.into_parts();
    if sent.contains_key("x-hang") {
        let _cancelled = SaysWhenItIsOver;
        return std::future::pending().await;
    }
    text.text = text.text.to_uppercase();
    let mut response = tonic::Response::new(text);
    let back = response.metadata_mut();
    if let Some(value) = sent.get("x-ask") {
        back.insert("x-back", value.clone());
    }
    if let Some(value) = sent.get_bin("x-ask-bin") {
        back.insert_bin("x-back-bin", value.clone());
    }
    Ok(response)
}

async fn collect(
    request: tonic::Request<Streaming<Text>>,
) -> Result<tonic::Response<Text>, Status> {
    let mut requests = request.into_inner();
    let mut all = Text::default();
    while let Some(part) = requests.message().await? {
        all.text.push_str(&part.text);
        all.payload.extend(part.payload);
    }
    Ok(tonic::Response::new(all))
}

type Answers = Pin<Box<dyn Stream<Item = Result<Text, Status>> + Send>>;

async fn chat(
    request: tonic::Request<Streaming<Text>>,
) -> Result<tonic::Response<Answers>, Status> {
    let mut number = 0;
    let answers = request.into_inner().map(move |text| {
        let mut text = text?;
        text.text = format!("{number}: {}", text.text);
        number += 1;
        Ok(text)
    });
    Ok(tonic::Response::new(Box::pin(answers)))
}

async fn fail(_request: tonic::Request<Text>) -> Result<tonic::Response<Text>, Status> {
    let details = b"\x00\xffdetails".to_vec().into();
    let message = "s\u{fc}\u{df} & 100%: no\nsecond line";
    Err(Status::with_details(
        Code::FailedPrecondition,
        message,
        details,
    ))
}

async fn hang(_request: tonic::Request<Text>) -> Result<tonic::Response<Answers>, Status> {
    let (sender, answers) = mpsc::channel(1);
    tokio::spawn(async move {
        let _ = sender.send(Ok(Text::new("hanging"))).await;
        sender.closed().await;
        println!("cancelled");
    });
    Ok(tonic::Response::new(Box::pin(ReceiverStream::new(answers))))
}
