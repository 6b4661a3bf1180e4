//! The 431 of the crate h2, found among the header blocks that are sent.
//!
//! A header list over its size never becomes a request: h2 answers by itself, with a head that holds
//! `:status: 431` and nothing else, and ends the stream with it (it resets what the client still
//! sends). Nobody else sends such a head: answers that came through hyper have a date, and trailers no
//! status. But HPACK (RFC 7541) writes the status out only once, and from then on as an index, which
//! may as well be that of the one field of some trailers. So what is added to the table is counted
//! from the first 431 of a connection on, and no block is looked into before that.

/// What is known of a connection's 431.
#[derive(Debug, Default)]
pub(super) struct TooLarge {
    /// Fields that were added to the encoder's table since `:status: 431` was.
    added_since: Option<u64>,
    block: Option<Block>,
}

/// A header block that is looked into.
#[derive(Debug)]
struct Block {
    /// Whether its last frame has begun.
    is_last: bool,
    ends_stream: bool,
    fields: u64,
    is_refusal: bool,
    step: Step,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The first of a field.
    Field,
    /// One of a number that goes on.
    Number { so_far: u64, shift: u32, of: Number },
    /// The first of a length.
    Length { strings: u8 },
    /// One of `rest` in a string, with more strings behind it.
    Text { rest: u64, strings: u8 },
    /// One of the value of `:status`, of which so many were those of 431.
    Status { known: usize, is_added: bool },
}

/// What a number is for.
#[derive(Clone, Copy, Debug)]
enum Number {
    Index,
    /// The name of a field whose value follows.
    Name,
    TableSize,
    Length {
        strings: u8,
    },
}

impl TooLarge {
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    /// The first entry of the static table that is a `:status`; a literal that is added, and one that is not.
    const STATUS: u8 = 8;
    const ADDED_STATUS: u8 = 0x40 | Self::STATUS;
    /// 431 by the Huffman code, behind its length.
    const VALUE: [u8; 4] = [0x83, 0x69, 0x90, 0xff];
    /// The index of what was added last.
    const NEWEST: u64 = 62;

    /// Begins HEADERS whose payload begins with `first`.
    pub(super) fn begin(&mut self, flags: u8, first: u8) {
        // A status that is written out, or what may stand before one, a new size of the table.
        let may_be_new = matches!(first, Self::STATUS | Self::ADDED_STATUS | 0x20..=0x3f);
        self.block = (self.added_since.is_some() || may_be_new).then_some(Block {
            is_last: flags & Self::END_HEADERS != 0,
            ends_stream: flags & Self::END_STREAM != 0,
            fields: 0,
            is_refusal: false,
            step: Step::Field,
        });
    }

    /// Begins a frame that goes on with the block.
    pub(super) fn go_on(&mut self, flags: u8) {
        if let Some(block) = &mut self.block {
            block.is_last = flags & Self::END_HEADERS != 0;
        }
    }

    /// Sees the next bytes of a frame, of whatever kind: nothing stands between the frames of a block.
    pub(super) fn see(&mut self, bytes: &[u8]) {
        if let Some(block) = &mut self.block {
            for byte in bytes {
                block.see(*byte, &mut self.added_since);
            }
        }
    }

    /// Ends a frame; whether a block that was a 431 of h2 has ended with it.
    pub(super) fn end(&mut self) -> bool {
        let ended = self.block.take_if(|block| block.is_last);
        ended.is_some_and(|block| block.ends_stream && block.is_refusal && block.fields == 1)
    }
}

