//! The ledger: what can be asked.

use std::time::Duration;

use broker_model::ledger::{Filter, LaneStats, Page, Refusing};
use broker_model::{Clock, InvocationId, InvocationQueue, Ledger, Reason, State, StoreError, Totals};

use super::bench::{Bench, End, Engine};
use super::calls::{self, lane};

/// Five calls, one in each state, in the order of [`State::ALL`]; each function its own, all with one call id.
async fn one_of_each<E: Engine>(bench: &Bench<E>) -> Vec<InvocationId> {
    let mut ids = Vec::new();
    for (n, state) in State::ALL.into_iter().enumerate() {
        let lane = lane(&format!("f{n}"));
        let id = bench.accept(calls::with_call_id(&lane, "one-of-each")).await[0];
        ids.push(id);
        match state {
            State::Waiting => {}
            State::Cancelled => {
                bench.store.cancel(id).await.expect("a healthy store cancels");
            }
            State::Delivering => {
                bench.lease_one(&lane).await;
            }
            State::Completed => {
                let delivery = bench.lease_one(&lane).await;
                bench.settle(&delivery, calls::completed()).await;
            }
            State::Dead => {
                let delivery = bench.lease_one(&lane).await;
                bench.settle(&delivery, calls::dead_of(Reason::Rejected)).await;
            }
        }
    }
    ids
}

pub(crate) async fn lists_are_narrowed_by_every_filter<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let ids = one_of_each(&bench).await;
    let other = bench.accept(calls::with_call_id(&lane("f0"), "another")).await[0];

    for (n, state) in State::ALL.into_iter().enumerate() {
        let filter = Filter { state: Some(state), ..Filter::default() };
        let expected = if state == State::Waiting { vec![other, ids[n]] } else { vec![ids[n]] };
        assert_eq!(list(&bench, &filter).await, expected, "{state:?}");
    }
    let by_function = Filter { function: Some(calls::function("f0")), ..Filter::default() };
    assert_eq!(list(&bench, &by_function).await, [other, ids[0]]);
    let by_call_id = Filter {
        call_id: Some(broker_model::CallId::parse("one-of-each").expect("a plain word")),
        ..Filter::default()
    };
    let mut newest_first = ids.clone();
    newest_first.reverse();
    assert_eq!(list(&bench, &by_call_id).await, newest_first);
    let both = Filter { function: Some(calls::function("f0")), ..by_call_id };
    assert_eq!(list(&bench, &both).await, [ids[0]]);
    let by_reason = Filter { reason: Some(Reason::Rejected), ..Filter::default() };
    assert_eq!(list(&bench, &by_reason).await, [ids[3]]);
    let nothing = Filter { function: Some(calls::function("nobody")), ..Filter::default() };
    assert_eq!(list(&bench, &nothing).await, []);
    assert_eq!(list(&bench, &Filter::default()).await.len(), 6);
}

pub(crate) async fn lists_outlive_a_kill<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let mut ids = one_of_each(&bench).await;
    ids.reverse();
    bench.barrier().await;

    let bench = bench.reopen(End::Killed).await;

    assert_eq!(list(&bench, &Filter::default()).await, ids);
    let dead = dead_letters(&bench, &Filter::default()).await;
    assert_eq!(dead.len(), 1);
}

pub(crate) async fn pages_join_to_the_whole_list<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let mut expected = Vec::new();
    for n in 0..23 {
        let id = bench.accept_one(&lane(if n % 2 == 0 { "even" } else { "odd" })).await;
        expected.push(id);
    }
    expected.reverse();

    for limit in [1, 2, 7, 23, 100] {
        assert_eq!(paged(&bench, &Filter::default(), limit).await, expected, "in pages of {limit}");
    }
    let odd = Filter { function: Some(calls::function("odd")), ..Filter::default() };
    let every_second: Vec<_> = expected.iter().skip(1).step_by(2).copied().collect();
    assert_eq!(paged(&bench, &odd, 3).await, every_second);
}

pub(crate) async fn a_page_ends_where_the_list_ends<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let empty = bench.store.list(&Filter::default(), &Page { limit: 5, cursor: None }).await;
    let empty = empty.expect("a healthy store lists");
    assert!(empty.items.is_empty() && empty.next.is_none());

    bench.accept(calls::fan_out(&[lane("a"), lane("a"), lane("a"), lane("a"), lane("a")])).await;
    let whole = bench.store.list(&Filter::default(), &Page { limit: 6, cursor: None }).await;
    let whole = whole.expect("a healthy store lists");
    assert_eq!((whole.items.len(), whole.next), (5, None));
}

