//! Topics of buckets: `bucket:s3:ObjectCreated:Put/key`, and names that leave event or key out.

use connectors_sdk::{S3Record, Wildcards, Wishes};

/// The whole name of what happened.
pub(crate) fn topic(record: &S3Record) -> String {
    format!("{}:{}/{}", record.bucket, record.event, record.key)
}

/// Whether anybody asked for it.
pub(crate) fn wanted(wishes: &Wishes, topic: &str) -> bool {
    Wildcards::S3.names(topic).iter().any(|name| wishes.exact.contains(&**name))
        || wishes.patterns.iter().any(|pattern| Wildcards::S3.matches(pattern, topic))
}

/// Whether anybody asked for objects of this bucket.
pub(crate) fn bucket_wanted(wishes: &Wishes, bucket: &str) -> bool {
    let of = |name: &str| name.split(['/', ':']).next().unwrap_or_default().to_owned();
    wishes.exact.iter().any(|name| of(name) == bucket)
        || wishes.patterns.iter().any(|pattern| Wildcards::S3.matches(&of(pattern), bucket))
}

/// Why a name cannot be one of a bucket's.
pub(crate) fn check(name: &str) -> Result<(), String> {
    let (head, _) = name.split_once('/').unwrap_or((name, ""));
    let (bucket, event) = head.split_once(':').map_or((head, None), |(bucket, event)| (bucket, Some(event)));
    let letters = bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._*".contains(&b));
    let length = if bucket.contains('*') { 1..=63 } else { 3..=63 };
    if !letters || !length.contains(&bucket.len()) {
        return Err(format!(
            "{bucket:?} is no bucket: 3 to 63 letters, digits, dots, hyphens and underscores"
        ));
    }
    match event {
        Some(event) if event != "*" && !event.starts_with("s3:") => {
            Err(format!("{event:?} is no event of S3, such as s3:ObjectCreated:Put or s3:ObjectCreated:*"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(exact: &[&str], patterns: &[&str]) -> Wishes {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Wishes { exact: set(exact), patterns: set(patterns) }
    }

    #[test]
    fn an_event_is_wanted_by_whole_names_and_by_patterns() {
        let topic = "photos:s3:ObjectCreated:Put/in/a.jpg";
        for name in ["photos", "photos:s3:ObjectCreated:Put", "photos:s3:ObjectCreated:*", "photos/in/a.jpg"]
        {
            assert!(wanted(&wishes(&[name], &[]), topic), "{name}");
        }
        for pattern in ["photos/in/*", "ph*:s3:*/*.jpg", "photos:s3:ObjectCreated:*"] {
            assert!(wanted(&wishes(&[], &[pattern]), topic), "{pattern}");
        }
        assert!(!wanted(&wishes(&["photos/in", "photo"], &["photos/out/*"]), topic));
    }

    #[test]
    fn a_bucket_is_wanted_whatever_of_it_is() {
        assert!(bucket_wanted(&wishes(&["photos/a"], &[]), "photos"));
        assert!(bucket_wanted(&wishes(&[], &["ph*:s3:*"]), "photos"));
        assert!(!bucket_wanted(&wishes(&["photos"], &["v*"]), "photos2"));
    }

    #[test]
    fn names_of_other_upstreams_are_told() {
        for good in ["photos", "photos:s3:ObjectCreated:*", "a.b-c/x y:z", "*:s3:ObjectRemoved:*", "*/*.jpg"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["ab", "two words", "photos:ObjectCreated", "", "/a"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
