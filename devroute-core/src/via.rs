//! How often a request has been rerouted already, from its `Via` fields (rule 8).
//!
//! Every reroute adds a member whose received-by is [`PSEUDONYM`] (RFC 9110 section 7.6.3). Members of other
//! intermediaries do not count, and neither do words in comments.

use http::HeaderMap;
use http::header::VIA;

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
    use super::hops_in;

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
            ("devroute gateway", 0),
            (
                "1.1 devroute2, 1.1 mydevroute, 1.1 devrout, 1.1 devroute:80",
                0,
            ),
            (",, 1.1 devroute,,", 1),
            ("1.1 gateway devroute", 0),
        ] {
            assert_eq!(hops_in(line.as_bytes()), hops, "{line}");
        }
    }

    #[test]
    fn an_unbalanced_comment_hides_nothing() {
        assert_eq!(hops_in(b"1.1 a (, 1.1 devroute, 1.1 devroute"), 2);
        assert_eq!(hops_in(b"1.1 a ), 1.1 devroute"), 1);
        assert_eq!(hops_in(b"1.1 a (\\, 1.1 devroute"), 1);
    }
}
