use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};

use super::*;
use crate::settings::BodyForm;

const VISIBILITY: Seconds = Seconds(30);

struct Case {
    hold: Hold,
    now: Instant,
}

fn queue(name: &str) -> Arc<Queue> {
    Arc::new(Queue::at(&format!("http://h/0/{name}")).unwrap())
}

impl Case {
    fn new() -> Case {
        Case { hold: Hold::new(VISIBILITY), now: Instant::now() }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn take(&mut self, name: &str, group: &str) -> Serial {
        self.take_again(name, group, 1)
    }

    fn take_again(&mut self, name: &str, group: &str, receives: u32) -> Serial {
        let message = Message::builder()
            .message_id("m")
            .receipt_handle("h")
            .body("12345")
            .attributes(MessageSystemAttributeName::MessageGroupId, group)
            .attributes(MessageSystemAttributeName::ApproximateReceiveCount, receives.to_string())
            .build();
        self.hold.take(queue(name), Received::from(message, BodyForm::AsIs).unwrap(), self.now, self.now)
    }

    fn ready(&mut self) -> Vec<Serial> {
        std::iter::from_fn(|| self.hold.pop_ready(self.now)).collect()
    }

    fn due(&mut self) -> Vec<(Serial, i32)> {
        self.hold.due(self.now).into_iter().map(|(serial, time)| (serial, time.0)).collect()
    }
}

#[test]
fn a_later_message_of_a_group_waits_until_the_earlier_one_is_taken() {
    let mut case = Case::new();
    let [a1, a2, b1, a3] = ["a", "a", "b", "a"].map(|group| case.take("q.fifo", group));
    assert_eq!(case.ready(), [a1, b1]);

    case.hold.taken(a1);
    assert_eq!(case.ready(), [a2]);
    assert!(case.ready().is_empty(), "one at a time");
    case.hold.taken(b1);
    case.hold.taken(a2);
    assert_eq!(case.ready(), [a3]);
    case.hold.taken(a3);

    let next = [case.take("q.fifo", "a"), case.take("q.fifo", "b")];
    assert_eq!(case.ready(), next, "both groups are free again");
}

#[test]
fn groups_of_different_queues_and_of_a_standard_queue_do_not_wait() {
    let mut case = Case::new();
    let all = [("p.fifo", "a"), ("q.fifo", "a"), ("r", "a"), ("r", "a")]
        .map(|(queue, group)| case.take(queue, group));

    assert_eq!(case.ready(), all);
}

#[test]
fn what_is_given_back_takes_along_what_is_behind_it() {
    let mut case = Case::new();
    let [a1, a2, a3] = ["a", "a", "a"].map(|group| case.take("q.fifo", group));
    let b1 = case.take("q.fifo", "b");
    assert_eq!(case.ready(), [a1, b1]);

    assert_eq!(case.hold.give_back(a1), [a1, a2, a3]);
    assert!(case.ready().is_empty());
    case.pass(15);
    assert_eq!(case.due(), [(b1, 30)], "nobody renews what goes back");
    for serial in [a1, a2, a3] {
        case.hold.forget(serial);
    }
    assert_eq!((case.hold.messages(), case.hold.bytes()), (1, 6));

    let again = case.take("q.fifo", "a");
    assert_eq!(case.ready(), [again]);
}

#[test]
fn what_waits_goes_back_at_a_stop_and_what_is_being_published_stays() {
    let mut case = Case::new();
    let [a1, a2] = ["a", "a"].map(|group| case.take("q.fifo", group));
    assert_eq!(case.ready(), [a1]);
    let [b1, b2] = ["b", "b"].map(|group| case.take("q.fifo", group));
    let other = case.take("p", "");

    assert_eq!(case.hold.give_back_waiting(Some("/0/p")), [other]);
    assert_eq!(case.hold.give_back_waiting(None), [b1, b2, a2]);
    assert!(case.ready().is_empty());
    case.hold.taken(a1);
    assert!(case.ready().is_empty(), "a2 went back");
}

#[test]
fn a_message_is_renewed_at_half_of_the_time_for_as_long_as_it_is_held() {
    let mut case = Case::new();
    let one = case.take("q", "");
    case.pass(14);
    assert!(case.due().is_empty());
    case.pass(1);
    assert_eq!(case.due(), [(one, 30)]);
    case.hold.renewed(one, case.now, Seconds(30));
    assert_eq!(case.hold.next_due(), Some(case.now + Duration::from_secs(15)));

    case.pass(15);
    assert_eq!(case.due(), [(one, 30)]);
    case.hold.renew_at(one, case.now + Duration::from_secs(1));
    case.pass(1);
    assert_eq!(case.due(), [(one, 30)], "it did not come through");
    case.hold.taken(one);
    case.pass(100);
    assert!(case.due().is_empty(), "taken, it may be seen: it would be recognised");
}

#[test]
fn twelve_hours_after_its_receipt_nothing_is_renewed() {
    let mut case = Case::new();
    let one = case.take("q", "");
    case.pass(12 * 3600 - 20);
    assert_eq!(case.due(), [(one, 20)], "what is left");
    case.pass(20);
    assert!(case.due().is_empty());
    assert_eq!(case.hold.next_due(), None);
    assert_eq!(case.hold.wait_of(one, Duration::from_secs(9), case.now), Seconds(0));
}

#[test]
fn what_others_may_see_again_is_let_go_of_with_what_is_behind_it() {
    let mut case = Case::new();
    let [a1, _a2] = ["a", "a"].map(|group| case.take("q.fifo", group));
    let b1 = case.take("q.fifo", "b");
    case.pass(20);
    case.hold.renewed(b1, case.now, Seconds(30));
    case.pass(10);
    assert_eq!(case.ready(), [b1]);
    assert_eq!(case.hold.messages(), 1);

    let again = case.take("q.fifo", "a");
    assert_ne!(again, a1);
    case.hold.lapsed(again, case.now);
    assert!(case.ready().is_empty());
}

#[test]
fn a_refused_message_waits_as_asked_and_longer_the_more_often_it_came() {
    let mut case = Case::new();
    let wait = |case: &mut Case, receives, after| {
        let serial = case.take_again("q", "", receives);
        case.hold.wait_of(serial, Duration::from_millis(after), case.now).0
    };
    assert_eq!(wait(&mut case, 1, 100), 1);
    assert_eq!(wait(&mut case, 1, 1_001), 2, "not before it was asked for");
    assert_eq!(wait(&mut case, 3, 100), 4);
    assert_eq!(wait(&mut case, 3, 60_000), 60);
    assert_eq!(wait(&mut case, 1_000, 100), 300);
}