impl Block {
    fn see(&mut self, byte: u8, added_since: &mut Option<u64>) {
        self.step = match self.step {
            Step::Field => self.field(byte, added_since),
            Step::Number { so_far, shift, of } => {
                let more = u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
                let so_far = so_far.saturating_add(more);
                if byte & 0x80 == 0 {
                    self.number(so_far, of, *added_since)
                } else {
                    let shift = shift.saturating_add(7);
                    Step::Number { so_far, shift, of }
                }
            }
            Step::Length { strings } => {
                self.prefixed(byte, 7, Number::Length { strings }, *added_since)
            }
            Step::Text { rest, strings } => after_text(rest - 1, strings),
            Step::Status { known, is_added } => {
                if TooLarge::VALUE.get(known) != Some(&byte) {
                    match known {
                        0 => self.prefixed(byte, 7, Number::Length { strings: 0 }, *added_since),
                        // As long as 431, so it ends where that would.
                        _ => after_text((TooLarge::VALUE.len() - known - 1) as u64, 0),
                    }
                } else if known + 1 < TooLarge::VALUE.len() {
                    let known = known + 1;
                    Step::Status { known, is_added }
                } else {
                    self.is_refusal = true;
                    if is_added {
                        *added_since = Some(0);
                    }
                    Step::Field
                }
            }
        };
    }

    /// RFC 7541, section 6.
    fn field(&mut self, byte: u8, added_since: &mut Option<u64>) -> Step {
        if byte & 0xe0 == 0x20 {
            return self.prefixed(byte, 5, Number::TableSize, *added_since);
        }
        self.fields += 1;
        if byte & 0x80 != 0 {
            return self.prefixed(byte, 7, Number::Index, *added_since);
        }
        let is_added = byte & 0x40 != 0;
        if is_added {
            *added_since = added_since.map(|added| added.saturating_add(1));
        }
        match byte {
            TooLarge::STATUS | TooLarge::ADDED_STATUS => Step::Status { known: 0, is_added },
            // The name is written out, too.
            _ if byte & 0x3f == 0 || byte & 0x4f == 0 => Step::Length { strings: 1 },
            _ => self.prefixed(
                byte,
                if is_added { 6 } else { 4 },
                Number::Name,
                *added_since,
            ),
        }
    }

    /// A number that begins in the last `bits` of a byte (section 5.1).
    fn prefixed(&mut self, byte: u8, bits: u32, of: Number, added_since: Option<u64>) -> Step {
        let mask = (1_u8 << bits) - 1;
        let so_far = u64::from(byte & mask);
        if byte & mask == mask {
            return Step::Number {
                so_far,
                shift: 0,
                of,
            };
        }
        self.number(so_far, of, added_since)
    }

    fn number(&mut self, number: u64, of: Number, added_since: Option<u64>) -> Step {
        match of {
            Number::Index => {
                let refusal = added_since.map(|added| added.saturating_add(TooLarge::NEWEST));
                self.is_refusal |= refusal == Some(number);
                Step::Field
            }
            Number::Name => Step::Length { strings: 0 },
            Number::TableSize => Step::Field,
            Number::Length { strings } => after_text(number, strings),
        }
    }
}

