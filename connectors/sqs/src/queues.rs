//! Which queues are read: names that are asked for, looked up, and the queues they turn out to be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use connectors_sdk::{Backoff, Demand, EventForm, Jitter, Retries};

use crate::names::Queue;
use crate::pace::{Pace, Room};
use crate::topics::topics;

/// How a name is looked up again that is no queue. Each look costs a request, and many names are other sources' own.
const MISSING: Backoff =
    Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60), jitter: Jitter::Equal };

/// How often queues are asked how many messages they hold.
const MEASURE_EVERY: Duration = Duration::from_secs(30);

/// The names that are asked for, and the queues behind them.
#[derive(Debug)]
pub(crate) struct Queues {
    form: EventForm,
    demand: Demand,
    names: BTreeMap<String, Asked>,
    /// By their paths.
    read: BTreeMap<Box<str>, Read>,
}

/// One name that is asked for.
#[derive(Debug)]
struct Asked {
    found: Option<Box<str>>,
    looking: bool,
    retries: Retries,
    not_before: Instant,
    /// It was said that there is no such queue.
    said: bool,
}

/// One queue that is read.
#[derive(Debug)]
struct Read {
    queue: Arc<Queue>,
    asked_as: BTreeSet<String>,
    topics: Vec<String>,
    pace: Pace,
    /// It gave an answer since the last failure: a request for messages may wait for them.
    answers: bool,
    retries: Retries,
    not_before: Instant,
    left: CancellationToken,
    waiting: Option<u64>,
    measure_at: Instant,
}

/// A request for messages that is to be made.
#[derive(Debug)]
pub(crate) struct Poll {
    pub(crate) queue: Arc<Queue>,
    pub(crate) messages: usize,
    /// Whether it may wait for messages. The first after a failure may not, so that its answer says soon that all is well.
    pub(crate) waits: bool,
    /// Cancelled when the queue is not to be read any more.
    pub(crate) left: CancellationToken,
}

impl Queues {
    /// Nothing is asked for.
    pub(crate) fn new(form: EventForm) -> Self {
        Queues { form, demand: Demand::default(), names: BTreeMap::new(), read: BTreeMap::new() }
    }

