//! The tokens of JSON (RFC 8259) that a contract is made of.

use std::borrow::Cow;

use crate::service_name;
use crate::target::TargetRef;

/// What a reserved name begins with (rule 2).
pub(super) const RESERVED: u8 = b'$';

const ESCAPES: &str = "one of \" \\ / b f n r t u after a backslash";

/// A place in a text, and what stands there.
///
/// It goes over bytes, and what it has passed is UTF-8: everything outside strings is ASCII, and strings are
/// checked as they are read. That is cheaper than a check of the whole text, for nearly all strings are names and
/// plain targets, which are ASCII too.
#[derive(Clone, Debug)]
pub(super) struct Scanner<'t> {
    text: &'t [u8],
    rest: &'t [u8],
}

/// What is not JSON, and where.
#[derive(Debug)]
pub(super) struct Fault<'t> {
    pub(super) offset: usize,
    pub(super) expected: &'static str,
    pub(super) found: &'t [u8],
}

impl<'t> Scanner<'t> {
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self { text, rest: text }
    }

    pub(super) fn offset(&self) -> usize {
        self.text.len() - self.rest.len()
    }

    pub(super) fn rest(&self) -> &'t [u8] {
        self.rest
    }

    pub(super) fn skip_blanks(&mut self) {
        while let [byte, after @ ..] = self.rest {
            if *byte > b' ' || !is_blank(char::from(*byte)) {
                break;
            }
            self.rest = after;
        }
    }

    /// Steps over `token` if it is next, and over the blanks in front of it in any case.
    pub(super) fn token(&mut self, token: u8) -> bool {
        // Nearly all contracts are written without blanks, so none are looked for at first.
        self.eat(token) || {
            self.skip_blanks();
            self.eat(token)
        }
    }

    /// Steps over `token` if it is next.
    fn eat(&mut self, token: u8) -> bool {
        match self.rest {
            [first, after @ ..] if *first == token => {
                self.rest = after;
                true
            }
            _ => false,
        }
    }

    /// Whether a JSON value other than a string seems to begin here.
    pub(super) fn is_at_value(&self) -> bool {
        matches!(
            self.rest,
            [b'{' | b'[' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9', ..]
        )
    }

    /// A name up to its closing quote, with or without a `$` in front; `None` steps over nothing.
    ///
    /// This and [`plain_target`](Self::plain_target) read what nearly every member is made of in one go, where
    /// [`string`](Self::string) would be the first of two.
    pub(super) fn name(&mut self) -> Option<&'t [u8]> {
        let plain = self.rest.strip_prefix(&[RESERVED]).unwrap_or(self.rest);
        let len = plain
            .iter()
            .position(|byte| !service_name::is_name_byte(*byte))?;
        if !service_name::is_name_len(len) {
            return None;
        }
        self.take_string(self.rest.len() - plain.len() + len)
    }

    /// A target without a name or scheme up to its closing quote; `None` steps over nothing.
    #[inline(always)]
    pub(super) fn plain_target(&mut self) -> Option<(&'t [u8], TargetRef<'t>)> {
        let (target, len) = TargetRef::plain(self.rest)?;
        Some((self.take_string(len)?, target))
    }

    /// The string whose opening quote has been eaten; copied only if it has escapes.
    pub(super) fn string(&mut self) -> Result<Cow<'t, str>, Fault<'t>> {
        let plain = self.plain()?;
        if self.eat(b'"') {
            return Ok(Cow::Borrowed(plain));
        }
        let mut string = plain.to_owned();
        loop {
            if self.eat(b'\\') {
                string.push(self.escape()?);
            } else if self.eat(b'"') {
                return Ok(Cow::Owned(string));
            } else if self.rest.is_empty() {
                return Err(self.fault("a quote at the end of the string"));
            } else {
                return Err(self.fault("control characters as escapes"));
            }
            string.push_str(self.plain()?);
        }
    }

    /// Steps over `len` bytes and the closing quote after them, if it is there.
    fn take_string(&mut self, len: usize) -> Option<&'t [u8]> {
        match self.rest.split_at_checked(len) {
            Some((string, [b'"', after @ ..])) => {
                self.rest = after;
                Some(string)
            }
            _ => None,
        }
    }

    fn fault(&self, expected: &'static str) -> Fault<'t> {
        Fault {
            offset: self.offset(),
            expected,
            found: self.rest,
        }
    }

    /// Steps over what stands for itself in a string.
    fn plain(&mut self) -> Result<&'t str, Fault<'t>> {
        let mut len = 0;
        // Eight at a time, until one of the eight is special.
        while let Some(eight) = self.rest.get(len..).and_then(<[u8]>::first_chunk) {
            match first_special(*eight) {
                None => len += 8,
                Some(offset) => {
                    len += offset;
                    break;
                }
            }
        }
        while self.rest.get(len).is_some_and(|byte| !is_special(*byte)) {
            len += 1;
        }
        let (plain, after) = self.rest.split_at_checked(len).unwrap_or_default();
        let Ok(plain) = std::str::from_utf8(plain) else {
            return Err(self.fault("UTF-8"));
        };
        self.rest = after;
        Ok(plain)
    }

    /// The character of the escape whose backslash has been eaten.
    fn escape(&mut self) -> Result<char, Fault<'t>> {
        let Some((kind, after)) = self.rest.split_first() else {
            return Err(self.fault(ESCAPES));
        };
        let character = match kind {
            b'"' | b'\\' | b'/' => char::from(*kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => return Err(self.fault(ESCAPES)),
        };
        self.rest = after;
        Ok(character)
    }

    fn unicode_escape(&mut self) -> Result<char, Fault<'t>> {
        let start = self.clone();
        let first = self.code_unit()?;
        // A character outside the basic plane is two escapes, a high and a low surrogate.
        let second = match first {
            0xd800..0xdc00 if self.eat(b'\\') => Some(self.code_unit()?),
            _ => None,
        };
        match char::decode_utf16([first].into_iter().chain(second)).next() {
            Some(Ok(character)) => Ok(character),
            _ => Err(start.fault("surrogates in pairs")),
        }
    }

    /// The number of a `uXXXX`.
    fn code_unit(&mut self) -> Result<u16, Fault<'t>> {
        let (unit, after) = match self.rest {
            [b'u', a, b, c, d, after @ ..] => (hexadecimal([*a, *b, *c, *d]), after),
            rest => (None, rest),
        };
        match unit {
            Some(unit) => {
                self.rest = after;
                Ok(unit)
            }
            None => Err(self.fault("u and four hexadecimal digits after a backslash")),
        }
    }
}