/// With `rest` of a string to come, and so many strings behind it.
fn after_text(rest: u64, strings: u8) -> Step {
    match (rest, strings) {
        (1.., _) => Step::Text { rest, strings },
        (0, 0) => Step::Field,
        (0, _) => Step::Length {
            strings: strings - 1,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u8 = TooLarge::END_STREAM | TooLarge::END_HEADERS;
    const NEW: &[u8] = &[0x48, 0x83, 0x69, 0x90, 0xff];
    /// `date: x`, added.
    const DATE: &[u8] = &[0x61, 1, b'x'];
    /// `x-a: b`, added, and `x-a: b`, not added.
    const ADDED: &[u8] = &[0x40, 3, b'x', b'-', b'a', 1, b'b'];
    const NOT_ADDED: &[u8] = &[0x00, 3, b'x', b'-', b'a', 1, b'b'];

    /// Whether each of these blocks is a 431 of h2, however it is cut into frames and writes.
    fn refusals(blocks: &[(u8, &[&[u8]])]) -> Vec<bool> {
        let run = |size: usize, in_frames: bool| {
            let mut seen = TooLarge::default();
            let mut refusals = Vec::new();
            for (flags, parts) in blocks {
                let block = parts.concat();
                let mut refused = false;
                let pieces: Vec<_> = block.chunks(size).collect();
                let begins = if in_frames && pieces.len() > 1 {
                    flags & !TooLarge::END_HEADERS
                } else {
                    *flags
                };
                seen.begin(begins, block[0]);
                for (index, piece) in pieces.iter().enumerate() {
                    if in_frames && index > 0 {
                        refused |= seen.end();
                        let is_last = index + 1 == pieces.len();
                        seen.go_on(if is_last { TooLarge::END_HEADERS } else { 0 });
                    }
                    seen.see(piece);
                }
                refusals.push(refused | seen.end());
            }
            refusals
        };
        let whole = run(1000, false);
        for size in 1..20 {
            assert_eq!(run(size, false), whole, "{size}");
            assert_eq!(run(size, true), whole, "{size}");
        }
        whole
    }

    #[test]
    fn it_is_found_written_out_and_as_an_index() {
        let found = refusals(&[
            (END, &[&[0x88], DATE]),
            (END, &[NEW]),
            (END, &[&[0xbe]]),
            (END, &[&[0x88], ADDED, DATE, NOT_ADDED]),
            // One field of trailers, two of them, and what is two fields further back by now.
            (END, &[&[0xbe]]),
            (END, &[&[0xbf]]),
            (END, &[&[0xc0]]),
            // The same with more in it is an answer of somebody else, and one that goes on is, too.
            (END, &[&[0xc0], DATE]),
            (TooLarge::END_HEADERS, &[&[0xc1]]),
            (END, &[&[0xc1]]),
        ]);
        let expected = [
            false, true, true, false, false, false, true, false, false, true,
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn it_is_found_behind_a_new_size_of_the_table_and_without_one() {
        let not_added: &[u8] = &[0x08, 0x83, 0x69, 0x90, 0xff];
        let found = refusals(&[
            (END, &[&[0x20], not_added]),
            (END, &[not_added]),
            // Nothing has been added so far.
            (END, &[&[0xbe]]),
            (END, &[&[0x20, 0x3f, 0xe1, 0x1f], NEW]),
            (END, &[&[0xbe]]),
        ]);
        assert_eq!(found, [true, true, false, true, true]);
    }

    #[test]
    fn another_status_is_none() {
        let found = refusals(&[
            (END, &[&[0x48, 0x83, 0x69, 0x90, 0x7f]]),
            (END, &[&[0x48, 0x82, 0x69, 0x90]]),
            (END, &[&[0x48, 3, b'4', b'2', b'9']]),
            (END, &[&[0xbe]]),
            // A 431 that a service has answered is in the table as well.
            (END, &[NEW, DATE]),
            (END, &[&[0xbf]]),
        ]);
        assert_eq!(found, [false, false, false, false, false, true]);
    }

    #[test]
    fn numbers_may_be_long() {
        let long = [&[0x0f, 0x10, 0x7f, 0x81, 1][..], &[b'x'; 256]].concat();
        let mut blocks: Vec<(u8, Vec<u8>)> = vec![(END, NEW.to_vec())];
        blocks.extend((0..70).map(|_| (END, [&[0x88], DATE].concat())));
        blocks.push((END, long));
        // 132 = 62 + 70.
        blocks.push((END, vec![0xff, 5]));
        blocks.push((END, vec![0xff, 4]));
        let parts: Vec<[&[u8]; 1]> = blocks.iter().map(|(_, block)| [&**block]).collect();
        let blocks: Vec<(u8, &[&[u8]])> = parts.iter().map(|parts| (END, &parts[..])).collect();
        let found = refusals(&blocks);
        let found: Vec<_> = (0..found.len()).filter(|index| found[*index]).collect();
        assert_eq!(found, [0, 72]);
    }

    #[test]
    fn nonsense_is_none() {
        let found = refusals(&[
            (END, &[NEW]),
            (END, &[&[0xff; 40]]),
            (END, &[&[0x7f; 40]]),
            (END, &[&[0x40; 40]]),
        ]);
        assert_eq!(found, [true, false, false, false]);
    }
}
