//! How often a request has been rerouted already, from its `Via` fields (rule 8).
//!
//! Every reroute adds a member whose received-by is [`PSEUDONYM`] (RFC 9110 section 7.6.3). Members of other
//! intermediaries do not count, and neither do words in comments.
//!
//! A proxy for the own requests of one service says in a comment whose they are, as in `Via: 1.1 devroute (bar)`.

use http::HeaderMap;
use http::header::VIA;

use crate::ServiceName;

/// The received-by of the `Via` member that a reroute adds, as in `Via: 1.1 devroute`.
pub const PSEUDONYM: &str = "devroute";

/// The number of `devroute` members in `Via` at which a request is a loop.
pub const MAX_HOPS: usize = 16;

/// Counts the `devroute` members in all lines of `Via`.
///
/// ```
/// use devroute_core::via;
///
/// let mut headers = http::HeaderMap::new();
/// headers.append("via", "1.1 devroute, 2 gateway (not, devroute)".parse()?);
/// headers.append("via", "HTTP/1.1 devroute (v2)".parse()?);
/// assert_eq!(via::hops(&headers), 2);
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[must_use]
pub fn hops(headers: &HeaderMap) -> usize {
    headers
        .get_all(VIA)
        .iter()
        .map(|line| hops_in(line.as_bytes()))
        .sum()
}

/// The service whose own request it is, as the proxy has said that the request left it by; where several have, the last
/// of them.
///
/// Anybody may write it, so it is for people to read, and for nothing to be decided by.
///
/// ```
/// use devroute_core::via;
///
/// let mut headers = http::HeaderMap::new();
/// headers.append("via", "1.1 devroute (bar), 1.1 devroute".parse()?);
/// assert_eq!(via::caller(&headers).unwrap().as_str(), "bar");
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[must_use]
pub fn caller(headers: &HeaderMap) -> Option<ServiceName> {
    let lines = headers.get_all(VIA).iter().rev();
    lines
        .filter_map(|line| line.to_str().ok())
        .find_map(|line| line.rsplit(',').find_map(caller_in))
}

/// The same in one member. One that is torn apart at a comma in its comment is none of ours.
fn caller_in(member: &str) -> Option<ServiceName> {
    let (words, comment) = member.trim_end().strip_suffix(')')?.split_once('(')?;
    let mut words = words.split_ascii_whitespace();
    let (_version, received_by) = (words.next()?, words.next()?);
    let is_ours = received_by.eq_ignore_ascii_case(PSEUDONYM) && words.next().is_none();
    is_ours.then(|| ServiceName::new(comment).ok())?
}

fn hops_in(line: &[u8]) -> usize {
    // A comment that is never closed would swallow what stands behind it, and with it the hops of a loop:
    // then nothing in the line counts as a comment.
    count(line, true)
        .or_else(|| count(line, false))
        .unwrap_or_default()
}

/// Counts members; `None` when comments do not balance.
fn count(line: &[u8], comments: bool) -> Option<usize> {
    let mut hops = 0;
    let mut depth = 0_usize;
    let mut escaped = false;
    let mut member = Member::default();
    for &byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if depth > 0 => escaped = true,
            b'(' if comments => {
                depth += 1;
                member.blank();
            }
            b')' if comments => depth = depth.checked_sub(1)?,
            _ if depth > 0 => {}
            b',' => hops += usize::from(std::mem::take(&mut member).is_ours()),
            b' ' | b'\t' => member.blank(),
            _ => member.byte(byte),
        }
    }
    (depth == 0 && !escaped).then(|| hops + usize::from(member.is_ours()))
}

/// One member under way: which of its words this is, and how much of the second one is ours so far.
#[derive(Default)]
struct Member {
    word: usize,
    in_word: bool,
    matched: usize,
    differs: bool,
}

impl Member {
    fn blank(&mut self) {
        self.in_word = false;
    }

    fn byte(&mut self, byte: u8) {
        if !self.in_word {
            self.in_word = true;
            self.word += 1;
        }
        if self.word == 2 {
            match PSEUDONYM.as_bytes().get(self.matched) {
                Some(ours) if byte.eq_ignore_ascii_case(ours) => self.matched += 1,
                _ => self.differs = true,
            }
        }
    }

    fn is_ours(&self) -> bool {
        !self.differs && self.matched == PSEUDONYM.len()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{ServiceName, caller, hops_in};

    #[test]
    fn the_caller_is_the_last_that_is_named() {
        for (lines, expected) in [
            (&["1.1 devroute (bar)"][..], Some("bar")),
            (&["2 DevRoute\t(a_B.c-1)  "], Some("a_B.c-1")),
            (&["1.1 devroute(bar), 1.1 devroute"], Some("bar")),
            (
                &[
                    "1.1 devroute (a)",
                    "1.1 devroute (b), 1.1 x (y)",
                    "1.1 devroute",
                ],
                Some("b"),
            ),
            // What is no name of a service names none, and hides none.
            (&["1.1 devroute (a), 1.1 devroute (b c)"], Some("a")),
            (&["1.1 devroute (a), 1.1 devroute ($id)"], Some("a")),
            (&["1.1 devroute (a)", "1.1 devroute (\u{fc})"], Some("a")),
            (&["1.1 devroute ((a))", "1.1 devroute (a"], None),
            (&["1.1 devroute ()", "1.1 devroute", "devroute (a)"], None),
            (&["1.1 gateway (a)", "1.1 devroute x (a)"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("via", HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            let found = caller(&headers);
            let found = found.as_ref().map(ServiceName::as_str);
            assert_eq!(found, expected, "{lines:?}");
        }
    }

    #[test]
    fn a_named_hop_is_a_hop() {
        assert_eq!(hops_in(b"1.1 devroute (bar), 2 devroute"), 2);
    }

    #[test]
    fn only_received_by_counts() {
        for (line, hops) in [
            ("", 0),
            ("devroute", 0),
            ("1.1 devroute", 1),
            ("1.1 devroute,1.1\tdevroute , HTTP/2  DevRoute", 3),
            ("1.1 devroute (devroute)", 1),
            ("1.1 devroute(a, 1.1 devroute)", 1),
            (
                "1.1 a (nested (1.1 devroute,), 1.1 devroute), 1.1 devroute",
                1,
            ),
            (r"1.1 a (quoted \), 1.1 devroute), 1.1 devroute", 1),
            (r"1.1 a (quoted \), 1.1 devroute (b)), 1.1 devroute", 1),
            ("devroute gateway", 0),
            (
                "1.1 devroute2, 1.1 mydevroute, 1.1 devrout, 1.1 devroute:80",
                0,
            ),
            (",, 1.1 devroute,,", 1),
            ("1.1 gateway devroute", 0),
            ("1.1 upstream", 0),
        ] {
            assert_eq!(hops_in(line.as_bytes()), hops, "{line}");
        }
    }

    #[test]
    fn a_backslash_outside_a_comment_hides_nothing() {
        assert_eq!(hops_in(br"1.1 a\, 1.1 devroute"), 1);
        assert_eq!(hops_in(br"1.1 a\(b), 1.1 devroute"), 1);
        assert_eq!(hops_in(br"1.1 a (b) \, 1.1 devroute"), 1);
    }

    #[test]
    fn an_unbalanced_comment_hides_nothing() {
        assert_eq!(hops_in(b"1.1 a (, 1.1 devroute, 1.1 devroute"), 2);
        assert_eq!(hops_in(b"1.1 a ), 1.1 devroute"), 1);
        assert_eq!(hops_in(b"1.1 a (\\, 1.1 devroute"), 1);
    }
}
