//! The client.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, IntoStreamingRequest, Request,
    client::Grpc,
    codec::CompressionEncoding,
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::echo::{Codec, Text, path};

type Failure = Box<dyn Error + Send + Sync>;

const PATIENCE: Duration = Duration::from_secs(15);

struct Client {
    grpc: Grpc<Channel>,
    fields: Vec<(AsciiMetadataKey, AsciiMetadataValue)>,
}

impl Client {
    async fn connect(addr: &str, fields: &[&str]) -> Result<Self, Failure> {
        let channel = Endpoint::try_from(format!("http://{addr}"))?
            .connect()
            .await?;
        let fields = fields.iter().map(|field| {
            let (name, value) = field.split_once(": ").ok_or("a field is `name: value`")?;
            Ok((name.parse()?, value.parse()?))
        });
        Ok(Self {
            grpc: Grpc::new(channel).max_decoding_message_size(usize::MAX),
            fields: fields.collect::<Result<_, Failure>>()?,
        })
    }

    /// The request with the fields, once the channel takes one.
    async fn request<T>(&mut self, message: T) -> Result<Request<T>, Failure> {
        self.grpc.ready().await?;
        let mut request = Request::new(message);
        request.set_timeout(PATIENCE);
        for (name, value) in &self.fields {
            request.metadata_mut().insert(name, value.clone());
        }
        Ok(request)
    }

    async fn unary(&mut self, text: Text) -> Result<tonic::Response<Text>, Failure> {
        let request = self.request(text).await?;
        Ok(self
            .grpc
            .unary(request, path("Unary")?, Codec::default())
            .await?)
    }
}

/// Uses it in every way, and fails where an answer is not the right one.
pub(crate) async fn call(addr: &str, fields: &[&str]) -> Result<(), Failure> {
    let mut client = Client::connect(addr, fields).await?;
    metadata(&mut client).await?;
    streams(&mut client).await?;
    errors(&mut client).await?;
    sizes(&mut client).await?;
    ends(&mut client).await
}

async fn metadata(client: &mut Client) -> Result<(), Failure> {
    let bytes: Vec<u8> = (0..=255).collect();
    let mut request = client.request(Text::new("hello")).await?;
    request.metadata_mut().insert("x-ask", "a, b".parse()?);
    let ask = MetadataValue::from_bytes(&bytes);
    request.metadata_mut().insert_bin("x-ask-bin", ask);
    let answer = client
        .grpc
        .unary(request, path("Unary")?, Codec::default())
        .await?;
    // The trailing metadata of a unary call is with the leading one.
    let back = answer.metadata();
    is("x-back", back.get("x-back"), Some(&"a, b".parse()?))?;
    let back = back.get_bin("x-back-bin").map(|value| value.to_bytes());
    is("x-back-bin", back.transpose()?, Some(bytes.into()))?;
    is("the text", &*answer.get_ref().text, "HELLO")
}

async fn streams(client: &mut Client) -> Result<(), Failure> {
    let parts: Vec<Text> = (0..100)
        .map(|number| Text::new(format!("{number},")))
        .collect();
    let whole: String = parts.iter().map(|part| &*part.text).collect();
    let request = client.request(tokio_stream::iter(parts)).await?;
    let sent = client
        .grpc
        .client_streaming(request, path("Collect")?, Codec::default());
    is("what was collected", sent.await?.into_inner().text, whole)?;

    // Each request is made from the answer before.
    let (next, requests) = mpsc::channel(1);
    next.send(Text::new("begin")).await?;
    let request = client.request(ReceiverStream::new(requests)).await?;
    let sent = client.grpc.streaming(
        request.into_streaming_request(),
        path("Chat")?,
        Codec::default(),
    );
    let mut answers = sent.await?.into_inner();
    for number in 0..20 {
        let text = answers.message().await?.ok_or("the chat ended")?.text;
        let asked = if number == 0 {
            "begin".to_owned()
        } else {
            format!("after {number}")
        };
        is("an answer", text, format!("{number}: {asked}"))?;
        next.send(Text::new(format!("after {}", number + 1)))
            .await?;
    }
    drop(next);
    answers
        .message()
        .await?
        .ok_or("the last answer is missing")?;
    is("the end", answers.message().await?, None)
}

