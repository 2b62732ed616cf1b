//! What was told, as far as this process remembers it: so that nothing told is looked for in vain, and no two events have
//! one identity.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use connectors_sdk::S3Record;

use crate::identity::{self, Creation, Identity};
use crate::listing::Object;

/// How many created objects are remembered. What is forgotten is offered to the broker once more, which knows it.
const MEMORY: usize = 100_000;

/// How far the times of a notification and of its object may lie apart, where no sequencer says when it was made.
const APART: u64 = 1_000;

/// A bucket and a key in it.
type Place = (String, String);

/// An object that a notification told, to be remembered once the event is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    place: Place,
    etag: Option<String>,
    /// In milliseconds, or a little more.
    at: u64,
}

impl Made {
    /// `None` of everything but creations.
    pub(crate) fn of(record: &S3Record) -> Option<Self> {
        let at = identity::made(record).or_else(|| Some(record.time?.as_millis() + APART));
        let place = (record.bucket.clone(), record.key.clone());
        at.filter(|_| identity::creates(record)).map(|at| Made { place, etag: record.etag.clone(), at })
    }
}

/// The created objects that were told.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// The newest of each place.
    newest: HashMap<Place, (Option<String>, u64)>,
    /// The sequencer of the notification that goes by each creation.
    named: HashMap<Creation, String>,
}

impl Memory {
    /// What identifies a record's event: that of the creation it tells, unless another record goes by that.
    pub(crate) fn identity(&self, record: &S3Record) -> Identity {
        let own = || record.identity().to_vec();
        let (Some(creation), Some(sequencer)) = (Creation::told(record), &record.sequencer) else {
            return own();
        };
        let mut told = self.told();
        if told.named.len() >= MEMORY {
            told.named.clear();
        }
        let named = told.named.entry(creation.clone()).or_insert_with(|| sequencer.clone());
        if named == sequencer { creation.identity() } else { own() }
    }

    /// The event of it is durable.
    pub(crate) fn remember(&self, made: Made) {
        let mut told = self.told();
        if told.newest.len() >= MEMORY {
            told.newest.clear();
        }
        // Notifications may overtake each other.
        if told.newest.get(&made.place).is_none_or(|(_, at)| *at <= made.at) {
            told.newest.insert(made.place, (made.etag, made.at));
        }
    }

    /// Whether this object, as it is, was told: the newest notification of its key is about it, or about a later one.
    pub(crate) fn knows(&self, bucket: &str, object: &Object) -> bool {
        let place = (bucket.to_owned(), object.key.clone());
        self.told().newest.get(&place).is_some_and(|(etag, at)| {
            etag.as_ref().is_none_or(|etag| *etag == object.etag) && *at >= object.modified
        })
    }

    /// Nobody looks for what is older.
    pub(crate) fn forget_before(&self, time: u64) {
        let mut told = self.told();
        told.newest.retain(|_, (_, at)| *at >= time);
        told.named.retain(|creation, _| creation.modified >= time);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use connectors_sdk::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::identity::tests::{MADE, object, record};

    const NANOS: u64 = 1_000_000;
    const PUT: &str = "s3:ObjectCreated:Put";

    fn remembering(memory: &Memory, record: &S3Record) {
        memory.remember(Made::of(record).unwrap());
    }

    #[test]
    fn what_was_told_is_known_and_a_later_object_of_the_key_is_not() {
        let memory = Memory::default();
        let made = MADE * NANOS;
        remembering(&memory, &record(PUT, "a", "e", made + 700));

        assert!(memory.knows("photos", &object("a", "e", made)));
        assert!(!memory.knows("photos", &object("a", "f", made)), "another content");
        assert!(!memory.knows("photos", &object("a", "e", made + NANOS)), "put again a millisecond later");
        assert!(!memory.knows("videos", &object("a", "e", made)));
        // What is told late tells nothing new.
        remembering(&memory, &record(PUT, "a", "older", made - NANOS));
        assert!(memory.knows("photos", &object("a", "e", made)));
        memory.forget_before(MADE + 1);
        assert!(!memory.knows("photos", &object("a", "e", made)));
    }

    #[test]
    fn without_a_time_in_the_sequencer_that_of_the_event_is_near_enough() {
        let memory = Memory::default();
        let told = S3Record {
            sequencer: None,
            time: Some(Timestamp::from_millis(MADE)),
            ..record(PUT, "a", "e", 0)
        };
        remembering(&memory, &told);

        assert!(memory.knows("photos", &object("a", "e", (MADE + APART) * NANOS)));
        assert!(!memory.knows("photos", &object("a", "e", (MADE + APART + 1) * NANOS)));
    }

    #[test]
    fn tags_and_reads_tell_nothing_of_how_an_object_was_made() {
        for event in ["s3:ObjectCreated:PutTagging", "s3:ObjectAccessed:Get", "s3:ObjectRemoved:Delete"] {
            assert_eq!(Made::of(&record(event, "a", "e", MADE * NANOS)), None, "{event}");
        }
    }

    #[test]
    fn the_memory_is_bounded() {
        let memory = Memory::default();
        for n in 0..MEMORY + 10 {
            let record = record(PUT, &n.to_string(), "e", MADE * NANOS);
            remembering(&memory, &record);
            memory.identity(&record);
        }
        let told = memory.told();
        assert!(told.newest.len() <= MEMORY && told.named.len() <= MEMORY);
    }

    #[test]
    fn a_creation_told_after_a_restart_has_the_identity_it_had_before() {
        let put = record(PUT, "a", "e", MADE * NANOS + 7);
        let found = Creation::found("photos", &object("a", "e", MADE * NANOS));
        for _process in 0..2 {
            assert_eq!(Memory::default().identity(&put), found.identity());
        }
    }

    proptest! {
        /// Few keys, contents and milliseconds, so that creations meet.
        #[test]
        fn no_two_events_share_an_identity_and_each_keeps_its_own(
            events in proptest::collection::btree_map((0u64..2, 0u64..40), 0u64..2, 1..30),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 1..80),
        ) {
            // A tenth of a millisecond lies between two of one key.
            let records: Vec<S3Record> = events
                .iter()
                .map(|((key, time), etag)| {
                    record(PUT, &format!("k{key}"), &format!("e{etag}"), MADE * NANOS + time * (NANOS / 10))
                })
                .collect();
            let memory = Memory::default();
            let mut told: HashMap<Identity, Identity> = HashMap::new();
            for index in &order {
                let record = index.get(&records);
                let identity = memory.identity(record);
                let first = told.entry(record.identity().to_vec()).or_insert_with(|| identity.clone());
                prop_assert_eq!(&*first, &identity, "a redelivery is the same event");
            }
            let distinct: HashSet<&Identity> = told.values().collect();
            prop_assert_eq!(distinct.len(), told.len(), "two events, two identities");

            // What was told is recognised when it is found, and nothing else.
            for record in &records {
                let creation = Creation::told(record).unwrap();
                let was_told =
                    order.iter().any(|index| Creation::told(index.get(&records)).as_ref() == Some(&creation));
                prop_assert_eq!(distinct.contains(&creation.identity()), was_told);
            }
        }
    }
}
