//! What makes a redelivery of the same message recognisable.

use broker_model::{DedupKey, Fingerprint, SourceName};
use sha2::{Digest as _, Sha256};

/// The key of a message of this source, from what identifies it at its upstream: a message id, or the parts of a position
/// together with what tells one life of a topic or stream from the next (its id, its creation time). Parts are told apart
/// by their lengths.
///
/// The message's content is no part of it: an upstream that offers the same message again means the same message.
pub fn dedup_key(source: &SourceName, parts: &[&[u8]]) -> DedupKey {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    let key = Fingerprint(u128::from_be_bytes(half));
    DedupKey { scope: source.as_str().into(), key, request: key }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_parts_are_one_message_and_parts_are_kept_apart() {
        let source = SourceName::parse("bus").unwrap();
        let of = |parts: &[&str]| {
            dedup_key(&source, &parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>())
        };

        assert_eq!(of(&["orders", "17"]), of(&["orders", "17"]));
        assert_ne!(of(&["orders", "17"]), of(&["orders1", "7"]));
        assert_eq!(&*of(&["x"]).scope, "bus");
    }

    #[test]
    fn keys_stay_the_same_over_versions() {
        let key = dedup_key(&SourceName::parse("bus").unwrap(), &[b"orders", b"17"]).key;

        assert_eq!(format!("{:032x}", key.0), "184024d311d7ae3563bdf9ff6d58eb85");
    }
}
