//! The most frequent topics of a stream, in bounded memory.

use std::collections::HashMap;

/// Counts the heaviest topics among any number of them (the "space saving" algorithm of Metwally and others): a newcomer
/// takes the place of the lightest and inherits its count, so that a count may be too high, never too low.
#[derive(Debug, Default)]
pub(crate) struct TopTopics {
    counts: HashMap<Box<str>, u64>,
}

impl TopTopics {
    /// How many topics are kept.
    const KEPT: usize = 100;

    /// How much of a topic is kept, in bytes.
    const LONGEST: usize = 256;

    pub(crate) fn count(&mut self, topic: &str) {
        let topic = &topic[..topic.floor_char_boundary(Self::LONGEST)];
        if let Some(count) = self.counts.get_mut(topic) {
            *count += 1;
            return;
        }
        let mut inherited = 0;
        if self.counts.len() >= Self::KEPT
            && let Some(lightest) =
                self.counts.iter().min_by_key(|(_, count)| **count).map(|(t, _)| t.clone())
        {
            inherited = self.counts.remove(&lightest).unwrap_or_default();
        }
        self.counts.insert(topic.into(), inherited + 1);
    }

    /// The kept topics, heaviest first.
    pub(crate) fn heaviest(&self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> =
            self.counts.iter().map(|(topic, count)| (topic.to_string(), *count)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequent_topic_survives_any_number_of_rare_ones() {
        let mut top = TopTopics::default();
        for n in 0..10_000 {
            top.count(&format!("rare.{n}"));
            if n % 10 == 0 {
                top.count("frequent");
            }
        }

        let heaviest = top.heaviest();

        assert_eq!(heaviest.len(), TopTopics::KEPT);
        assert_eq!(heaviest[0].0, "frequent");
        assert!(heaviest[0].1 >= 1_000);
    }

    #[test]
    fn a_long_topic_is_cut_between_characters() {
        let mut top = TopTopics::default();
        top.count(&"ü".repeat(500));

        assert_eq!(top.heaviest()[0].0.len(), 256);
    }
}