async fn errors(client: &mut Client) -> Result<(), Failure> {
    let request = client.request(Text::default()).await?;
    let failed = client
        .grpc
        .unary::<_, Text, _>(request, path("Fail")?, Codec::default())
        .await;
    let status = failed.err().ok_or("Fail did not fail")?;
    is("its code", status.code(), Code::FailedPrecondition)?;
    is(
        "its text",
        status.message(),
        "s\u{fc}\u{df} & 100%: no\nsecond line",
    )?;
    is("whether it has details", status.details().is_empty(), false)?;

    // A block of trailers and nothing else.
    let request = client.request(Text::default()).await?;
    let failed = client
        .grpc
        .unary::<_, Text, _>(request, path("Unknown")?, Codec::default())
        .await;
    let status = failed.err().ok_or("an unknown method is known")?;
    is(
        "the code of an unknown method",
        status.code(),
        Code::Unimplemented,
    )
}

async fn sizes(client: &mut Client) -> Result<(), Failure> {
    let payload: Vec<u8> = (0..=255).cycle().take(8 * 1024 * 1024).collect();
    let text = Text {
        text: String::new(),
        payload,
    };
    let answer = client.unary(text.clone()).await?;
    is("whether 8 MiB came back", answer.into_inner() == text, true)?;

    let plain = client.grpc.clone();
    client.grpc = plain
        .clone()
        .send_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Gzip);
    let text = Text {
        text: "GZIP".to_owned(),
        payload: b"compressible ".repeat(500_000),
    };
    let answer = client.unary(text.clone()).await?;
    let encoding = answer.metadata().get("grpc-encoding").cloned();
    is(
        "the compression of the answer",
        encoding,
        Some("gzip".parse()?),
    )?;
    is("whether it came back", answer.into_inner() == text, true)?;
    client.grpc = plain;
    Ok(())
}

/// Calls that are given up, by their deadline and by their caller; each time it waits until somebody
/// says that the other side has noticed.
async fn ends(client: &mut Client) -> Result<(), Failure> {
    let mut request = client.request(Text::default()).await?;
    request.set_timeout(Duration::from_millis(300));
    request.metadata_mut().insert("x-hang", "1".parse()?);
    let began = Instant::now();
    let sent = client
        .grpc
        .unary::<_, Text, _>(request, path("Unary")?, Codec::default());
    let status = sent.await.err().ok_or("the deadline was not kept")?;
    // This is how the channel says that it has kept the deadline itself.
    is("its text", status.message(), "Timeout expired")?;
    is(
        "whether it came early",
        began.elapsed() < Duration::from_millis(250),
        false,
    )?;
    tokio::task::spawn_blocking(|| go_on("over time")).await??;

    let request = client.request(Text::default()).await?;
    let sent = client
        .grpc
        .server_streaming::<_, Text, _>(request, path("Hang")?, Codec::default());
    let mut answers = sent.await?.into_inner();
    let first = answers.message().await?;
    is("the first answer", first, Some(Text::new("hanging")))?;
    drop(answers);
    tokio::task::spawn_blocking(|| go_on("given up")).await?
}

fn go_on(said: &str) -> Result<(), Failure> {
    println!("{said}");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Makes one call that has to fail, and says how.
pub(crate) async fn fail(addr: &str, fields: &[&str]) -> Result<(), Failure> {
    let mut client = Client::connect(addr, fields).await?;
    let request = client.request(Text::default()).await?;
    let failed = client
        .grpc
        .unary::<_, Text, _>(request, path("Unary")?, Codec::default())
        .await;
    let status = failed.err().ok_or("it did not fail")?;
    println!("{:?}: {}", status.code(), status.message());
    for name in ["proxy-status", "x-devroute-routed"] {
        let value = status.metadata().get(name).ok_or(name)?.to_str()?;
        println!("{name}: {value}");
    }
    Ok(())
}

fn is<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), Failure> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what} is {found:?}, not {expected:?}").into())
}
