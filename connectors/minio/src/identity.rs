//! What makes the creation of an object recognisable, whichever way it is heard of.
//!
//! A notification and a listing do not name a creation alike. But MinIO's sequencer is the time at which the object was
//! made, in nanoseconds, and a listing has that time in milliseconds; both have the entity tag. So much of it is the same,
//! and is what an object that was told, and is found again, is recognised by.
//!
//! Two creations of one key can have even that in common: the same content, put again within a millisecond. Of those only
//! the first that is told goes by it, the others by their sequencers; [`crate::memory::Memory`] says which is which.

use connectors_sdk::S3Record;

use crate::listing::Object;

/// The events that make an object. Those of its tags, retention and legal hold are called created as well.
const CREATING: [&str; 4] = [
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
];

/// How far the time in a sequencer may lie from that of its event to be believed, in milliseconds. Other stores count
/// otherwise, and AWS' sequencers are times of another century.
const BELIEVED: u64 = 24 * 60 * 60 * 1000;

/// What identifies an event, in parts.
pub(crate) type Identity = Vec<Vec<u8>>;

/// An object that was made, as far as notification and listing agree.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Creation {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) etag: String,
    /// In milliseconds, by the store's clock.
    pub(crate) modified: u64,
}

impl Creation {
    /// The creation a notification tells; `None` where it tells of another thing, or does not say when.
    pub(crate) fn told(record: &S3Record) -> Option<Self> {
        if !creates(record) {
            return None;
        }
        let (bucket, key, etag) = (record.bucket.clone(), record.key.clone(), record.etag.clone()?);
        Some(Creation { bucket, key, etag, modified: made(record)? })
    }

    /// The creation of an object that is there.
    pub(crate) fn found(bucket: &str, object: &Object) -> Self {
        let (key, etag) = (object.key.clone(), object.etag.clone());
        Creation { bucket: bucket.to_owned(), key, etag, modified: object.modified }
    }

    /// What identifies it, told or found.
    pub(crate) fn identity(&self) -> Identity {
        let modified = self.modified.to_be_bytes();
        [&b"created"[..], self.bucket.as_bytes(), self.key.as_bytes(), self.etag.as_bytes(), &modified]
            .map(<[u8]>::to_vec)
            .to_vec()
    }
}

/// Whether a notification tells that an object was made.
pub(crate) fn creates(record: &S3Record) -> bool {
    CREATING.contains(&record.event.as_str())
}

/// When the object was made, in milliseconds, where its sequencer says so.
pub(crate) fn made(record: &S3Record) -> Option<u64> {
    let nanos = u64::from_str_radix(record.sequencer.as_deref()?, 16).ok()?;
    // A listing cuts off what is below a millisecond, too.
    let millis = nanos / 1_000_000;
    (millis.abs_diff(record.time?.as_millis()) <= BELIEVED).then_some(millis)
}

#[cfg(test)]
pub(crate) mod tests {
    use connectors_sdk::Timestamp;
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-29T10:19:46.740Z, and what a sequencer adds to it.
    pub(crate) const MADE: u64 = 1_795_947_586_740;

    /// A notification of an object that was made at this time in nanoseconds.
    pub(crate) fn record(event: &str, key: &str, etag: &str, nanos: u64) -> S3Record {
        S3Record {
            event: event.into(),
            bucket: "photos".into(),
            key: key.into(),
            version: None,
            sequencer: Some(format!("{nanos:X}")),
            size: Some(5),
            etag: Some(etag.into()),
            time: Some(Timestamp::from_millis(nanos / 1_000_000 + 2)),
            request: Some(format!("{nanos:X}")),
        }
    }

    /// The same object in a listing.
    pub(crate) fn object(key: &str, etag: &str, nanos: u64) -> Object {
        Object { key: key.into(), size: 5, etag: etag.into(), modified: nanos / 1_000_000 }
    }

    #[test]
    fn a_put_as_minio_told_and_listed_it_is_one_creation() {
        // Of one object: the notification, and the listing's 2026-11-29T10:19:46.740Z.
        let told = S3Record {
            sequencer: Some("18EC7CD096E7F001".into()),
            time: Some(Timestamp::from_millis(MADE + 2)),
            ..record("s3:ObjectCreated:Copy", "a", "5d41402a", 0)
        };
        let listed = Object { key: "a".into(), size: 5, etag: "5d41402a".into(), modified: MADE };

        let creation = Creation::told(&told).unwrap();
        assert_eq!(creation, Creation::found("photos", &listed));
        assert_eq!(creation.identity(), Creation::found("photos", &listed).identity());
        assert_ne!(creation.identity(), Creation::found("videos", &listed).identity());
    }

    #[test]
    fn only_what_makes_an_object_is_a_creation() {
        let nanos = MADE * 1_000_000;
        for event in CREATING {
            assert!(Creation::told(&record(event, "a", "e", nanos)).is_some(), "{event}");
        }
        for event in ["s3:ObjectCreated:PutTagging", "s3:ObjectAccessed:Get", "s3:ObjectRemoved:Delete"] {
            assert_eq!(Creation::told(&record(event, "a", "e", nanos)), None, "{event}");
        }
    }

    #[test]
    fn a_sequencer_that_is_no_time_is_not_believed() {
        let put = record("s3:ObjectCreated:Put", "a", "e", MADE * 1_000_000);
        for sequencer in ["0055AED6DCD90281E5", "18A", "not hexadecimal", ""] {
            let other = S3Record { sequencer: Some(sequencer.into()), ..put.clone() };
            assert_eq!(Creation::told(&other), None, "{sequencer}");
        }
        assert_eq!(Creation::told(&S3Record { time: None, ..put.clone() }), None);
        assert_eq!(Creation::told(&S3Record { etag: None, ..put }), None);
    }

    proptest! {
        #[test]
        fn told_and_found_are_the_same_exactly_for_the_same_object(
            one in (0u64..3, 0u64..3, 0u64..5_000_000),
            other in (0u64..3, 0u64..3, 0u64..5_000_000),
        ) {
            let of = |(key, etag, nanos): (u64, u64, u64)| {
                (format!("k{key}"), format!("e{etag}"), MADE * 1_000_000 + nanos)
            };
            let ((key, etag, nanos), (other_key, other_etag, other_nanos)) = (of(one), of(other));
            let told = Creation::told(&record("s3:ObjectCreated:Put", &key, &etag, nanos)).unwrap();
            let found = Creation::found("photos", &object(&other_key, &other_etag, other_nanos));

            let same = key == other_key && etag == other_etag && nanos / 1_000_000 == other_nanos / 1_000_000;
            prop_assert_eq!(told.identity() == found.identity(), same);
        }
    }
}