    /// These names are asked for from now on. Answers the queues that are not read any more.
    pub(crate) fn ask(&mut self, names: &BTreeSet<String>, demand: Demand, now: Instant) -> Vec<Arc<Queue>> {
        self.demand = demand;
        let mut left = Vec::new();
        let gone: Vec<String> = self.names.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            let found = self.names.remove(&name).and_then(|asked| asked.found);
            if let Some(path) = found
                && let Some(read) = self.read.get_mut(&path)
                && read.asked_as.remove(&name)
                && read.asked_as.is_empty()
            {
                read.left.cancel();
                left.push(read.queue.clone());
                self.read.remove(&path);
            }
        }
        for name in names {
            self.names.entry(name.clone()).or_insert_with(|| Asked {
                found: None,
                looking: false,
                retries: Retries::new(MISSING),
                not_before: now,
                said: false,
            });
        }
        for read in self.read.values_mut() {
            read.topics = topics(&read.queue, &read.asked_as, &self.demand, &self.form);
        }
        left
    }

    /// The names to be looked up now. A URL needs no look: whether there is such a queue shows when it is read.
    pub(crate) fn look_ups(&mut self, now: Instant) -> Vec<String> {
        let mut names = Vec::new();
        let mut urls = Vec::new();
        for (name, asked) in &mut self.names {
            if asked.found.is_none() && !asked.looking && asked.not_before <= now {
                match Queue::at(name) {
                    Some(queue) => urls.push((name.clone(), queue)),
                    None => {
                        asked.looking = true;
                        names.push(name.clone());
                    }
                }
            }
        }
        for (name, queue) in urls {
            self.found(&name, queue, now);
        }
        names
    }

    /// A name is this queue's.
    pub(crate) fn found(&mut self, name: &str, queue: Queue, now: Instant) {
        let Some(asked) = self.names.get_mut(name) else { return };
        asked.looking = false;
        asked.found = Some(queue.path.clone());
        let read = self.read.entry(queue.path.clone()).or_insert_with(|| Read {
            queue: Arc::new(queue),
            asked_as: BTreeSet::new(),
            topics: Vec::new(),
            pace: Pace::default(),
            answers: false,
            retries: Retries::reconnecting(),
            not_before: now,
            left: CancellationToken::new(),
            waiting: None,
            measure_at: now,
        });
        read.asked_as.insert(name.to_owned());
        read.topics = topics(&read.queue, &read.asked_as, &self.demand, &self.form);
    }

    /// A name could not be looked up, or is no queue's. Answers whether that is to be said.
    pub(crate) fn not_found(&mut self, name: &str, missing: bool, now: Instant) -> bool {
        let Some(asked) = self.names.get_mut(name) else { return false };
        asked.looking = false;
        asked.not_before = now + asked.retries.failed();
        missing && !std::mem::replace(&mut asked.said, true)
    }

    /// A queue turned out not to be there: its names are looked up again. Answers those of which it is to be said.
    pub(crate) fn missing(&mut self, path: &str, now: Instant) -> Vec<String> {
        let Some(read) = self.read.remove(path) else { return Vec::new() };
        read.left.cancel();
        let mut to_be_said = Vec::new();
        for name in read.asked_as {
            if let Some(asked) = self.names.get_mut(&name) {
                asked.found = None;
            }
            if self.not_found(&name, true, now) {
                to_be_said.push(name);
            }
        }
        to_be_said
    }

    /// Whether the queue is read.
    pub(crate) fn reads(&self, path: &str) -> bool {
        self.read.contains_key(path)
    }

    /// Whether none is.
    pub(crate) fn reads_none(&self) -> bool {
        self.read.is_empty()
    }

    /// The names under which messages of the queue are events.
    pub(crate) fn topics(&self, queue: &Queue) -> Vec<String> {
        self.read.get(&queue.path).map_or_else(|| vec![queue.name.to_string()], |read| read.topics.clone())
    }

    /// The requests for messages to be made now, while so many and so heavy ones may still be held.
    pub(crate) fn polls(&mut self, messages: usize, bytes: u64, batch: usize, now: Instant) -> Vec<Poll> {
        let mut asked: usize = self.read.values().map(|read| read.pace.asked()).sum();
        let queues = self.read.len();
        let mut polls = Vec::new();
        for read in self.read.values_mut() {
            while read.not_before <= now {
                let room = Room { messages, bytes, asked, queues };
                // One is enough to see whether it answers.
                let Some(messages) =
                    read.pace.next(room, batch).filter(|_| read.answers || read.pace.asked() == 0)
                else {
                    break;
                };
                read.pace.begin(messages);
                asked += messages;
                let (queue, left) = (read.queue.clone(), read.left.clone());
                polls.push(Poll { queue, messages, waits: read.answers, left });
            }
        }
        polls
    }

    /// A request for messages was answered, with messages of these weights.
    pub(crate) fn answered(&mut self, path: &str, asked: usize, weights: &[u64], batch: usize, polls: usize) {
        let Some(read) = self.read.get_mut(path) else { return };
        read.pace.answered(asked, weights, batch, polls);
        read.retries.answered();
        if !std::mem::replace(&mut read.answers, true) {
            for name in &read.asked_as {
                if let Some(asked) = self.names.get_mut(name) {
                    asked.retries.answered();
                    asked.said = false;
                }
            }
        }
    }

    /// A request for messages came to nothing. Answers whether it is the first in a row.
    pub(crate) fn failed(&mut self, path: &str, asked: usize, now: Instant) -> bool {
        let Some(read) = self.read.get_mut(path) else { return false };
        read.pace.failed(asked);
        read.answers = false;
        read.not_before = now + read.retries.failed();
        read.retries.failures() == 1
    }

    /// The upstream is there again: whatever waited for it need not wait longer.
    pub(crate) fn reopen(&mut self, now: Instant) {
        for read in self.read.values_mut().filter(|read| !read.answers) {
            read.not_before = now;
        }
        for asked in self.names.values_mut().filter(|asked| !asked.said) {
            asked.not_before = now;
        }
    }

    /// The queues to be asked now how many messages they hold.
    pub(crate) fn measures(&mut self, now: Instant) -> Vec<Arc<Queue>> {
        let due = self.read.values_mut().filter(|read| read.answers && read.measure_at <= now);
        due.map(|read| {
            read.measure_at = now + MEASURE_EVERY;
            read.queue.clone()
        })
        .collect()
    }

    /// A queue holds so many messages, or does not say. Answers the sum, when all have said it.
    pub(crate) fn measured(&mut self, path: &str, messages: Option<u64>) -> Option<u64> {
        if let Some(read) = self.read.get_mut(path) {
            read.waiting = messages;
        }
        self.read.values().map(|read| read.waiting).sum()
    }

    /// When there is something to be done next, if it is a matter of time.
    pub(crate) fn next_time(&self, now: Instant) -> Option<Instant> {
        let names = self.names.values().filter(|asked| asked.found.is_none() && !asked.looking);
        let reads = self.read.values().flat_map(|read| [read.not_before, read.measure_at]);
        names.map(|asked| asked.not_before).chain(reads).filter(|time| *time > now).min()
    }
}

#[cfg(test)]
mod tests {
    use connectors_sdk::{Reader, SourceName, Topic, TopicPattern, Wildcards};
    use serde_json::json;

    use super::*;

    const URL: &str = "http://h/0/orders";

    struct Case {
        queues: Queues,
        now: Instant,
    }

