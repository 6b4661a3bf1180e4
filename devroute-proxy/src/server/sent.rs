//! What a server of HTTP/2 says no to, as seen in the bytes that it sends.
//!
//! Streams beyond their number and heads beyond their size are refused, and floods ended, inside HTTP/2 (the
//! crate h2), where nobody is told. All of it goes out as frames (RFC 9113, sections 6.2, 6.4 and 6.8), so it
//! is counted there: from frame to frame, without looking at what is in the others. Of most heads one byte is
//! looked at (`too_large.rs`).

use super::too_large::TooLarge;

/// Walks over the frames that are sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// The head of the next frame and as much behind it as is looked at, as far as it has come.
    seen: [u8; Self::HEAD + Self::LOOKED_AT],
    known: usize,
    /// How much of the frame's payload is passed over.
    rest: usize,
    too_large: TooLarge,
}

/// What was said no to in some bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Refused {
    /// Streams that were too many.
    pub(super) streams: u64,
    /// Connections of a client that was told to calm down.
    pub(super) floods: u64,
    /// Heads that were too large.
    pub(super) heads: u64,
}

impl Sent {
    const HEAD: usize = 9;
    /// A reason, behind the last stream in a GOAWAY.
    const LOOKED_AT: usize = 8;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const GOAWAY: u8 = 7;
    const CONTINUATION: u8 = 9;
    const REFUSED_STREAM: u32 = 7;
    const COMPRESSION_ERROR: u32 = 9;
    const ENHANCE_YOUR_CALM: u32 = 11;

    /// Sees the next bytes.
    pub(super) fn see(&mut self, mut bytes: &[u8]) -> Refused {
        let mut refused = Refused::default();
        loop {
            if self.rest > 0 {
                let (passed, later) = bytes.split_at(self.rest.min(bytes.len()));
                self.rest -= passed.len();
                bytes = later;
                self.too_large.see(passed);
                if self.rest == 0 {
                    refused.heads += u64::from(self.too_large.end());
                }
            }
            if bytes.is_empty() {
                return refused;
            }
            let wanted = self.wanted();
            let taken = (wanted - self.known).min(bytes.len());
            let (now, later) = bytes.split_at(taken);
            if let Some(place) = self.seen.get_mut(self.known..self.known + taken) {
                place.copy_from_slice(now);
            }
            self.known += taken;
            bytes = later;
            if self.known == self.wanted() {
                self.finish(&mut refused);
            }
        }
    }

    /// How much of this frame is looked at.
    fn wanted(&self) -> usize {
        if self.known < Self::HEAD {
            return Self::HEAD;
        }
        let [a, b, c, kind, ..] = self.seen;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            Self::HEADERS => Self::HEAD + length.min(1),
            Self::RST_STREAM => Self::HEAD + length.min(4),
            Self::GOAWAY => Self::HEAD + length.min(8),
            _ => Self::HEAD,
        }
    }

    fn finish(&mut self, refused: &mut Refused) {
        let [a, b, c, kind, flags, _, _, _, _, d, e, f, g, h, i, j, k] = self.seen;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            Self::HEADERS if length > 0 => {
                self.too_large.begin(flags, d);
                self.too_large.see(&[d]);
            }
            Self::CONTINUATION => self.too_large.go_on(flags),
            Self::RST_STREAM
                if length == 4 && u32::from_be_bytes([d, e, f, g]) == Self::REFUSED_STREAM =>
            {
                refused.streams += 1;
            }
            Self::GOAWAY if length >= 8 => match u32::from_be_bytes([h, i, j, k]) {
                Self::ENHANCE_YOUR_CALM => refused.floods += 1,
                // What h2 says where a head is too large and what is left of it no longer worth reading. A
                // head that it cannot decode is a PROTOCOL_ERROR to it.
                Self::COMPRESSION_ERROR => refused.heads += 1,
                _ => {}
            },
            _ => {}
        }
        self.rest = length - (self.known - Self::HEAD);
        self.known = 0;
        if self.rest == 0 {
            refused.heads += u64::from(self.too_large.end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, 0, 0, 0, 0, 1], payload].concat()
    }

    fn head(flags: u8, block: &[u8]) -> Vec<u8> {
        let mut head = frame(1, block);
        head[4] = flags;
        head
    }

    fn continuation(block: &[u8]) -> Vec<u8> {
        let mut continuation = frame(9, block);
        continuation[4] = 4;
        continuation
    }

    #[test]
    fn refusals_are_counted_wherever_a_write_ends() {
        let refusal = frame(3, &[0, 0, 0, 7]);
        let bytes = [
            frame(4, &[0; 12]),
            frame(4, &[]),
            refusal.clone(),
            frame(3, &[0, 0, 0, 8]),
            // What looks like one inside of a body is none.
            frame(0, &refusal),
            frame(7, &[0, 0, 0, 7, 0, 0, 0, 0]),
            frame(7, b"\0\0\0\x07\0\0\0\x0btoo_many_resets"),
            refusal,
            // HEADERS with `:status: 431`, written out, beside others and as an index; then trailers.
            head(5, &[0x48, 0x83, 0x69, 0x90, 0xff]),
            head(4, &[0x88, 0x61, 1, b'x']),
            head(5, &[0xbf]),
            head(5, &[0xbe]),
            [head(1, &[0x20]), continuation(&[0xbf])].concat(),
            frame(7, &[0, 0, 0, 7, 0, 0, 0, 9]),
        ]
        .concat();
        for size in 1..=bytes.len() {
            let mut sent = Sent::default();
            let (mut streams, mut floods, mut heads) = (0, 0, 0);
            for part in bytes.chunks(size) {
                let refused = sent.see(part);
                streams += refused.streams;
                floods += refused.floods;
                heads += refused.heads;
            }
            assert_eq!((streams, floods, heads), (2, 1, 4), "{size}");
        }
    }

    #[test]
    fn nonsense_is_no_refusal() {
        let mut sent = Sent::default();
        assert_eq!(sent.see(&frame(3, &[0, 0, 0, 7])).streams, 1);
        assert_eq!(sent.see(&frame(7, &[0, 0, 0, 1, 0, 0, 0, 11])).floods, 1);
        // Shorter than they have to be: what was there before is not taken for theirs.
        assert_eq!(sent.see(&frame(3, &[])), Refused::default());
        assert_eq!(sent.see(&frame(7, &[11])), Refused::default());
        assert_eq!(sent.see(&frame(3, &[0, 0, 0, 7])).streams, 1);
    }
}
