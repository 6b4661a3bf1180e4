//! Which names a contract has used up.

use super::MAX_MEMBERS;

/// The names so far; on the stack, for a contract of the largest size must not allocate either.
pub(super) struct Seen<'t> {
    text: &'t str,
    slots: [Slot; MAX_MEMBERS],
    len: usize,
    /// Names that were spelled with escapes, so that they do not stand in the text.
    copied: Vec<String>,
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
    fn new(start: usize, name: &str) -> Self {
        Self {
            // Both fit: a contract has at most 8192 bytes, a name with its `$` at most 254.
            start: u16::try_from(start).unwrap_or(u16::MAX),
            len: u8::try_from(name.len()).unwrap_or(u8::MAX),
            last: name.as_bytes().last().copied().unwrap_or_default(),
        }
    }
}

impl<'t> Seen<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            slots: [Slot::default(); MAX_MEMBERS],
            len: 0,
            copied: Vec::new(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.len + self.copied.len()
    }

    /// Adds a name that begins at `start` of the text, unless it is a copy; false says that it was there already.
    pub(super) fn insert(&mut self, start: usize, name: &str, is_copy: bool) -> bool {
        let new = Slot::new(start, name);
        let is_name = |slot: &Slot| {
            let start = usize::from(slot.start);
            self.text.as_bytes().get(start..start + name.len()) == Some(name.as_bytes())
        };
        let is_seen = self
            .slots
            .iter()
            .take(self.len)
            .any(|slot| slot.len == new.len && slot.last == new.last && is_name(slot))
            || self.copied.iter().any(|seen| seen == name);
        if is_seen {
            return false;
        }
        if is_copy {
            self.copied.push(name.to_owned());
        } else if let Some(free) = self.slots.get_mut(self.len) {
            *free = new;
            self.len += 1;
        }
        true
    }
}
