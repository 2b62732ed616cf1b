//! Recognising a repeat: keys by scope, for a window of time and a number of keys.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;

use broker_model::{DedupKey, StoreError};

use crate::options::DedupOptions;

/// What a key was used for.
#[derive(Debug)]
struct Slot {
    request: u128,
    first: u64,
    count: u32,
    /// Nanoseconds of acceptance on the wall clock.
    at: u64,
    /// On the monotonic clock of this process, possibly before it began.
    since: i128,
    /// The segment whose record has the key; 0 before it is committed.
    segment: u32,
    waiting: Vec<Waiter>,
}

/// Somebody who waits for the commit of the first.
pub(crate) type Waiter = oneshot::Sender<Result<(), StoreError>>;

#[derive(Debug, Default)]
struct Scope {
    slots: HashMap<u128, Slot>,
    order: VecDeque<(u128, u64)>,
    /// A key younger than the window had to go for the bound.
    cut: bool,
}

/// What is known of a key.
#[derive(Debug)]
pub(crate) enum Seen {
    /// Nothing.
    New,
    /// It was used for another request.
    Reused,
    /// These were made for it.
    Committed { first: u64, count: u32, at: u64 },
    /// These are being made for it.
    Pending { first: u64, count: u32, at: u64 },
}

/// All keys.
#[derive(Debug)]
pub(crate) struct Dedup {
    options: DedupOptions,
    scopes: HashMap<Box<str>, Scope>,
    keys: usize,
    /// Keys by the segment that has them.
    per_segment: HashMap<u32, u64>,
}

impl Dedup {
    pub(crate) fn new(options: DedupOptions) -> Self {
        Dedup { options, scopes: HashMap::new(), keys: 0, per_segment: HashMap::new() }
    }

    /// What is known of a key now.
    pub(crate) fn look(&mut self, key: &DedupKey, now: Duration) -> Seen {
        self.expire(&key.scope, now);
        let Some(slot) = self.scopes.get(&key.scope).and_then(|scope| scope.slots.get(&key.key.0)) else {
            return Seen::New;
        };
        // Keys carried forward stand behind younger ones in the order, so the order alone does not say it.
        let edge = now.as_nanos() as i128 - self.options.window.as_nanos() as i128;
        if slot.segment != 0 && slot.since < edge {
            return Seen::New;
        }
        if slot.request != key.request.0 {
            return Seen::Reused;
        }
        let (first, count, at) = (slot.first, slot.count, slot.at);
        match slot.segment {
            0 => Seen::Pending { first, count, at },
            _ => Seen::Committed { first, count, at },
        }
    }

    /// Waits with a pending key.
    pub(crate) fn wait(&mut self, key: &DedupKey, waiter: Waiter) {
        if let Some(slot) = self.scopes.get_mut(&key.scope).and_then(|scope| scope.slots.get_mut(&key.key.0))
        {
            slot.waiting.push(waiter);
        }
    }

    /// Remembers a key from now on, `age` old already; in `segment`, 0 while it is not committed.
    pub(crate) fn remember(
        &mut self,
        key: &DedupKey,
        (first, count, at): (u64, u32, u64),
        segment: u32,
        now: Duration,
        age: Duration,
    ) {
        if age > self.options.window || self.options.keys == 0 {
            return;
        }
        let scope = self.scopes.entry(key.scope.clone()).or_default();
        let since = now.as_nanos() as i128 - age.as_nanos() as i128;
        let slot = Slot { request: key.request.0, first, count, at, since, segment, waiting: Vec::new() };
        match scope.slots.insert(key.key.0, slot) {
            // The order still has the old acceptance, and says so by its number.
            Some(old) => {
                if let Some(n) = self.per_segment.get_mut(&old.segment) {
                    *n -= 1;
                }
            }
            None => self.keys += 1,
        }
        scope.order.push_back((key.key.0, first));
        if segment != 0 {
            *self.per_segment.entry(segment).or_default() += 1;
        }
        while self.scopes.get(&key.scope).is_some_and(|scope| scope.slots.len() > self.options.keys_per_scope)
        {
            self.evict(&key.scope.clone());
        }
        while self.keys > self.options.keys {
            let largest = self.scopes.iter().max_by_key(|(_, scope)| scope.slots.len());
            let Some(name) = largest.map(|(name, _)| name.clone()) else { break };
            self.evict(&name);
        }
    }

