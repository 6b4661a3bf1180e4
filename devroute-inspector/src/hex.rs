//! Bytes as people read them: sixteen a line, with their places and their letters.

use std::fmt::Write as _;

/// Bytes of which a dump is made at most.
pub(crate) const LONGEST: usize = 16 * 1024;

/// A dump of the beginning of `bytes`.
pub(crate) fn dump(bytes: &[u8]) -> String {
    let bytes = bytes.get(..LONGEST).unwrap_or(bytes);
    let mut text = String::with_capacity(bytes.len() * 5);
    for (index, line) in bytes.chunks(16).enumerate() {
        if index > 0 {
            text.push('\n');
        }
        let _ = write!(text, "{:08x} ", index * 16);
        for place in 0..16 {
            if place == 8 {
                text.push(' ');
            }
            let _ = match line.get(place) {
                Some(byte) => write!(text, " {byte:02x}"),
                None => write!(text, "   "),
            };
        }
        text.push_str("  ");
        text.extend(line.iter().map(|&byte| match byte {
            b' '..=b'~' => char::from(byte),
            _ => '.',
        }));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_place_its_bytes_and_its_letters() {
        assert_eq!(
            dump(b"GET / HTTP/1.1\r\n\0x"),
            "00000000  47 45 54 20 2f 20 48 54  54 50 2f 31 2e 31 0d 0a  GET / HTTP/1.1..\n\
             00000010  00 78                                             .x"
        );
        assert_eq!(dump(b""), "");
        assert_eq!(dump(&[0; 20_000]).lines().count(), LONGEST / 16);
    }
}
