//! The invocations in memory: 32 bytes each, found by acceptance number.
//!
//! Numbers come in order and go in nearly the same order, so they stand in pages of 64 that hold only what is there:
//! a full page costs its entries and little more, and a page with one survivor costs one entry.

use std::collections::BTreeMap;

/// A place in the journal: a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

impl Place {
    /// Where a record will be is not known before it is written. Segments count from 1.
    pub(crate) const PENDING: Place = Place { segment: 0, offset: 0 };

    pub(crate) fn is_pending(self) -> bool {
        self.segment == 0
    }
}

/// Where an invocation stands, more finely than [`broker_model::State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// It may run.
    Ready,
    /// It waits on the monotonic clock: a retry, or given back with a wait.
    Retrying,
    /// It waits for the wall clock.
    Scheduled,
    /// Leased.
    Leased,
    /// Given up.
    Dead,
    /// Given up, with a redrive on its way to disk.
    Redriving,
    Completed,
    Cancelled,
}

impl Phase {
    const ALL: [Phase; 8] = [
        Phase::Ready,
        Phase::Retrying,
        Phase::Scheduled,
        Phase::Leased,
        Phase::Dead,
        Phase::Redriving,
        Phase::Completed,
        Phase::Cancelled,
    ];

    /// Ended for good, kept only to be looked up for a while.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Phase::Completed | Phase::Cancelled)
    }

    /// Given up, and not begun anew yet.
    pub(crate) fn is_dead(self) -> bool {
        matches!(self, Phase::Dead | Phase::Redriving)
    }

    /// Neither ended nor dead: what `held` counts.
    pub(crate) fn is_held(self) -> bool {
        matches!(self, Phase::Ready | Phase::Retrying | Phase::Scheduled | Phase::Leased)
    }
}

/// One invocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The record that has its header and body.
    pub(crate) place: Place,
    /// Its share of that record, in bytes.
    pub(crate) share: u32,
    /// Its lane's number in this process.
    pub(crate) lane: u32,
    /// Milliseconds of acceptance, and the phase in the lowest byte.
    packed: u64,
    /// Which draft of that record it is.
    pub(crate) part: u32,
    /// A hash of its call id, to find it by without an index.
    pub(crate) call: u32,
}

impl Entry {
    pub(crate) fn new(
        place: Place,
        share: u32,
        lane: u32,
        millis: u64,
        phase: Phase,
        part: u32,
        call: u32,
    ) -> Self {
        Entry { place, share, lane, packed: millis << 8 | phase as u64, part, call }
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.packed as u8 & 7)]
    }

    pub(crate) fn set_phase(&mut self, phase: Phase) {
        self.packed = self.packed & !0xff | phase as u64;
    }

    /// Milliseconds since 1970 at acceptance.
    pub(crate) fn millis(&self) -> u64 {
        self.packed >> 8
    }
}

const PAGE: u64 = 64;

#[derive(Debug, Default)]
struct Page {
    present: u64,
    entries: Vec<Entry>,
}

impl Page {
    fn place(&self, bit: u64) -> usize {
        (self.present & ((1 << bit) - 1)).count_ones() as usize
    }
}

/// All invocations by number.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pages: BTreeMap<u64, Page>,
    len: usize,
}

impl Table {
    #[cfg(test)]
    fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Entry> {
        let page = self.pages.get(&(number / PAGE))?;
        let bit = number % PAGE;
        (page.present >> bit & 1 == 1).then(|| &page.entries[page.place(bit)])
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Entry> {
        let page = self.pages.get_mut(&(number / PAGE))?;
        let bit = number % PAGE;
        let place = page.place(bit);
        (page.present >> bit & 1 == 1).then(|| &mut page.entries[place])
    }

    /// Puts an entry in; the one that was there.
    pub(crate) fn insert(&mut self, number: u64, entry: Entry) -> Option<Entry> {
        let page = self.pages.entry(number / PAGE).or_default();
        let bit = number % PAGE;
        let place = page.place(bit);
        if page.present >> bit & 1 == 1 {
            return Some(std::mem::replace(&mut page.entries[place], entry));
        }
        page.present |= 1 << bit;
        page.entries.insert(place, entry);
        self.len += 1;
        None
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Entry> {
        let page = self.pages.get_mut(&(number / PAGE))?;
        let bit = number % PAGE;
        if page.present >> bit & 1 == 0 {
            return None;
        }
        let place = page.place(bit);
        let gone = page.entries.remove(place);
        page.present &= !(1 << bit);
        if page.entries.is_empty() {
            self.pages.remove(&(number / PAGE));
        } else if page.entries.len() * 2 < page.entries.capacity() {
            page.entries.shrink_to_fit();
        }
        self.len -= 1;
        Some(gone)
    }

    /// Entries from the lowest number up.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.pages.iter().flat_map(|(page, held)| {
            bits(held.present).zip(&held.entries).map(move |(bit, entry)| (page * PAGE + bit, entry))
        })
    }

    /// Entries below `before`, from the highest number down.
    pub(crate) fn down_from(&self, before: u64) -> impl Iterator<Item = (u64, &Entry)> {
        self.pages
            .range(..=before / PAGE)
            .rev()
            .flat_map(|(page, held)| {
                let numbers: Vec<u64> = bits(held.present).map(|bit| page * PAGE + bit).collect();
                numbers.into_iter().zip(&held.entries).rev()
            })
            .filter(move |(number, _)| *number < before)
    }
}

fn bits(mut present: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        (present != 0).then(|| {
            let bit = present.trailing_zeros();
            present &= present - 1;
            u64::from(bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(call: u32) -> Entry {
        Entry::new(Place { segment: 1, offset: 2 }, 3, 4, 1_700_000_000_123, Phase::Ready, 5, call)
    }

    #[test]
    fn an_entry_takes_32_bytes_and_keeps_its_moment_over_phases() {
        let mut found = entry(1);
        for phase in Phase::ALL {
            found.set_phase(phase);
            assert_eq!((found.phase(), found.millis()), (phase, 1_700_000_000_123));
        }
        assert_eq!(size_of::<Entry>(), 32);
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_map(steps: Vec<(bool, u16, u32)>, before: u16) {
            let mut table = Table::default();
            let mut map = BTreeMap::new();
            for (insert, number, call) in steps {
                let number = u64::from(number % 512);
                if insert {
                    prop_assert_eq!(table.insert(number, entry(call)).map(|e| e.call), map.insert(number, call));
                } else {
                    prop_assert_eq!(table.remove(number).map(|e| e.call), map.remove(&number));
                }
                prop_assert_eq!(table.get(number).map(|e| e.call), map.get(&number).copied());
                prop_assert_eq!(table.len(), map.len());
            }
            prop_assert!(table.iter().map(|(n, e)| (n, e.call)).eq(map.iter().map(|(n, c)| (*n, *c))));
            let before = u64::from(before % 600);
            prop_assert!(table.down_from(before).map(|(n, e)| (n, e.call)).eq(map.range(..before).rev().map(|(n, c)| (*n, *c))));
        }
    }
}
