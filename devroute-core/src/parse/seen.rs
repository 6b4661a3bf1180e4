//! Which names a contract has used up.

use super::MAX_MEMBERS;
use crate::error::ContractErrorKind as Kind;

/// The names so far; on the stack, for a contract of the largest size must not allocate either.
pub(super) struct Seen<'t> {
    text: &'t [u8],
    /// A bit for every [`Slot::bit`] that is taken: a name with a free one is new for sure, and most names are.
    bits: u64,
    slots: [Slot; MAX_MEMBERS],
    len: usize,
    /// Names that were spelled with escapes, so that they do not stand in the text.
    copied: Vec<Vec<u8>>,
}

/// A name in the text. Most names differ in length or in their last byte: those are compared here, without
/// looking at the text.
#[derive(Clone, Copy, Default)]
struct Slot {
    start: u16,
    len: u8,
    last: u8,
}

impl Slot {
    fn new(start: usize, name: &[u8]) -> Self {
        Self {
            // Both fit: a contract has at most 8192 bytes, a name with its `$` at most 254.
            start: u16::try_from(start).unwrap_or(u16::MAX),
            len: u8::try_from(name.len()).unwrap_or(u8::MAX),
            last: name.last().copied().unwrap_or_default(),
        }
    }

    fn bit(self) -> u64 {
        // Multiplied by an odd number, so that names numbered in rising lengths do not fall together.
        1 << (self.len.wrapping_mul(11).wrapping_add(self.last) % 64)
    }
}

impl<'t> Seen<'t> {
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self {
            text,
            bits: 0,
            slots: [Slot::default(); MAX_MEMBERS],
            len: 0,
            copied: Vec::new(),
        }
    }

    /// Adds a name that begins at `start` of the text.
    ///
    /// # Errors
    ///
    /// When there are as many names as there may be, or it is one of them.
    #[inline(always)]
    pub(super) fn insert(&mut self, start: usize, name: &[u8]) -> Result<(), Kind> {
        let new = Slot::new(start, name);
        self.check(new, name)?;
        if let Some(free) = self.slots.get_mut(self.len) {
            *free = new;
            self.len += 1;
        }
        Ok(())
    }

    /// Adds a name that does not stand in the text as it is.
    ///
    /// # Errors
    ///
    /// As those of [`insert`](Self::insert).
    #[cold]
    pub(super) fn insert_copy(&mut self, name: &[u8]) -> Result<(), Kind> {
        self.check(Slot::new(0, name), name)?;
        self.copied.push(name.to_owned());
        Ok(())
    }

    #[inline(always)]
    fn check(&mut self, new: Slot, name: &[u8]) -> Result<(), Kind> {
        if self.len + self.copied.len() == MAX_MEMBERS {
            return Err(Kind::TooManyMembers);
        }
        if self.bits & new.bit() != 0 && self.contains(new, name) {
            return Err(Kind::DuplicateName);
        }
        self.bits |= new.bit();
        Ok(())
    }

    // Out of line, for it is rarely asked.
    #[inline(never)]
    fn contains(&self, new: Slot, name: &[u8]) -> bool {
        let is_name = |slot: &Slot| {
            let start = usize::from(slot.start);
            self.text.get(start..start + name.len()) == Some(name)
        };
        self.slots
            .iter()
            .take(self.len)
            .any(|slot| slot.len == new.len && slot.last == new.last && is_name(slot))
            || self.copied.iter().any(|seen| seen == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_share_a_bit_are_told_apart() {
        // Every one has the length and the last byte of the others.
        let text: String = (10..74).map(|n| format!("{n}x")).collect();
        let mut seen = Seen::new(text.as_bytes());
        let names: Vec<&[u8]> = text.as_bytes().chunks(3).collect();
        for (n, name) in names.iter().enumerate().take(MAX_MEMBERS - 1) {
            assert_eq!(seen.insert(n * 3, name), Ok(()));
            assert_eq!(seen.insert(n * 3, name), Err(Kind::DuplicateName));
            assert_eq!(seen.insert_copy(name), Err(Kind::DuplicateName));
        }
        assert_eq!(seen.insert_copy(b"copy"), Ok(()));
        assert_eq!(seen.insert(0, names[63]), Err(Kind::TooManyMembers));
    }

    #[test]
    fn a_name_that_another_begins_with_is_a_new_one() {
        let text = b"abaxVa";
        let mut seen = Seen::new(text);
        // The first has the last byte of the third, and the second its bit.
        assert_eq!(seen.insert(0, b"aba"), Ok(()));
        assert_eq!(seen.insert(3, b"xV"), Ok(()));
        assert_eq!(Slot::new(3, b"xV").bit(), Slot::new(5, b"a").bit());
        assert_eq!(seen.insert(5, b"a"), Ok(()));
    }

    #[test]
    fn a_copy_is_seen_as_well() {
        let mut seen = Seen::new(b"foo");
        assert_eq!(seen.insert_copy(b"foo"), Ok(()));
        assert_eq!(seen.insert(0, b"foo"), Err(Kind::DuplicateName));
        assert_eq!(seen.insert_copy(b"foo"), Err(Kind::DuplicateName));
    }
}
