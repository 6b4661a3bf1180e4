//! JSON with its lines broken.
//!
//! It is moved about and not understood: numbers keep their digits, members their order, and what comes
//! twice stays twice. Whoever debugs wants to see what was sent.

use serde::de::IgnoredAny;

/// `text` with a line for each member and element, if it is JSON.
pub(crate) fn pretty(text: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let mut rest = text.trim_start();
    while let Some(letter) = rest.chars().next() {
        let token = match letter {
            '"' => string(rest),
            _ => rest.get(..letter.len_utf8()).unwrap_or(rest),
        };
        rest = rest.get(token.len()..).unwrap_or_default().trim_start();
        match letter {
            '{' | '[' => {
                out.push(letter);
                if !rest.starts_with(['}', ']']) {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                if !out.ends_with(['{', '[']) {
                    depth = depth.saturating_sub(1);
                    line(&mut out, depth);
                }
                out.push(letter);
            }
            ',' => {
                out.push(letter);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => out.push_str(token),
        }
    }
    Some(out)
}

/// The string that `text` begins with, in its quotes.
fn string(text: &str) -> &str {
    let mut is_escaped = false;
    for (place, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return text.get(..=place).unwrap_or(text),
            _ => {}
        }
    }
    text
}

fn line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_has_a_line_and_nothing_is_changed() {
        let text = r#" {"a":[1.000000000000000000001,-2e+7 ],"a" : {"b c":"\"{ , \\"},"d":{},"e":[ ], "f":null}"#;
        let expected = r#"{
  "a": [
    1.000000000000000000001,
    -2e+7
  ],
  "a": {
    "b c": "\"{ , \\"
  },
  "d": {},
  "e": [],
  "f": null
}"#;
        assert_eq!(pretty(text).unwrap(), expected);
        assert_eq!(pretty(expected).unwrap(), expected);
        assert_eq!(pretty("\"ü x\"").unwrap(), "\"ü x\"");
        assert_eq!(pretty("7").unwrap(), "7");
    }

    #[test]
    fn what_is_no_json_is_left_alone() {
        for text in ["", "{", "{} {}", "hello", "{'a':1}", "[1,]"] {
            assert_eq!(pretty(text), None, "{text}");
        }
    }
}
