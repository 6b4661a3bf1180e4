//! A simple reading of rules 1 to 3 and 15, to hold the parser against: serde_json reads, a map is built, names and
//! targets are taken apart with the tools of the standard library.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// The members of a well-formed contract.
pub(crate) fn read(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    if bytes.len() > 8192 {
        return None;
    }
    let Members(members) = serde_json::from_slice(bytes).ok()?;
    let is_well_formed = |(name, value): (&String, &String)| match name.strip_prefix('$') {
        Some("id") => is_word(value, 64),
        Some(rest) => is_word(rest, 253),
        None => is_word(name, 253) && is_target(value),
    };
    let is_well_formed = members.len() <= 64 && members.iter().all(is_well_formed);
    (is_well_formed && fits(std::str::from_utf8(bytes).ok()?)).then_some(members)
}

/// Whether a contract can be a field value as it is, or fits into one when it is spelled anew (rule 1).
fn fits(text: &str) -> bool {
    if !text.trim().contains(['\r', '\n', '\x7f']) {
        return true;
    }
    // Every second part is a string, once what is escaped holds no quote.
    let no_escaped_quotes = text.replace(r"\\", "__").replace(r#"\""#, "__");
    let length = |(place, part): (usize, &str)| -> usize {
        let of_character = |c: char| match c {
            _ if place % 2 == 0 => usize::from(!c.is_ascii_whitespace()),
            ' ' | '%' | '+' | '\x7f' => 6,
            _ if c.is_ascii() => 1,
            _ => 6 * c.len_utf16(),
        };
        part.chars().map(of_character).sum()
    };
    let parts: Vec<&str> = no_escaped_quotes.split('"').collect();
    let quotes = parts.len() - 1;
    parts.into_iter().enumerate().map(length).sum::<usize>() + quotes <= 8192
}

fn is_word(text: &str, max: usize) -> bool {
    let is_byte = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    !text.is_empty() && text.len() <= max && text.chars().all(is_byte)
}

fn is_target(text: &str) -> bool {
    let schemes = ["http://", "h2c://", "https://"];
    let rest = schemes
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text);
    let Some((host, port)) = rest.rsplit_once(':') else {
        return false;
    };
    let is_port = port
        .parse::<u16>()
        .is_ok_and(|number| number > 0 && number.to_string() == port);
    is_port && is_host(host)
}

fn is_host(host: &str) -> bool {
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return inner.parse::<Ipv6Addr>().is_ok();
    }
    let last = host.rsplit('.').next().unwrap();
    if last.chars().all(|c| c.is_ascii_digit()) && !last.is_empty()
        || last.to_lowercase().starts_with("0x")
    {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        })
}

struct Members(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NoDuplicates;

        impl<'de> Visitor<'de> for NoDuplicates {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name twice"));
                    }
                }
                Ok(Members(members))
            }
        }

        from.deserialize_map(NoDuplicates)
    }
}
