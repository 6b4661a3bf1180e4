//! Whether what a target got is what was sent.

use std::collections::BTreeSet;

use super::reader::Request;

/// What a proxy adds, or has its own word in.
const OWN: [&str; 16] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    // For one connection without being named by it (RFC 9110, section 7.6.1).
    "keep-alive",
    "proxy-connection",
    "te",
    "upgrade",
    "http2-settings",
    "via",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-devroute",
    "x-devroute-matched",
];

/// Asserts that the target got the request that was sent.
pub(crate) fn same(sent: &Request, got: &Request) -> Result<(), String> {
    let ((host, path), (got_host, got_path)) = (sent.place(), got.place());
    let connection: Vec<String> = sent
        .all("connection")
        .iter()
        .flat_map(|it| it.split(|byte| *byte == b','))
        .map(|it| String::from_utf8_lossy(it.trim_ascii()).to_lowercase())
        .collect();
    let fields = |request: &Request| -> BTreeSet<(String, Vec<u8>)> {
        let fields = request.fields.iter().filter(|(name, _)| {
            !OWN.contains(&&**name) && name != "baggage" && !connection.contains(name)
        });
        fields.cloned().collect()
    };
    let is_same = sent.method == got.method
        && path == got_path
        && (host == got_host || sent.all("host").is_empty())
        && sent.body == got.body
        && fields(sent) == fields(got);
    if is_same {
        return Ok(());
    }
    Err(format!("{got:?} is not {sent:?}"))
}
