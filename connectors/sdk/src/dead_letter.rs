//! What becomes of an event that the broker will never take.

use broker_model::intake::Quarantined;
use broker_model::{Event, Refusal};

use crate::dedup::dedup_key;

/// An event that will never be taken, as it goes to the dead letters. Offered again, it is the same dead letter, and not the
/// event whose id it may have repeated.
pub fn dead_letter(event: Event, refusal: &Refusal) -> Quarantined {
    let dedup = event.dedup.map(|key| {
        let (id, content) = (key.key.0.to_be_bytes(), key.request.0.to_be_bytes());
        dedup_key(&event.source, &[b"refused", &id, &content])
    });
    Quarantined {
        source: event.source,
        topic: Some(event.topic),
        headers: event.headers,
        raw: event.body,
        why: refusal.to_string().into(),
        dedup,
        position: event.position,
    }
}