    /// The key's record is in this segment now; who waited for it is to be told.
    pub(crate) fn commit(&mut self, key: &DedupKey, first: u64, segment: u32) -> Vec<Waiter> {
        let slot = self.scopes.get_mut(&key.scope).and_then(|scope| scope.slots.get_mut(&key.key.0));
        let Some(slot) = slot.filter(|slot| slot.first == first) else { return Vec::new() };
        if let Some(n) = self.per_segment.get_mut(&slot.segment) {
            *n -= 1;
        }
        slot.segment = segment;
        *self.per_segment.entry(segment).or_default() += 1;
        std::mem::take(&mut slot.waiting)
    }

    /// Nothing was made for this key after all.
    pub(crate) fn forget(&mut self, key: &DedupKey, first: u64) -> Vec<Waiter> {
        let Some(scope) = self.scopes.get_mut(&key.scope) else { return Vec::new() };
        if scope.slots.get(&key.key.0).is_none_or(|slot| slot.first != first) {
            return Vec::new();
        }
        let Some(slot) = scope.slots.remove(&key.key.0) else { return Vec::new() };
        self.keys -= 1;
        if let Some(n) = self.per_segment.get_mut(&slot.segment) {
            *n -= 1;
        }
        slot.waiting
    }

    /// Whether this key still stands on the record of this segment.
    pub(crate) fn stands_on(&self, key: &DedupKey, first: u64, segment: u32) -> bool {
        self.scopes
            .get(&key.scope)
            .and_then(|scope| scope.slots.get(&key.key.0))
            .is_some_and(|slot| slot.first == first && slot.segment == segment)
    }

    /// How many keys stand on records of this segment.
    pub(crate) fn on_segment(&self, segment: u32) -> u64 {
        self.per_segment.get(&segment).copied().unwrap_or(0)
    }

    /// Drops what is older than the window.
    pub(crate) fn expire_all(&mut self, now: Duration) {
        let names: Vec<Box<str>> = self.scopes.keys().cloned().collect();
        for name in names {
            self.expire(&name, now);
            if self.scopes.get(&name).is_some_and(|scope| scope.slots.is_empty()) {
                self.scopes.remove(&name);
            }
        }
        self.per_segment.retain(|_, n| *n > 0);
    }

    /// How far back repeats are recognised: the window, or less where the bound cut it.
    pub(crate) fn window(&self, now: Duration) -> Duration {
        self.scopes
            .values()
            .filter(|scope| scope.cut)
            .filter_map(|scope| {
                let (key, _) = scope.order.front()?;
                let age = now.as_nanos() as i128 - scope.slots.get(key)?.since;
                Some(Duration::from_nanos(u64::try_from(age).unwrap_or(0)))
            })
            .min()
            .map_or(self.options.window, |cut| cut.min(self.options.window))
    }

    fn expire(&mut self, name: &str, now: Duration) {
        let edge = now.as_nanos() as i128 - self.options.window.as_nanos() as i128;
        let Some(scope) = self.scopes.get_mut(name) else { return };
        while let Some((key, first)) = scope.order.front() {
            match scope.slots.get(key) {
                Some(slot) if slot.first == *first => {
                    if slot.since >= edge || slot.segment == 0 {
                        break;
                    }
                    if let Some(n) = self.per_segment.get_mut(&slot.segment) {
                        *n -= 1;
                    }
                    scope.slots.remove(key);
                    self.keys -= 1;
                    scope.cut = false;
                }
                // Another acceptance took the key over, or it is gone.
                _ => {}
            }
            scope.order.pop_front();
        }
    }

