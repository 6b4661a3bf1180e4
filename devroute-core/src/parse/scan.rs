//! The tokens of JSON (RFC 8259) that a contract is made of.

use std::borrow::Cow;

use crate::service_name;
use crate::target::TargetRef;

/// What a reserved name begins with (rule 2).
pub(super) const RESERVED: u8 = b'$';

/// A place in a text, and what stands there.
#[derive(Clone, Debug)]
pub(super) struct Scanner<'t> {
    text: &'t str,
    /// Always at the start of a character.
    at: usize,
}

/// What is not JSON, and where.
#[derive(Debug)]
pub(super) struct Fault<'t> {
    pub(super) offset: usize,
    pub(super) expected: &'static str,
    pub(super) found: &'t str,
}

impl<'t> Scanner<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn offset(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(super) fn skip_blanks(&mut self) {
        while self
            .peek()
            .is_some_and(|byte| byte <= b' ' && is_blank(char::from(byte)))
        {
            self.at += 1;
        }
    }

    /// Steps over `token`, an ASCII character, if it is next.
    pub(super) fn eat(&mut self, token: u8) -> bool {
        let is_next = self.peek() == Some(token);
        self.at += usize::from(is_next);
        is_next
    }

    /// Whether a JSON value other than a string seems to begin here.
    pub(super) fn is_at_value(&self) -> bool {
        matches!(
            self.peek(),
            Some(b'{' | b'[' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9')
        )
    }

    /// A name up to its closing quote, with or without a `$` in front; `None` steps over nothing.
    ///
    /// This and [`plain_target`](Self::plain_target) read what nearly every member is made of in one go, where
    /// [`string`](Self::string) would be the first of two.
    pub(super) fn name(&mut self) -> Option<&'t str> {
        let rest = self.bytes();
        let reserved = usize::from(rest.first() == Some(&RESERVED));
        let mut len = reserved;
        while rest
            .get(len)
            .is_some_and(|byte| service_name::is_name_byte(*byte))
        {
            len += 1;
        }
        let is_name = service_name::is_name_len(len - reserved);
        if !is_name || rest.get(len) != Some(&b'"') {
            return None;
        }
        Some(self.take_string(len))
    }

    /// A target without a name or scheme up to its closing quote; `None` steps over nothing.
    pub(super) fn plain_target(&mut self) -> Option<(&'t str, TargetRef<'t>)> {
        let (target, len) = TargetRef::plain(self.bytes(), Some(b'"'))?;
        Some((self.take_string(len), target))
    }

    /// The string whose opening quote has been eaten; copied only if it has escapes.
    pub(super) fn string(&mut self) -> Result<Cow<'t, str>, Fault<'t>> {
        let plain = self.plain();
        if self.eat(b'"') {
            return Ok(Cow::Borrowed(plain));
        }
        let mut string = plain.to_owned();
        loop {
            if self.eat(b'\\') {
                string.push(self.escape()?);
            } else if self.eat(b'"') {
                return Ok(Cow::Owned(string));
            } else if self.peek().is_some() {
                return Err(self.fault("control characters as escapes"));
            } else {
                return Err(self.fault("a quote at the end of the string"));
            }
            string.push_str(self.plain());
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Steps over `len` bytes and the closing quote after them.
    fn take_string(&mut self, len: usize) -> &'t str {
        let string = self.text.get(self.at..self.at + len).unwrap_or_default();
        self.at += len + 1;
        string
    }

    fn bytes(&self) -> &'t [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn fault(&self, expected: &'static str) -> Fault<'t> {
        Fault {
            offset: self.at,
            expected,
            found: self.rest(),
        }
    }

    /// Steps over what stands for itself in a string.
    fn plain(&mut self) -> &'t str {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let mut len = 0;
        // Eight at a time, until one of the eight is special.
        while let Some(eight) = bytes.get(len..).and_then(<[u8]>::first_chunk) {
            match first_special(*eight) {
                None => len += 8,
                Some(offset) => {
                    len += offset;
                    break;
                }
            }
        }
        while bytes.get(len).is_some_and(|byte| !is_special(*byte)) {
            len += 1;
        }
        self.at += len;
        rest.get(..len).unwrap_or_default()
    }

    /// The character of the escape whose backslash has been eaten.
    fn escape(&mut self) -> Result<char, Fault<'t>> {
        let character = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.fault("one of \" \\ / b f n r t u after a backslash")),
        };
        self.at += 1;
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
        let digits = self.rest().strip_prefix('u').and_then(|rest| rest.get(..4));
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.and_then(|digits| u16::from_str_radix(digits, 16).ok()) {
            Some(unit) => {
                self.at += "uXXXX".len();
                Ok(unit)
            }
            None => Err(self.fault("u and four hexadecimal digits after a backslash")),
        }
    }
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
        let mut scan = Scanner::new(text);
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
