//! The cookie of rules 9 and 20, from a file that other implementations read too.

use allocation_counter::measure;
use devroute_core::carrier::{self, cookie};
use devroute_core::{Contract, ContractErrorKind};
use http::HeaderMap;
use http::header::COOKIE;
use proptest::collection::vec;
use proptest::prelude::*;
use serde::Deserialize;

use crate::headers;

#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    fields: Vec<(String, String)>,
    contract: Option<String>,
    malformed: Option<String>,
    left: Vec<(String, String)>,
}

fn map(lines: &[(String, String)]) -> HeaderMap {
    headers(
        lines
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    )
}

/// The cookies as HTTP/1.1 has them.
fn cookies(headers: &HeaderMap) -> String {
    let lines: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .map(|line| line.to_str().unwrap())
        .collect();
    lines.join("; ")
}

#[test]
fn rules_09_and_20_hold_for_every_vector() {
    let file: Vectors = serde_json::from_str(include_str!("../vectors/cookie.json")).unwrap();
    assert!(file.vectors.len() > 30, "the file was read to its end");
    for vector in file.vectors {
        let name = &vector.name;
        let mut headers = map(&vector.fields);
        let moved = cookie::to_field(&mut headers);
        assert!(!cookie::is_present(&headers), "{name}");
        assert_eq!(cookies(&headers), cookies(&map(&vector.left)), "{name}");
        let found = moved.and_then(|()| carrier::read(&headers));
        match (vector.contract, vector.malformed) {
            (None, Some(kind)) => assert_eq!(found.unwrap_err().kind().as_str(), kind, "{name}"),
            (Some(text), None) => {
                assert_eq!(found.unwrap(), Some(text.parse().unwrap()), "{name}");
            }
            _ => assert_eq!(found.unwrap(), None, "{name}"),
        }
    }
}

#[test]
fn what_is_written_is_read_and_fits_into_a_cookie() {
    let contract: Contract = r#"{"foo":"https://[fd00::7]:80","$n":"; \"%+ ü"}"#.parse().unwrap();
    let value = cookie::encode(&contract);
    let is_octet = |byte: u8| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte);
    assert!(value.bytes().all(is_octet), "{value} (RFC 6265, 4.1.1)");
    let headers = headers([("cookie", &*format!("a=1; {}={value}", cookie::NAME))]);
    assert_eq!(cookie::read(&headers).unwrap(), Some(contract));
}

proptest! {
    /// Whatever stands between semicolons: ours goes, and others keep their bytes and their order.
    #[test]
    fn rule_20_other_cookies_are_left_as_they_are(
        lines in vec(
            vec("[ \t]{0,2}(devroute|devroute2|a|)[ ]{0,1}(=|)[a-z%0-9=\",]{0,6}[ ]{0,1}", 1..5),
            1..4,
        ),
    ) {
        let is_other = |cookie: &str| {
            let (name, rest) = cookie.split_at(cookie.find('=').unwrap_or(cookie.len()));
            name.trim_matches([' ', '\t']) != "devroute" || rest.is_empty()
        };
        let joined: Vec<String> = lines.iter().map(|cookies| cookies.join(";")).collect();
        let mut headers = headers(joined.iter().map(|line| ("cookie", line.as_str())));
        let others: Vec<String> = lines
            .iter()
            .filter_map(|cookies| {
                let mut kept: Vec<&str> = cookies.iter().map(String::as_str).collect();
                let all = kept.len();
                kept.retain(|cookie| is_other(cookie));
                let line = kept.join(";");
                let line = if kept.len() == all { &*line } else { line.trim_matches([' ', '\t']) };
                (kept.len() == all || !line.is_empty()).then(|| line.to_owned())
            })
            .collect();
        let _verdict = cookie::to_field(&mut headers);
        prop_assert!(!cookie::is_present(&headers));
        let left: Vec<_> = headers.get_all(COOKIE).iter().map(|line| line.to_str().unwrap()).collect();
        prop_assert_eq!(left, others);
    }
}

#[test]
fn an_error_shows_no_other_cookie() {
    let headers = headers([("cookie", "session=secret; devroute=x; token=secret")]);
    let error = cookie::read(&headers).unwrap_err();
    assert_eq!(error.kind(), ContractErrorKind::InvalidCookie);
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn the_longest_cookie_is_refused_before_it_is_decoded() {
    let headers = headers([("cookie", &*format!("devroute={}", "%25".repeat(60_000)))]);
    let error = cookie::read(&headers).unwrap_err();
    assert_eq!(error.kind(), ContractErrorKind::TooLong);
}

#[test]
fn other_cookies_allocate_nothing() {
    for lines in [
        &[("accept", "*/*")][..],
        &[("cookie", "a=1; devrouter=2"), ("cookie", "b")],
    ] {
        let mut headers = headers(lines.iter().copied());
        let count = measure(|| cookie::to_field(&mut headers).unwrap()).count_total;
        assert_eq!(count, 0, "{lines:?}");
        assert_eq!(headers.len(), lines.len());
    }
}