    fn evict(&mut self, name: &str) {
        let Some(scope) = self.scopes.get_mut(name) else { return };
        let mut looked = scope.order.len();
        while let Some((key, first)) = scope.order.pop_front() {
            match scope.slots.get(&key) {
                // One whose commit is awaited is kept: its upstream has no word yet.
                Some(slot) if slot.first == first && slot.segment == 0 && looked > 0 => {
                    scope.order.push_back((key, first));
                }
                Some(slot) if slot.first == first => {
                    if let Some(n) = self.per_segment.get_mut(&slot.segment) {
                        *n -= 1;
                    }
                    scope.slots.remove(&key);
                    self.keys -= 1;
                    scope.cut = true;
                    return;
                }
                _ => {}
            }
            looked = looked.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use broker_model::Fingerprint;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn key(scope: &str, key: u128) -> DedupKey {
        DedupKey { scope: scope.into(), key: Fingerprint(key), request: Fingerprint(7) }
    }

    fn dedup(keys: usize, keys_per_scope: usize) -> Dedup {
        Dedup::new(DedupOptions { window: HOUR, keys, keys_per_scope })
    }

    fn knows(dedup: &mut Dedup, scope: &str, n: u128, now: Duration) -> bool {
        !matches!(dedup.look(&key(scope, n), now), Seen::New)
    }

    #[test]
    fn a_key_is_known_for_the_window_and_no_longer() {
        let mut dedup = dedup(10, 10);
        dedup.remember(&key("a", 1), (1, 1, 0), 1, Duration::ZERO, Duration::ZERO);
        dedup.remember(&key("a", 2), (2, 1, 0), 1, Duration::ZERO, HOUR / 2);

        assert!(knows(&mut dedup, "a", 1, HOUR));
        assert!(!knows(&mut dedup, "a", 2, HOUR), "it was half an hour old already");
        assert!(!knows(&mut dedup, "a", 1, HOUR + Duration::from_nanos(1)));
    }

    #[test]
    fn one_scope_cannot_evict_anothers_keys_with_its_own_quota() {
        let mut dedup = dedup(100, 3);
        dedup.remember(&key("quiet", 1), (1, 1, 0), 1, Duration::ZERO, Duration::ZERO);
        for n in 0..50 {
            dedup.remember(
                &key("loud", n),
                (n as u64 + 2, 1, 0),
                1,
                Duration::from_secs(n as u64),
                Duration::ZERO,
            );
        }

        let now = Duration::from_secs(50);
        assert!(knows(&mut dedup, "quiet", 1, now));
        assert!(!knows(&mut dedup, "loud", 46, now));
        assert!(knows(&mut dedup, "loud", 47, now));
        assert_eq!(dedup.window(now), Duration::from_secs(3));
    }

    #[test]
    fn another_request_under_the_same_key_is_told_apart() {
        let mut dedup = dedup(10, 10);
        dedup.remember(&key("a", 1), (1, 1, 0), 1, Duration::ZERO, Duration::ZERO);

        let other = DedupKey { request: Fingerprint(8), ..key("a", 1) };
        assert!(matches!(dedup.look(&other, Duration::ZERO), Seen::Reused));
    }

    #[test]
    fn a_segment_knows_how_many_keys_stand_on_it() {
        let mut dedup = dedup(10, 10);
        dedup.remember(&key("a", 1), (1, 1, 0), 0, Duration::ZERO, Duration::ZERO);
        assert!(matches!(dedup.look(&key("a", 1), Duration::ZERO), Seen::Pending { .. }));
        dedup.commit(&key("a", 1), 1, 4);
        dedup.remember(&key("a", 2), (2, 1, 0), 4, Duration::ZERO, Duration::ZERO);
        assert_eq!(dedup.on_segment(4), 2);

        dedup.commit(&key("a", 1), 1, 9);
        assert_eq!((dedup.on_segment(4), dedup.on_segment(9)), (1, 1));
        dedup.expire_all(HOUR * 2);
        assert_eq!((dedup.on_segment(4), dedup.on_segment(9)), (0, 0));
    }
}