    impl Case {
        fn new() -> Case {
            let mut at = Reader::new(json!({}));
            let form = EventForm::read(&mut at, &SourceName::parse("jobs").unwrap(), "sqs", Wildcards::Glob);
            Case { queues: Queues::new(form), now: Instant::now() }
        }

        fn ask(&mut self, names: &[&str]) -> Vec<String> {
            let exact = |name: &&str| TopicPattern::exact(&Topic::parse(name).unwrap());
            let patterns = names.iter().map(|name| (exact(name), BTreeSet::new())).collect();
            let names = names.iter().map(|&name| name.to_owned()).collect();
            let left = self.queues.ask(&names, Demand { patterns }, self.now);
            left.iter().map(|queue| queue.name.to_string()).collect()
        }

        fn polls(&mut self) -> Vec<(String, bool)> {
            let polls = self.queues.polls(1000, 1 << 24, 10, self.now);
            polls.iter().map(|poll| (poll.queue.name.to_string(), poll.waits)).collect()
        }

        fn found(&mut self, name: &str) {
            let queue = Queue::at(&format!("http://h/0/{name}")).unwrap();
            self.queues.found(name, queue, self.now);
        }
    }

    #[test]
    fn a_name_is_looked_up_once_and_read_when_it_is_found() {
        let mut case = Case::new();
        case.ask(&["orders"]);
        assert_eq!(case.queues.look_ups(case.now), ["orders"]);
        assert!(case.queues.look_ups(case.now).is_empty(), "the look is on its way");
        assert!(case.polls().is_empty());

        case.found("orders");
        assert_eq!(case.polls(), [("orders".to_owned(), false)], "the first does not wait");
        case.queues.answered("/0/orders", 1, &[], 10, 4);
        assert_eq!(case.polls(), [("orders".to_owned(), true)]);
        assert!(case.ask(&["orders"]).is_empty());
        assert_eq!(case.ask(&[]), ["orders"]);
        assert!(case.queues.reads_none());
    }

    #[test]
    fn a_name_and_a_url_of_one_queue_are_read_once_until_nobody_asks() {
        let mut case = Case::new();
        case.ask(&["orders", URL]);
        assert_eq!(case.queues.look_ups(case.now), ["orders"], "a URL needs no look");
        case.found("orders");

        assert_eq!(case.polls().len(), 1);
        assert_eq!(case.queues.topics(&Queue::at(URL).unwrap()), [URL, "orders"]);
        assert!(case.ask(&[URL]).is_empty(), "it is still asked for");
        assert_eq!(case.queues.topics(&Queue::at(URL).unwrap()), [URL]);
        assert_eq!(case.ask(&[]), ["orders"]);
    }

    #[test]
    fn a_missing_queue_is_said_once_and_looked_up_again_ever_less_often() {
        let mut case = Case::new();
        case.ask(&["orders", URL]);
        let mut looks = Vec::new();
        let mut said = 0;
        let began = case.now;
        for _ in 0..12 {
            for name in case.queues.look_ups(case.now) {
                looks.push(case.now);
                said += usize::from(case.queues.not_found(&name, true, case.now));
            }
            case.polls();
            said += case.queues.missing("/0/orders", case.now).len();
            case.now = case.queues.next_time(case.now).unwrap();
        }
        assert_eq!(said, 2, "each name once");
        assert!(case.now - began > Duration::from_secs(30), "{:?}", case.now - began);
        assert!(looks.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(500)));

        case.now += Duration::from_secs(60);
        case.queues.look_ups(case.now);
        case.found("orders");
        case.polls();
        case.queues.answered("/0/orders", 1, &[], 10, 4);
        assert_eq!(case.queues.missing("/0/orders", case.now).len(), 2, "gone again, it is said again");
    }

    #[test]
    fn after_a_failure_one_request_that_does_not_wait_comes_first() {
        let mut case = Case::new();
        case.ask(&["orders"]);
        case.queues.look_ups(case.now);
        case.found("orders");
        case.polls();
        case.queues.answered("/0/orders", 1, &[1], 10, 4);
        assert_eq!(case.polls(), [("orders".to_owned(), true)]);

        assert!(case.queues.failed("/0/orders", 10, case.now), "the first in a row");
        assert!(case.polls().is_empty(), "not at once");
        case.now += Duration::from_secs(1);
        assert_eq!(case.polls(), [("orders".to_owned(), false)]);
        assert!(!case.queues.failed("/0/orders", 10, case.now));
        case.queues.reopen(case.now);
        assert_eq!(case.polls().len(), 1, "the upstream is there again");
    }

    #[test]
    fn the_lag_is_known_when_all_queues_have_said_it() {
        let mut case = Case::new();
        case.ask(&["a", "b"]);
        case.found("a");
        case.found("b");

        assert_eq!(case.queues.measured("/0/a", Some(7)), None);
        assert_eq!(case.queues.measured("/0/b", Some(5)), Some(12));
        assert_eq!(case.queues.measured("/0/b", None), None);
    }
}
