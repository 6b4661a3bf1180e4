//! Section "Carriers": rules 9 and 10, from a file that other implementations read too, and the limits.

use devroute_core::carrier::{self, Unwritten, Written, baggage};
use devroute_core::{Contract, ContractErrorKind};
use http::HeaderMap;
use serde::Deserialize;

use crate::headers;

type Lines = Vec<(String, String)>;

#[derive(Deserialize)]
struct Vectors {
    read: Vec<Read>,
    write: Vec<Write>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    name: String,
    fields: Lines,
    contract: Option<String>,
    malformed: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Write {
    name: String,
    fields: Lines,
    write: String,
    written: Lines,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../vectors/carrier.json")).unwrap()
}

fn map(lines: &Lines) -> HeaderMap {
    headers(
        lines
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    )
}

fn lines(headers: &HeaderMap) -> Lines {
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (
            name.to_string(),
            String::from_utf8(value.as_bytes().to_vec()).unwrap(),
        )
    };
    let mut lines: Lines = headers.iter().map(line).collect();
    lines.sort();
    lines
}

fn baggage(line: &str) -> HeaderMap {
    headers([("baggage", line)])
}

#[test]
fn rule_09_reading_holds_for_every_vector() {
    let vectors = vectors().read;
    assert!(vectors.len() > 25, "the file was read to its end");
    for vector in vectors {
        let name = vector.name;
        let headers = map(&vector.fields);
        match (carrier::read(&headers), &vector.malformed) {
            (Err(error), Some(kind)) => assert_eq!(error.kind().as_str(), kind, "{name}: {error}"),
            (Ok(contract), None) => {
                let expected = vector
                    .contract
                    .map(|text| text.parse::<Contract>().unwrap());
                assert_eq!(contract, expected, "{name}");
                assert_eq!(carrier::is_present(&headers), contract.is_some(), "{name}");
            }
            (got, expected) => panic!("{name}: expected {expected:?}, got {got:?}"),
        }
    }
}

#[test]
fn rule_09_a_carrier_is_present_even_if_it_is_malformed() {
    for vector in vectors().read {
        if vector.malformed.is_some() {
            assert!(carrier::is_present(&map(&vector.fields)), "{}", vector.name);
        }
    }
}

#[test]
fn rule_09_a_value_too_long_to_be_any_contract_is_not_decoded() {
    let error = carrier::read(&baggage(&format!("devroute={}", "%25".repeat(60_000)))).unwrap_err();
    assert_eq!(error.kind(), ContractErrorKind::TooLong);
}

