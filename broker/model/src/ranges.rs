//! Sets of numbers that mostly follow each other, kept as the ranges they form.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of numbers, as disjoint ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Whether it holds this number.
    pub fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, end)| number < *end)
    }

    /// Adds all numbers of a range.
    pub fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if let Some((&first, &last)) = self.0.range(..=start).next_back()
            && last >= start
        {
            start = first;
            end = end.max(last);
        }
        while let Some((&first, &last)) = self.0.range(start..=end).next() {
            end = end.max(last);
            self.0.remove(&first);
        }
        self.0.insert(start, end);
    }

    /// Whether a number would only make a range longer, or is in one.
    pub fn touches(&self, number: u64) -> bool {
        self.contains(number)
            || number.checked_sub(1).is_some_and(|before| self.contains(before))
            || number.checked_add(1).is_some_and(|after| self.contains(after))
    }

    /// Drops every number below this one.
    pub fn drop_below(&mut self, number: u64) {
        while let Some((&first, &last)) = self.0.first_key_value()
            && first < number
        {
            self.0.pop_first();
            if last > number {
                self.0.insert(number, last);
            }
        }
    }

    /// Takes the first range out when it begins at or below this number; where it ends.
    pub fn take_first_up_to(&mut self, number: u64) -> Option<u64> {
        let (&first, &end) = self.0.first_key_value()?;
        (first <= number).then(|| {
            self.0.pop_first();
            end
        })
    }

    /// Adds what lies between the first two ranges, so that they are one.
    pub fn close_first_gap(&mut self) {
        let mut ranges = self.0.iter();
        if let (Some((&start, _)), Some((_, &end))) = (ranges.next(), ranges.next()) {
            self.insert(start..end);
        }
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number above the greatest one.
    pub fn end(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, end)| *end)
    }

    /// The ranges, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(start, end)| *start..*end)
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut all = Ranges::default();
        ranges.into_iter().for_each(|range| all.insert(range));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, u64),
        DropBelow(u64),
        TakeFirst(u64),
        CloseGap,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..40u64, 0..6u64).prop_map(|(from, len)| Step::Insert(from, from + len)),
            1 => (0..40u64).prop_map(Step::DropBelow),
            1 => (0..40u64).prop_map(Step::TakeFirst),
            1 => Just(Step::CloseGap),
        ]
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(steps in prop::collection::vec(step(), 0..40)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Insert(from, to) => {
                        ranges.insert(from..to);
                        set.extend(from..to);
                    }
                    Step::DropBelow(number) => {
                        ranges.drop_below(number);
                        set.retain(|n| *n >= number);
                    }
                    Step::TakeFirst(number) => {
                        if let Some(end) = ranges.take_first_up_to(number) {
                            prop_assert!(set.first().is_some_and(|first| *first <= number));
                            set.retain(|n| *n >= end);
                        } else {
                            prop_assert!(set.first().is_none_or(|first| *first > number));
                        }
                    }
                    Step::CloseGap => {
                        let first = ranges.iter().next().map(|range| range.start);
                        let second = ranges.iter().nth(1).map(|range| range.start);
                        ranges.close_first_gap();
                        if let (Some(first), Some(second)) = (first, second) {
                            set.extend(first..second);
                        }
                    }
                }
                let held: Vec<u64> = ranges.iter().flatten().collect();
                prop_assert_eq!(&held, &set.iter().copied().collect::<Vec<_>>());
                for n in 0..50 {
                    prop_assert_eq!(ranges.contains(n), set.contains(&n));
                    let near = [n.checked_sub(1), Some(n), Some(n + 1)];
                    prop_assert_eq!(ranges.touches(n), near.iter().flatten().any(|n| set.contains(n)));
                }
                let parts: Vec<_> = ranges.iter().collect();
                prop_assert!(parts.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", parts);
                prop_assert_eq!(ranges.end(), set.last().map(|last| last + 1));
            }
        }
    }
}
