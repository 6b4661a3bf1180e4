//! How a contract is spelled where we have to spell it: no blanks, printable ASCII only.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::parse::is_blank;

/// Spells a well-formed contract anew so that it fits any carrier and survives any peer.
///
/// Blanks between tokens go. Inside strings everything but plain ASCII becomes a JSON escape, and with it what
/// is legal but gets lost on the way: `%` (decoded once too often), `+` and the space (turned into each other).
///
/// Most contracts are spelled so already: programs write them.
pub(crate) fn compact(text: &str) -> Cow<'_, str> {
    // Without blanks between tokens nothing is left to do outside of strings.
    if text.bytes().all(stays_in_string) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut in_string = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                in_string = !in_string;
                out.push('"');
            }
            // An escape is two characters or more; the second one may be a quote and ends nothing.
            '\\' => {
                out.push('\\');
                out.extend(characters.next());
            }
            _ if !in_string => {
                if !is_blank(character) {
                    out.push(character);
                }
            }
            _ => push_in_string(&mut out, character),
        }
    }
    Cow::Owned(out)
}

/// Whether a character of a string keeps its spelling.
pub(crate) fn stays_in_string(byte: u8) -> bool {
    class(byte) & STAYS != 0
}

/// RFC 3986 2.3.
pub(crate) fn is_unreserved(byte: u8) -> bool {
    class(byte) & UNRESERVED != 0
}

fn class(byte: u8) -> u8 {
    CLASSES.get(usize::from(byte)).copied().unwrap_or(0)
}

const STAYS: u8 = 1;
const UNRESERVED: u8 = 2;

/// What each byte is: every byte of every contract that is carried on is asked for.
#[expect(clippy::indexing_slicing, reason = "the compiler evaluates it")]
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        let stays = !matches!(byte, b'%' | b'+');
        let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        classes[byte as usize] =
            if stays { STAYS } else { 0 } | if unreserved { UNRESERVED } else { 0 };
        byte += 1;
    }
    classes
};

/// Appends `value` as a JSON string.
pub(crate) fn push_string(out: &mut String, value: &str) {
    out.push('"');
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            _ => push_in_string(out, character),
        }
    }
    out.push('"');
}

fn push_in_string(out: &mut String, character: char) {
    match u8::try_from(character) {
        Ok(byte) if stays_in_string(byte) => out.push(character),
        _ => push_escape(out, character),
    }
}

fn push_escape(out: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        // Writing to a string cannot fail.
        let _ = write!(out, "\\u{unit:04x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compacting_keeps_the_meaning() {
        let text = "{ \"$note\" :\t\"a b+c 50% \\\" \\\\ é🦀\u{7f}\" ,\r\n\"foo\":\"10.0.0.1:80\"}";
        let compacted = compact(text);
        assert_eq!(
            compacted,
            concat!(
                r#"{"$note":"a\u0020b\u002bc\u002050\u0025\u0020\"\u0020\\\u0020"#,
                r#"\u00e9\ud83e\udd80\u007f","foo":"10.0.0.1:80"}"#
            )
        );
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&compacted), read(text));
        assert!(matches!(compact(&compacted), Cow::Borrowed(text) if text == compacted));
    }

    #[test]
    fn a_pushed_string_reads_back() {
        for value in ["", "plain", "q\"b\\s/", "\0\n\u{7f}é🦀 %+"] {
            let mut out = String::new();
            push_string(&mut out, value);
            assert_eq!(serde_json::from_str::<String>(&out).unwrap(), value);
            assert!(
                out.bytes().all(|byte| (b'!'..=b'~').contains(&byte)),
                "{out}"
            );
        }
    }
}