#[test]
fn rule_09_a_carrier_can_be_read_alone() {
    let both = headers([
        ("x-devroute", r#"{"$x":"a"}"#),
        ("baggage", "devroute=%7B%7D"),
    ]);
    let field = carrier::header::read(&both).unwrap().unwrap();
    assert_eq!(field.as_str(), r#"{"$x":"a"}"#);
    let member = carrier::baggage::read(&both).unwrap().unwrap();
    assert_eq!(member.as_str(), "{}");
    for none in [HeaderMap::new(), baggage("devroute=%7B%7D")] {
        assert_eq!(carrier::header::read(&none).unwrap(), None);
    }
}

/// To the byte: the longest contract behind the most layers is decoded, and nothing longer.
#[test]
fn rule_09_the_longest_contract_is_read_behind_eight_layers() {
    let frame = r#"{"$x":""}"#.len();
    let text = format!(r#"{{"$x":"{}"}}"#, "a".repeat(8192 - frame));
    let once: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let value = (1..8).fold(once, |value, _| value.replace('%', "%25"));
    let contract = carrier::baggage::decode(value.as_bytes()).unwrap();
    assert_eq!(contract.as_str(), text);

    let error = carrier::baggage::decode(format!("{value} ").as_bytes()).unwrap_err();
    assert_eq!(error.kind(), ContractErrorKind::TooLong);
    assert_eq!(error.offset(), None);
}

#[test]
fn rule_10_writing_holds_for_every_vector() {
    for vector in vectors().write {
        let name = vector.name;
        let contract: Contract = vector.write.parse().unwrap();
        let mut headers = map(&vector.fields);
        assert_eq!(
            carrier::write(&mut headers, &contract),
            Written::Both,
            "{name}"
        );
        let mut written = vector.written.clone();
        written.sort();
        assert_eq!(lines(&headers), written, "{name}");
        carrier::write(&mut headers, &contract);
        assert_eq!(lines(&headers), written, "{name}: twice is once");
        headers.remove(carrier::CONTRACT);
        assert_eq!(
            carrier::read(&headers).unwrap(),
            Some(contract),
            "{name}: and reads back"
        );
    }
}

/// A contract whose member is exactly `len` bytes long.
fn contract_with_member_of(len: usize) -> Contract {
    let frame = r#"devroute=%7B%22%24x%22%3A%22%22%7D"#.len();
    format!(r#"{{"$x":"{}"}}"#, "a".repeat(len - frame))
        .parse()
        .unwrap()
}

#[test]
fn rule_10_a_member_has_at_most_3072_bytes() {
    let mut headers = HeaderMap::new();
    let fits = contract_with_member_of(3072);
    assert_eq!(carrier::write(&mut headers, &fits), Written::Both);
    assert_eq!(headers["baggage"].len(), 3072);

    let long = contract_with_member_of(3073);
    let written = carrier::write(&mut headers, &long);
    assert_eq!(written, Written::FieldOnly(Unwritten::MemberTooLong));
    assert_eq!(headers["x-devroute"], long.header_value());
    assert!(
        !headers.contains_key("baggage"),
        "the member of the other contract is gone"
    );
}

#[test]
fn rule_10_baggage_has_at_most_64_members() {
    let others = |count: usize| vec!["a=1"; count].join(",");
    let mut headers = baggage(&others(63));
    assert_eq!(
        carrier::write(&mut headers, &Contract::empty()),
        Written::Both
    );
    let mut headers = baggage(&others(64));
    let written = carrier::write(&mut headers, &Contract::empty());
    assert_eq!(written, Written::FieldOnly(Unwritten::TooManyMembers));
    assert_eq!(headers["baggage"], others(64));
}

#[test]
fn rule_10_baggage_has_at_most_8192_bytes() {
    let ours = ",devroute=%7B%7D".len();
    let other = |len: usize| format!("a={}", "1".repeat(len - 2));
    let mut headers = baggage(&other(8192 - ours));
    assert_eq!(
        carrier::write(&mut headers, &Contract::empty()),
        Written::Both
    );
    assert_eq!(headers["baggage"].len(), 8192);
    let mut headers = baggage(&other(8193 - ours));
    let written = carrier::write(&mut headers, &Contract::empty());
    assert_eq!(written, Written::FieldOnly(Unwritten::FieldTooLong));
    assert_eq!(headers["baggage"], other(8193 - ours));
}

#[test]
fn rule_10_a_member_that_cannot_be_written_goes_if_it_differs_and_stays_if_not() {
    let others = vec!["a=1"; 64].join(",");
    for (member, stays) in [
        ("devroute=%257B%257D", true),
        ("devroute=%7B%22%24x%22%3A%22%22%7D", false),
        ("devroute", false),
    ] {
        let line = format!("{others},{member}");
        let mut headers = baggage(&line);
        let written = carrier::write(&mut headers, &Contract::empty());
        if stays {
            assert_eq!(written, Written::Both, "{member}");
            assert_eq!(headers["baggage"], line);
        } else {
            assert_eq!(
                written,
                Written::FieldOnly(Unwritten::TooManyMembers),
                "{member}"
            );
            assert_eq!(headers["baggage"], others);
        }
    }
}

#[test]
fn rule_10_bytes_outside_ascii_in_other_members_survive() {
    let mut headers = HeaderMap::new();
    let other = http::HeaderValue::from_bytes(b"a=\xff\xfe;p").unwrap();
    headers.insert("baggage", other.clone());
    carrier::write(&mut headers, &Contract::empty());
    assert_eq!(
        headers["baggage"].as_bytes(),
        b"a=\xff\xfe;p,devroute=%7B%7D"
    );
    carrier::remove(&mut headers);
    assert_eq!(headers["baggage"], other);
}

#[test]
fn rule_11_removing_takes_ours_and_leaves_the_rest_byte_for_byte() {
    for (before, after) in [
        (vec!["devroute=%7B%7D"], vec![]),
        (vec!["devroute"], vec![]),
        (vec!["devroute=x;p , a=1 ; q"], vec!["a=1 ; q"]),
        (vec!["a=1 ,devroute=x, b=2"], vec!["a=1 , b=2"]),
        (
            vec!["a=1,devroute=x", "devroute=y", "b=2 , c"],
            vec!["a=1", "b=2 , c"],
        ),
        (vec!["a=1,, b"], vec!["a=1,, b"]),
        (vec!["devrouter=1"], vec!["devrouter=1"]),
    ] {
        let fields = before.iter().map(|line| ("baggage", *line));
        let mut headers = headers(fields.chain([("x-devroute", "{}"), ("x-devroute", "[]")]));
        carrier::remove(&mut headers);
        assert!(!carrier::is_present(&headers));
        let left: Vec<_> = headers.get_all("baggage").iter().collect();
        assert_eq!(left, after, "{before:?}");
        assert_eq!(headers.len(), after.len());
    }
}

#[test]
fn rule_10_a_contract_that_is_too_long_once_it_is_spelled_for_a_member_is_not_written() {
    let contract: Contract = format!("{{\"$x\":\"{}\"}}", "%".repeat(2000))
        .parse()
        .unwrap();
    let value = baggage::encode(&contract);
    let error = baggage::decode(value.as_bytes()).unwrap_err();
    assert_eq!(error.kind(), ContractErrorKind::TooLong);
    let mut headers = HeaderMap::new();
    let written = carrier::write(&mut headers, &contract);
    assert_eq!(written, Written::FieldOnly(Unwritten::MemberTooLong));
    assert_eq!(carrier::read(&headers), Ok(Some(contract)));
}

#[test]
fn why_a_member_is_not_written_has_a_label() {
    use devroute_core::carrier::Unwritten;

    for (reason, label) in [
        (Unwritten::MemberTooLong, "member_too_long"),
        (Unwritten::TooManyMembers, "too_many_members"),
        (Unwritten::FieldTooLong, "field_too_long"),
    ] {
        assert_eq!((reason.as_str(), &*reason.to_string()), (label, label));
    }
}