fn hexadecimal(digits: [u8; 4]) -> Option<u16> {
    digits.into_iter().try_fold(0, |number, digit| {
        let digit = char::from(digit).to_digit(16)?;
        Some(number << 4 | u16::try_from(digit).ok()?)
    })
}

/// What does not stand for itself in a string.
const fn is_special(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < b' '
}

/// Finds the first special byte of eight without a branch for each.
fn first_special(eight: [u8; 8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    let word = u64::from_le_bytes(eight);
    // Where a byte is below `limit` its top bit comes out set. A borrow can set it in bytes behind (above) such a
    // byte too, but never before it, and the first one is all that counts.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & TOPS;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let special = equal(b'"') | equal(b'\\') | below(word, b' ');
    (special != 0).then(|| special.trailing_zeros() as usize / 8)
}

/// The blanks of JSON (RFC 8259 section 2).
pub(crate) const fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Result<Cow<'_, str>, usize> {
        let mut scan = Scanner::new(text.as_bytes());
        assert!(scan.eat(b'"'));
        scan.string().map_err(|fault| fault.offset)
    }

    #[test]
    fn strings_read_as_serde_json_reads_them() {
        for text in [
            r#""""#,
            r#""plain é🦀""#,
            r#""\"\\\/\b\f\n\r\t""#,
            r#""\u0041\u00e9\ud83e\uDD80\u0000x""#,
            "\"\u{7f}\"",
        ] {
            assert_eq!(
                string(text).unwrap(),
                serde_json::from_str::<String>(text).unwrap()
            );
        }
    }

    #[test]
    fn the_first_special_byte_is_found_wherever_it_is() {
        for special in 0..=u8::MAX {
            for other in [b'a', b' ', b'!', 0x7f, 0x80, 0xff, b'"', b'\\', 0] {
                for offset in 0..8 {
                    let mut eight = [b'x'; 8];
                    eight[offset] = special;
                    eight[7] = if offset == 7 { special } else { other };
                    let expected = eight.iter().position(|byte| is_special(*byte));
                    assert_eq!(first_special(eight), expected, "{eight:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_string_says_where() {
        for (text, offset) in [
            (r#"""#, 1),
            (r#""abc"#, 4),
            ("\"a\nb\"", 2),
            ("\"a\\n\u{1f}\"", 4),
            (r#""\"#, 2),
            (r#""\x""#, 2),
            (r#""\U0041""#, 2),
            (r#""\u004""#, 2),
            (r#""\u00g0""#, 2),
            (r#""\u+041""#, 2),
            (r#""\u00é""#, 2),
            (r#""\ud800""#, 2),
            (r#""\udc00""#, 2),
            (r#""\ud800\u0041""#, 2),
            (r#""\ud800\n""#, 8),
            (r#""\ud800\ud800""#, 2),
        ] {
            assert_eq!(string(text), Err(offset), "{text}");
            assert!(serde_json::from_str::<String>(text).is_err(), "{text}");
        }
    }
}
