//! The reference store keeps the store's contract.

use std::sync::Arc;

use testkit::contract::store::Engine;
use testkit::reference::{Bounds, ReferenceStore};
use testkit::time::TestClock;

struct Reference {
    bounds: Bounds,
    clock: Arc<TestClock>,
    last: Option<Arc<ReferenceStore>>,
}

impl Engine for Reference {
    type Store = ReferenceStore;

    async fn prepare(bounds: Bounds, clock: Arc<TestClock>) -> Self {
        Reference { bounds, clock, last: None }
    }

    async fn open(&mut self) -> Arc<ReferenceStore> {
        let store = match &self.last {
            Some(last) => last.reopen(),
            None => ReferenceStore::new(self.bounds, self.clock.clone()),
        };
        self.last.insert(Arc::new(store)).clone()
    }

    async fn kill(&mut self, _store: Arc<ReferenceStore>) {}
}

testkit::store_contract!(Reference);
testkit::store_agreement!(Reference, cases: 200);
