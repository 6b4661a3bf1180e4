//! What `echo.proto` says.

use tonic::codegen::http::uri::PathAndQuery;

/// The name of the service.
pub(crate) const NAME: &str = "devroute.e2e.Echo";

/// The one message.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Text {
    /// For people.
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    /// For size.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) payload: Vec<u8>,
}

impl Text {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            payload: Vec::new(),
        }
    }
}

/// The path of a method.
pub(crate) fn path(method: &str) -> Result<PathAndQuery, http::uri::InvalidUri> {
    PathAndQuery::try_from(format!("/{NAME}/{method}"))
}

/// How messages are written.
pub(crate) type Codec = tonic_prost::ProstCodec<Text, Text>;