pub(crate) async fn a_cursor_holds_its_place_while_the_list_grows<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let mut old = Vec::new();
    for _ in 0..10 {
        old.push(bench.accept_one(&lane("a")).await);
    }
    old.reverse();
    let first = bench.store.list(&Filter::default(), &Page { limit: 4, cursor: None }).await;
    let first = first.expect("a healthy store lists");
    let mut seen: Vec<_> = first.items.iter().map(|record| record.invocation.id).collect();

    // What came meanwhile stands before the cursor; what ended meanwhile still stands where it stood.
    for _ in 0..5 {
        bench.accept_one(&lane("a")).await;
    }
    bench.store.cancel(old[6]).await.expect("a healthy store cancels");

    let mut cursor = first.next;
    while cursor.is_some() {
        let page = bench.store.list(&Filter::default(), &Page { limit: 4, cursor }).await;
        let page = page.expect("a healthy store lists");
        seen.extend(page.items.iter().map(|record| record.invocation.id));
        cursor = page.next;
    }
    assert_eq!(seen, old);
}

pub(crate) async fn a_cursor_that_no_list_gave_is_refused<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.dead(&lane("a")).await;
    for cursor in ["", "x", "-", "-1", "1-x", "99999999999999999999999", "1; drop"] {
        let page = Page { limit: 4, cursor: Some(cursor.to_owned()) };
        let listed = bench.store.list(&Filter::default(), &page).await;
        assert!(matches!(listed, Err(StoreError::BadCursor)), "{cursor:?}: {listed:?}");
        let dead = bench.store.dead_letters(&Filter::default(), &page).await;
        assert!(matches!(dead, Err(StoreError::BadCursor)), "{cursor:?}: {dead:?}");
    }
}

pub(crate) async fn dead_letters_come_latest_death_first<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let mut deliveries = Vec::new();
    for n in 0..9 {
        let lane = lane(&format!("f{}", n % 3));
        bench.accept_one(&lane).await;
        deliveries.push(bench.lease_one(&lane).await);
    }
    // They die in another order than they came.
    deliveries.sort_by_key(|delivery| (delivery.lease.id.as_u128() * 5) % 9);
    let mut expected = Vec::new();
    for (n, delivery) in deliveries.iter().enumerate() {
        bench.pass(Duration::from_millis(10)).await;
        let reason = if n % 2 == 0 { Reason::Exhausted } else { Reason::Rejected };
        bench.settle(delivery, calls::dead_of(reason)).await;
        expected.push((delivery.lease.id, delivery.invocation.lane.clone(), reason));
    }
    expected.reverse();
    bench.accept_one(&lane("f0")).await;

    let mut bench = bench;
    for end in [End::Closed, End::Killed] {
        let all: Vec<_> = expected.iter().map(|(id, ..)| *id).collect();
        assert_eq!(dead_letters(&bench, &Filter::default()).await, all);
        let rejected = Filter { reason: Some(Reason::Rejected), ..Filter::default() };
        let expected_rejected: Vec<_> =
            expected.iter().filter(|(_, _, r)| *r == Reason::Rejected).map(|(id, ..)| *id).collect();
        assert_eq!(dead_letters(&bench, &rejected).await, expected_rejected);
        let both = Filter { function: Some(calls::function("f1")), state: Some(State::Waiting), ..rejected };
        let expected_both: Vec<_> = expected
            .iter()
            .filter(|(_, l, r)| *l == lane("f1") && *r == Reason::Rejected)
            .map(|(id, ..)| *id)
            .collect();
        assert_eq!(dead_letters(&bench, &both).await, expected_both, "the filter's state is ignored");
        bench = bench.reopen(end).await;
    }
}

pub(crate) async fn a_redriven_letter_leaves_the_list_and_returns_on_top<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(bench.dead(&lane("a")).await);
        bench.pass(Duration::from_millis(10)).await;
    }
    bench.store.redrive(ids[0]).await.expect("a dead letter is redriven");
    assert_eq!(dead_letters(&bench, &Filter::default()).await, [ids[2], ids[1]]);

    let delivery = bench.lease_one(&lane("a")).await;
    bench.settle(&delivery, calls::dead_of(Reason::Rejected)).await;

    assert_eq!(dead_letters(&bench, &Filter::default()).await, [ids[0], ids[2], ids[1]]);
    let totals = bench.even().await;
    assert_eq!((totals.dead_in_all(), totals.redriven, totals.dead_kept), (4, 1, 3));
}

