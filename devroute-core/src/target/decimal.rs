//! Numbers of an address as text.

/// An IPv4 address, with or without a port, on the stack.
///
/// The standard library formats each of its numbers by itself, which takes twenty times as long; a rerouted
/// request has its target written out four times.
#[derive(Debug, Default)]
pub(super) struct Decimal {
    bytes: [u8; "255.255.255.255:65535".len()],
    len: usize,
}

impl Decimal {
    pub(super) fn ip(mut self, ip: std::net::Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        self.number(a.into());
        for octet in [b, c, d] {
            self.push(b'.');
            self.number(octet.into());
        }
        self
    }

    pub(super) fn port(mut self, port: u16) -> Self {
        self.push(b':');
        self.number(port);
        self
    }

    pub(super) fn as_str(&self) -> &str {
        let text = self.bytes.get(..self.len).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }

    fn number(&mut self, number: u16) {
        for (least, divisor) in [
            (10_000, 10_000),
            (1_000, 1_000),
            (100, 100),
            (10, 10),
            (0, 1),
        ] {
            if number >= least {
                self.push(b'0' + (number / divisor % 10) as u8);
            }
        }
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_standard_library_does() {
        for number in 0..=u16::MAX {
            let written = Decimal::default().port(number);
            assert_eq!(written.as_str(), format!(":{number}"));
        }
        for text in ["0.0.0.0", "1.20.255.100", "255.255.255.255"] {
            assert_eq!(Decimal::default().ip(text.parse().unwrap()).as_str(), text);
        }
        let longest = Decimal::default().ip([255; 4].into()).port(u16::MAX);
        assert_eq!(longest.as_str(), "255.255.255.255:65535");
    }
}