pub(crate) async fn lanes_say_how_they_stand<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let to = lane("a");
    assert!(bench.store.lanes().is_empty());
    let began = bench.clock.now();
    let delivering = bench.delivering(&to).await;
    let retried = bench.delivering(&to).await;
    bench.settle(&retried, calls::retry_in(600)).await;
    bench.accept(calls::due(&to, began + Duration::from_secs(6000))).await;
    bench.accept_one(&to).await;
    bench.accept_one(&to).await;
    bench.accept_one(&lane("b")).await;

    let mut lanes = bench.store.lanes();
    lanes.sort_by(|a, b| a.lane.cmp(&b.lane));
    let expected = LaneStats { lane: to.clone(), ready: 2, retrying: 1, scheduled: 1, delivering: 1 };
    assert_eq!(lanes[0], expected);
    assert_eq!((lanes.len(), lanes[1].ready), (2, 1));

    bench.settle(&delivering, calls::completed()).await;
    let b = bench.lease_one(&lane("b")).await;
    bench.settle(&b, calls::completed()).await;
    let lanes = bench.store.lanes();
    assert_eq!((lanes.len(), lanes[0].delivering), (1, 0), "an empty lane is not named");
}

pub(crate) async fn what_is_unknown_is_not_found<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let id = bench.accept_one(&lane("a")).await;

    for bits in [0, 1, id.as_u128() + 1, id.as_u128() ^ (1 << 90), u128::MAX] {
        let found = bench.store.find(InvocationId::from_u128(bits)).await;
        assert_eq!(found.ok(), Some(None), "{bits:x}");
    }
}

pub(crate) async fn totals_count_each_step_once<E: Engine>() {
    let bench = Bench::<E>::new().await;
    assert_eq!(bench.even().await, Totals::default());

    let ids = one_of_each(&bench).await;

    let expected = Totals {
        accepted: [5, 0, 0, 0, 0],
        completed: 1,
        dead: Reason::ALL.map(|reason| u64::from(reason == Reason::Rejected)),
        cancelled: 1,
        held: 2,
        dead_kept: 1,
        ..Totals::default()
    };
    bench.expect_totals(&expected).await;
    // What changes nothing counts nothing.
    bench.store.cancel(ids[2]).await.expect("a healthy store cancels");
    let _ = bench.store.redrive(ids[0]).await;
    bench.store.remove(ids[4]).await.expect("a healthy store answers");
    bench.expect_totals(&expected).await;
    let bench = bench.reopen(End::Closed).await;
    bench.expect_totals(&expected).await;
}

pub(crate) async fn health_says_how_durable_it_is<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let before = bench.store.health();
    assert!(before.refusing.is_none() && !before.durability.is_empty() && before.damaged == 0, "{before:?}");

    bench.accept_one(&lane("a")).await;

    let after = bench.store.health();
    assert!(after.commits > before.commits, "an acceptance is a commit");
    bench.store.close().await.expect("a healthy store closes");
    assert_eq!(bench.store.health().refusing, Some(Refusing::Closed));
}

async fn list<E: Engine>(bench: &Bench<E>, filter: &Filter) -> Vec<InvocationId> {
    paged(bench, filter, 1000).await
}

async fn paged<E: Engine>(bench: &Bench<E>, filter: &Filter, limit: usize) -> Vec<InvocationId> {
    let mut ids = Vec::new();
    let mut page = Page { limit, cursor: None };
    loop {
        let listed = bench.until("a list", async || bench.store.list(filter, &page).await).await;
        assert!(listed.items.len() <= limit);
        ids.extend(listed.items.iter().map(|record| record.invocation.id));
        page.cursor = listed.next;
        if page.cursor.is_none() {
            return ids;
        }
    }
}

async fn dead_letters<E: Engine>(bench: &Bench<E>, filter: &Filter) -> Vec<InvocationId> {
    let mut ids = Vec::new();
    let mut page = Page { limit: 2, cursor: None };
    loop {
        let listed = bench.until("a list", async || bench.store.dead_letters(filter, &page).await).await;
        assert!(listed.items.len() <= 2);
        assert!(
            listed.items.iter().all(|record| record.state == State::Dead && record.dead_letter.is_some())
        );
        ids.extend(listed.items.iter().map(|record| record.invocation.id));
        page.cursor = listed.next;
        if page.cursor.is_none() {
            return ids;
        }
    }
}
