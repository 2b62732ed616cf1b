//! The broker killed at random moments under load, again and again; then everything is accounted for from outside.
//!
//! `EVOKE_CRASH_ROUNDS` kills (30 unless said), from `EVOKE_CRASH_SEED` (random unless said; it is printed). What is
//! promised and checked:
//!
//! - each 202 and each receipt reached its function at least once, or is held, or dead, or was taken back (I1, I3);
//! - a key that was repeated until it was answered made one invocation, and every answer names it (I3);
//! - a delivery was repeated only when a kill cut it short or came before it could be settled; an invocation nobody was
//!   told of belongs to a request that a kill left unanswered (I3);
//! - nothing is dead but the calls of the function that always fails, for want of attempts: kills are nobody's fault;
//! - callbacks are invocations like any other (I6);
//! - the ledger agrees with itself and with all of this when it is quiet (I2).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broker_demo_gateway::{Answer, CallbackReceiver, DemoGateway, Function, FunctionCall, Recording};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use testkit::servers::NatsServer;
use testkit::time::eventually;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::broker::{Answer as Said, Broker, SOON, Setup, try_send};

/// Deliveries that ended this long before a kill may not have been settled: the answer has to come back, and its record
/// waits for the commit under way. That is a few milliseconds, but for a disk that others keep busy.
const UNSETTLED: Duration = Duration::from_millis(500);

/// Callers and upstreams at once.
const WORKERS: u64 = 6;

/// What a function runs, seen from inside it.
#[derive(Clone, Debug)]
struct Run {
    function: String,
    invocation: Uuid,
    attempt: u32,
    call_id: String,
    body: String,
    began: Instant,
    ended: Option<Instant>,
}

/// Every run of every function, in the order of their beginning.
#[derive(Clone, Default)]
struct Runs(Arc<Mutex<Vec<Run>>>);

impl Runs {
    fn locked(&self) -> MutexGuard<'_, Vec<Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the beginning of a run; its end is noted when the guard goes, also when the caller left.
    fn begin(&self, call: &FunctionCall) -> Ends {
        let text = |name: &str| call.header(name).unwrap_or_default().to_owned();
        let run = Run {
            function: call.function.clone(),
            invocation: text("evoke-invocation-id")
                .parse()
                .expect("each delivery says which invocation it is"),
            attempt: text("evoke-attempt").parse().expect("each delivery says which attempt it is"),
            call_id: call.call_id().to_owned(),
            body: call.text(),
            began: Instant::now(),
            ended: None,
        };
        let mut runs = self.locked();
        runs.push(run);
        Ends { runs: self.clone(), at: runs.len() - 1 }
    }

    fn running(&self) -> usize {
        self.locked().iter().filter(|run| run.ended.is_none()).count()
    }
}

struct Ends {
    runs: Runs,
    at: usize,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.runs.locked()[self.at].ended = Some(Instant::now());
    }
}

/// A function of the test: how long it takes, and what it answers to which attempt.
fn function(name: &str, runs: &Runs, answer: fn(u32) -> Answer) -> Function {
    let runs = runs.clone();
    let run = move |call: FunctionCall| {
        let ends = runs.begin(&call);
        let attempt = call.header("evoke-attempt").and_then(|n| n.parse().ok()).unwrap_or(1);
        let takes = match call.function.as_str() {
            // Spread over half a second, by its id.
            "slow" => {
                Duration::from_millis(u64::from(call.call_id().bytes().fold(7_u8, u8::wrapping_add)) * 2)
            }
            _ => Duration::ZERO,
        };
        async move {
            tokio::time::sleep(takes).await;
            drop(ends);
            answer(attempt)
        }
    };
    Function::answering(name, run)
        .recording(Recording::CountOnly)
        .annotation("com.openfaas.retry.min_wait", "30ms")
        .annotation("com.openfaas.retry.max_wait", "200ms")
}

fn functions(runs: &Runs) -> Vec<Function> {
    let fine: fn(u32) -> Answer = |_| Answer::ok("fine");
    let third_time_lucky: fn(u32) -> Answer = |attempt| match attempt {
        1 => Answer::status(500),
        2 => Answer::drop_connection(),
        _ => Answer::ok("at last"),
    };
    vec![
        function("steady", runs, fine),
        function("slow", runs, fine),
        function("flaky", runs, third_time_lucky),
        function("fail", runs, |_| Answer::status(500)).annotation("com.openfaas.retry.attempts", "1"),
        function("mail", runs, fine).annotation("topic", "orders.created, bus.orders"),
        function("stock", runs, third_time_lucky).annotation("topic", "orders.created"),
        function("audit", runs, fine).annotation("evoke.topics", "orders.*, bus.>"),
    ]
}

/// What callers were told.
#[derive(Default)]
struct Told {
    /// Invocation ids by call id, one for each 202; with what was asked for.
    calls: BTreeMap<String, Call>,
    /// Receipts by the event's body: each answer's invocations.
    events: BTreeMap<String, Vec<Vec<Uuid>>>,
    /// Call ids and bodies of requests that a kill left without an answer, and that were not repeated.
    unanswered: HashSet<String>,
    /// How many requests a kill left without an answer, repeated or not.
    cut_short: u64,
    /// Bodies of what was published over NATS.
    over_nats: HashSet<String>,
    /// Answered redrives, by invocation: the life each began.
    redriven: HashMap<Uuid, Vec<u64>>,
    /// Redrives a kill left without an answer.
    maybe_redriven: HashMap<Uuid, u64>,
    /// Answered cancels.
    cancelled: HashSet<Uuid>,
    /// Cancels a kill left without an answer.
    maybe_cancelled: HashSet<Uuid>,
    /// Answers that are wrong whatever happens.
    wrong: Vec<String>,
}

#[derive(Debug)]
struct Call {
    function: &'static str,
    answers: Vec<Uuid>,
    callback: bool,
    far: bool,
}

/// What all workers share.
struct World {
    told: Mutex<Told>,
    callbacks: CallbackReceiver,
    nats: async_nats::Client,
    web: reqwest::Client,
    base: String,
    /// Set while a broker should be there, so that nobody burns time on refused connections.
    up: AtomicBool,
    stop: AtomicBool,
    next: AtomicU64,
    round: AtomicU64,
}

/// One request and what became of it.
enum Sent {
    Answered(Said),
    /// Nobody listened: it was not taken, for certain.
    NotTaken,
    /// It may or may not have been taken.
    Unanswered,
}

impl World {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Sent {
        match try_send(request).await {
            Ok(answer) => Sent::Answered(answer),
            Err(error) if error.is_connect() => Sent::NotTaken,
            Err(_) => {
                self.told().cut_short += 1;
                Sent::Unanswered
            }
        }
    }

    fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.web.post(format!("{}{path}", self.base))
    }

    /// Sends until there is an answer to go by. Only what carries a key may be repeated after silence.
    async fn insist(&self, keyed: bool, request: impl Fn() -> reqwest::RequestBuilder) -> Option<Said> {
        loop {
            match self.send(request()).await {
                // Starting, stopping or rebuilding an index: not taken, and said so.
                Sent::Answered(answer) if answer.status == 503 => {}
                Sent::Answered(answer) => return Some(answer),
                Sent::Unanswered if !keyed => return None,
                Sent::Unanswered | Sent::NotTaken => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn call(&self, random: &mut StdRng) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let function = match random.random_range(0..100) {
            0..50 => "steady",
            50..70 => "slow",
            70..96 => "flaky",
            _ => "fail",
        };
        let (keyed, far) = (random.random_bool(0.5), function == "steady" && random.random_bool(0.03));
        let callback = function != "fail" && !far && random.random_bool(0.25);
        let delayed = random.random_bool(0.1);
        let delay = format!("{}ms", random.random_range(1..1500));
        // A few bodies take the way of large ones, over a file of their own.
        let body =
            format!("body-{number}-{}", "x".repeat(if random.random_bool(0.01) { 400 << 10 } else { 64 }));
        let id = format!("call-{number}");
        let callback_url = self.callbacks.url(&format!("round-{}", self.round.load(Ordering::Relaxed)));
        let request = || {
            let mut request = self.post(&format!("/async-function/{function}")).header("X-Call-Id", &id);
            if keyed {
                request = request.header("Idempotency-Key", &id);
            }
            if callback {
                request = request.header("X-Callback-Url", &callback_url);
            }
            if far {
                request = request.header("Evoke-Delay", "6h");
            } else if delayed {
                request = request.header("Evoke-Delay", &delay);
            }
            request.body(body.clone())
        };
        match self.insist(keyed, request).await {
            None => {
                self.told().unanswered.insert(id);
            }
            Some(answer) if answer.status == 202 => {
                let call = Call { function, answers: vec![answer.invocation()], callback, far };
                self.told().calls.insert(id.clone(), call);
                if keyed && random.random_bool(0.2) {
                    self.repeat(&id, request).await;
                }
            }
            Some(answer) => self.told().wrong.push(format!("{id}: {answer:?}")),
        }
    }

    /// An upstream that did not believe its answer: the same key again is the same invocation.
    async fn repeat(&self, id: &str, request: impl Fn() -> reqwest::RequestBuilder) {
        let Some(answer) = self.insist(true, request).await else { return };
        let mut told = self.told();
        if answer.status != 202 || answer.find("evoke-duplicate") != Some("true") {
            told.wrong.push(format!("repeated {id}: {answer:?}"));
        } else if let Some(call) = told.calls.get_mut(id) {
            call.answers.push(answer.invocation());
        }
    }

    async fn event(&self, random: &mut StdRng) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (topic, keyed) = match random.random_range(0..10) {
            0..5 => ("orders.created", random.random_bool(0.5)),
            5..9 => ("orders.paid", random.random_bool(0.5)),
            _ => ("nobody.wants", false),
        };
        let body = format!("event-{number}");
        let event = match keyed {
            true => json!({ "topic": topic, "body": body, "idempotency_key": body }),
            false => json!({ "topic": topic, "body": body }),
        };
        let times = if keyed && random.random_bool(0.2) { 2 } else { 1 };
        for _ in 0..times {
            let answer = self.insist(keyed, || self.post("/v1/events").json(&event)).await;
            let mut told = self.told();
            match answer {
                None => {
                    told.unanswered.insert(body.clone());
                }
                Some(answer) if answer.status == 202 => {
                    let receipt = answer.json();
                    let ids = receipt["invocations"].as_array().into_iter().flatten();
                    let mut ids: Vec<Uuid> = ids.filter_map(|one| one["id"].as_str()?.parse().ok()).collect();
                    ids.sort_unstable();
                    told.events.entry(body.clone()).or_default().push(ids);
                }
                Some(answer) => told.wrong.push(format!("{body}: {answer:?}")),
            }
        }
    }

    async fn over_nats(&self) {
        let body = format!("nats-{}", self.next.fetch_add(1, Ordering::Relaxed));
        self.told().over_nats.insert(body.clone());
        if let Err(error) = self.nats.publish("bus.orders", body.into()).await {
            self.told().wrong.push(format!("NATS: {error}"));
        }
    }

    /// An operator who puts back what died, and takes back what waits for long.
    async fn operate(&self, random: &mut StdRng) {
        if random.random_bool(0.5) {
            let far = {
                let told = self.told();
                let taken = |id: &Uuid| told.cancelled.contains(id) || told.maybe_cancelled.contains(id);
                let mut far = told.calls.values().filter(|call| call.far).map(|call| call.answers[0]);
                far.find(|id| !taken(id))
            };
            let Some(id) = far else { return };
            match self.send(self.post(&format!("/v1/invocations/{id}/cancel"))).await {
                Sent::Answered(answer) if answer.status == 202 => {
                    self.told().cancelled.insert(id);
                }
                Sent::Answered(answer) if answer.status == 503 => {}
                // Another worker was quicker.
                Sent::Answered(answer) if answer.status == 409 => {}
                Sent::Answered(answer) => self.told().wrong.push(format!("cancel {id}: {answer:?}")),
                Sent::Unanswered => {
                    self.told().maybe_cancelled.insert(id);
                }
                Sent::NotTaken => {}
            }
            return;
        }
        let listed =
            self.send(self.web.get(format!("{}/v1/dead-letters?function=fail&limit=5", self.base))).await;
        let Sent::Answered(listed) = listed else { return };
        if listed.status != 200 {
            return;
        }
        let listed = listed.json();
        let Some(items) = listed["items"].as_array().filter(|items| !items.is_empty()) else { return };
        let dead = &items[random.random_range(0..items.len())];
        let Some(id) = dead["id"].as_str().and_then(|id| id.parse::<Uuid>().ok()) else { return };
        match self.send(self.post(&format!("/v1/dead-letters/{id}/redrive"))).await {
            Sent::Answered(answer) if answer.status == 202 => {
                let life = answer.json()["life"].as_u64().unwrap_or_default();
                self.told().redriven.entry(id).or_default().push(life);
            }
            // Another worker was quicker, or it is being put back just now.
            Sent::Answered(answer) if matches!(answer.status, 404 | 409 | 503) => {}
            Sent::Answered(answer) => self.told().wrong.push(format!("redrive {id}: {answer:?}")),
            Sent::Unanswered => *self.told().maybe_redriven.entry(id).or_default() += 1,
            Sent::NotTaken => {}
        }
    }

    async fn work(self: Arc<World>, mut random: StdRng) {
        while !self.stop.load(Ordering::Relaxed) {
            if self.up.load(Ordering::Relaxed) {
                match random.random_range(0..100) {
                    0..65 => self.call(&mut random).await,
                    65..82 => self.event(&mut random).await,
                    82..94 => self.over_nats().await,
                    _ => self.operate(&mut random).await,
                }
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(5..40))).await;
        }
    }
}

/// A SIGKILL: some moment between these two.
#[derive(Clone, Copy, Debug)]
struct Kill {
    after: Instant,
    before: Instant,
}

impl Kill {
    fn of(broker: &mut Broker) -> Kill {
        let after = Instant::now();
        broker.kill();
        Kill { after, before: Instant::now() }
    }
}

/// The kills that may have cut short what ran from `began` to `ended`, or came before it could be settled.
fn cutting(kills: &[Kill], began: Instant, ended: Option<Instant>) -> impl Iterator<Item = &Kill> {
    kills
        .iter()
        .filter(move |kill| began <= kill.before && ended.is_none_or(|ended| ended + UNSETTLED >= kill.after))
}

/// Whether a kill explains that a delivery from `began` to `ended` was repeated at `again`.
fn explained(began: Instant, ended: Option<Instant>, again: Instant, kills: &[Kill]) -> bool {
    cutting(kills, began, ended).any(|kill| kill.after <= again)
}

/// The repeats among one invocation's runs: how long before its kill each had ended in the function, zero when it had not.
///
/// A life begins at attempt 1 and never goes back, so an attempt behind one that was made already is of the next life.
fn repeats(id: Uuid, runs: &[&Run], redriven: u64, kills: &[Kill]) -> Vec<Duration> {
    let mut repeats = Vec::new();
    let mut redrives_left = redriven;
    let mut this_life: BTreeMap<u32, &Run> = BTreeMap::new();
    for run in runs {
        if let Some(before) = this_life.get(&run.attempt).copied() {
            let went_past = this_life.keys().any(|other| *other > run.attempt);
            let cut = cutting(kills, before.began, before.ended).filter(|kill| kill.after <= run.began);
            if went_past && redrives_left > 0 {
                redrives_left -= 1;
                this_life.clear();
            } else if let Some(kill) = cut.min_by_key(|kill| kill.after) {
                let ended = before.ended.unwrap_or(kill.after);
                repeats.push(kill.after.saturating_duration_since(ended));
            } else {
                panic!("{id} ran again without a reason: {before:?}, then {run:?}");
            }
        }
        this_life.insert(run.attempt, run);
    }
    repeats
}

async fn all_dead(broker: &Broker) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = broker.get(&format!("/v1/dead-letters?limit=1000{cursor}")).await;
        all.extend(page["items"].as_array().expect("items").clone());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_however_often_the_broker_is_killed() {
    let rounds = number("EVOKE_CRASH_ROUNDS").unwrap_or(30);
    let seed = number("EVOKE_CRASH_SEED").unwrap_or_else(rand::random);
    println!("crash test of {rounds} rounds with EVOKE_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let runs = Runs::default();
    let gateway = DemoGateway::start(functions(&runs)).await.unwrap();
    let nats = NatsServer::start().await;
    let setup = Setup::beside(&gateway)
        .config(&format!("sources: {{ bus: {{ nats: {{ url: {} }} }} }}", nats.url()))
        .set("log.calls", "false")
        .set("delivery.concurrency", "16");
    let mut broker = setup.start().await;
    let world = Arc::new(World {
        told: Mutex::default(),
        callbacks: CallbackReceiver::start().await.unwrap(),
        nats: async_nats::connect(nats.url()).await.unwrap(),
        web: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap(),
        base: broker.url(""),
        up: AtomicBool::new(true),
        stop: AtomicBool::new(false),
        next: AtomicU64::new(0),
        round: AtomicU64::new(0),
    });
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        workers.spawn(world.clone().work(StdRng::seed_from_u64(seed.wrapping_add(worker + 1))));
    }

    let mut kills = Vec::new();
    let mut running_at_kills = 0;
    for round in 0..rounds {
        world.round.store(round, Ordering::Relaxed);
        let callback_fails = random.random_range(0..4);
        world.callbacks.fail_next(&format!("round-{round}"), callback_fails, 503);
        let lives = random.random_range(50..2500);
        tokio::time::sleep(Duration::from_millis(lives)).await;
        running_at_kills += runs.running();
        kills.push(Kill::of(&mut broker));
        world.up.store(false, Ordering::Relaxed);
        // Some die again while they still read their journal.
        while random.random_bool(0.2) {
            broker.start_again();
            tokio::time::sleep(Duration::from_millis(random.random_range(0..120))).await;
            kills.push(Kill::of(&mut broker));
        }
        broker.come_back().await;
        world.up.store(true, Ordering::Relaxed);
        if (round + 1) % 50 == 0 {
            println!("{} of {rounds} rounds, {} kills, {} runs", round + 1, kills.len(), runs.locked().len());
        }
    }
    world.stop.store(true, Ordering::Relaxed);
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }

    let told = std::mem::take(&mut *world.told());
    assert_eq!(told.wrong, [] as [String; 0]);
    let far: Vec<Uuid> = told.calls.values().filter(|call| call.far).map(|call| call.answers[0]).collect();
    let kept = |id: &Uuid| !told.cancelled.contains(id) && !told.maybe_cancelled.contains(id);
    let waiting_at_least = far.iter().filter(|id| kept(id)).count() as u64;
    let waiting_at_most = (far.len() - told.cancelled.len() + told.unanswered.len()) as u64;
    let in_an_hour = Timestamp::now() + SignedDuration::from_hours(1);
    let is_far = |waits: &Value| {
        let due = waits["next_attempt_at"].as_str().and_then(|due| due.parse::<Timestamp>().ok());
        due.is_some_and(|due| due > in_an_hour)
    };
    let ledger =
        eventually(Duration::from_secs(120), "all but what is due in hours to have ended", async || {
            let waiting = broker.items("/v1/invocations?state=waiting&limit=1000").await;
            let near = waiting.iter().filter(|waits| !is_far(waits)).count();
            let ledger = broker.info().await["ledger"].take();
            let quiet = near == 0 && ledger["held"] == waiting.len() && runs.running() == 0;
            if quiet { Ok(ledger) } else { Err(format!("{near} wait, {} run, {ledger}", runs.running())) }
        })
        .await;
    let count = |key: &str| ledger[key].as_u64().unwrap_or_else(|| panic!("no {key} in {ledger}"));

    let waiting = waiting_at_least..=waiting_at_most;
    assert!(waiting.contains(&count("held")), "{waiting:?} are due in hours: {ledger}");

    // I2: the ledger agrees with itself.
    assert_eq!(ledger["drift"], 0, "{ledger}");
    assert_eq!(
        count("accepted") + count("redriven"),
        count("completed") + count("dead") + count("cancelled") + count("held"),
        "{ledger}"
    );

    // I1 and I3: each answer was kept.
    let runs = runs.locked().clone();
    let mut of_invocation: HashMap<Uuid, Vec<&Run>> = HashMap::new();
    for run in &runs {
        of_invocation.entry(run.invocation).or_default().push(run);
    }
    let dead: HashMap<Uuid, Value> = all_dead(&broker)
        .await
        .into_iter()
        .map(|dead| (dead["id"].as_str().expect("an id").parse().expect("a UUID"), dead))
        .collect();
    let mut known: HashSet<Uuid> = HashSet::new();
    for (call_id, call) in &told.calls {
        let id = call.answers[0];
        assert!(call.answers.iter().all(|answer| *answer == id), "{call_id} was answered {:?}", call.answers);
        known.insert(id);
        if call.far {
            assert!(!of_invocation.contains_key(&id), "{call_id} ran hours before it was due");
            let state = broker.invocation(id).await["state"].take();
            let right = match (told.cancelled.contains(&id), told.maybe_cancelled.contains(&id)) {
                (true, _) => state == "cancelled",
                (false, true) => state == "cancelled" || state == "waiting",
                (false, false) => state == "waiting",
            };
            assert!(right, "{call_id} ({id}) is {state}");
        } else {
            let ran = of_invocation
                .get(&id)
                .unwrap_or_else(|| panic!("{call_id} ({id}) was accepted and never ran"));
            assert!(ran.iter().all(|run| run.call_id == *call_id && run.function == call.function));
            assert_eq!(dead.contains_key(&id), call.function == "fail", "{call_id}: {ran:?}");
        }
    }
    for (body, receipts) in &told.events {
        assert!(receipts.iter().all(|receipt| *receipt == receipts[0]), "{body}: {receipts:?}");
        for id in &receipts[0] {
            known.insert(*id);
            let ran =
                of_invocation.get(id).unwrap_or_else(|| panic!("{body} ({id}) has a receipt and never ran"));
            assert!(ran.iter().all(|run| run.body == *body));
        }
    }

    // Nobody's invocations: only of requests that a kill left unanswered, one of each at most, and of NATS.
    let mut strangers: HashMap<(&str, &str), HashSet<Uuid>> = HashMap::new();
    let mut from_nats = HashSet::new();
    for run in runs.iter().filter(|run| !known.contains(&run.invocation)) {
        if told.over_nats.contains(&run.body) {
            from_nats.insert((run.body.as_str(), run.function.as_str(), run.invocation));
            continue;
        }
        let asked = told.unanswered.contains(&run.call_id) || told.unanswered.contains(&run.body);
        assert!(asked, "nobody asked for {run:?}");
        let what = if run.body.starts_with("event-") { run.body.as_str() } else { run.call_id.as_str() };
        strangers.entry((what, run.function.as_str())).or_default().insert(run.invocation);
    }
    assert!(
        strangers.values().all(|ids| ids.len() == 1),
        "one request made several invocations: {strangers:?}"
    );
    let distinct: HashSet<(&str, &str)> =
        from_nats.iter().map(|(body, function, _)| (*body, *function)).collect();
    assert_eq!(distinct.len(), from_nats.len(), "an event of NATS was accepted twice");

    // I3: each repeated delivery has its kill.
    let mut repeated = Vec::new();
    for (id, ran) in &of_invocation {
        let lives = dead.get(id).and_then(|dead| dead["life"].as_u64()).unwrap_or(1);
        repeated.extend(repeats(*id, ran, lives - 1, &kills));
    }
    let duplicates = repeated.len() as u64;
    let latest = repeated.iter().max().copied().unwrap_or_default();
    let cut_short = |run: &&Run| cutting(&kills, run.began, run.ended).next().is_some();
    let at_the_kills = runs.iter().filter(cut_short).count() as u64;
    assert!(duplicates <= at_the_kills + told.cut_short, "{duplicates} repeats, {at_the_kills} cut short");

    // Nothing is dead because of the kills.
    for (id, dead) in &dead {
        assert_eq!(
            (&dead["reason"], &dead["function"]),
            (&"exhausted".into(), &"fail.openfaas-fn".into()),
            "{dead}"
        );
        let lives = told.redriven.get(id).and_then(|lives| lives.iter().max().copied()).unwrap_or(1);
        assert!(
            dead["life"].as_u64().is_some_and(|life| life >= lives),
            "an answered redrive was lost: {dead}"
        );
    }
    assert_eq!(count("dead"), dead.len() as u64 + count("redriven"));
    let redrives: u64 = told.redriven.values().map(|lives| lives.len() as u64).sum();
    let maybe_redrives: u64 = told.maybe_redriven.values().sum();
    assert!(
        (redrives..=redrives + maybe_redrives).contains(&count("redriven")),
        "{redrives} redrives: {ledger}"
    );

    // I6: each call that asked for one was called back, and repeats have their kill.
    let mut called_back: HashMap<String, Vec<(String, Instant, Option<Duration>)>> = HashMap::new();
    for round in 0..rounds {
        for callback in world.callbacks.received(&format!("round-{round}")) {
            let call_id = callback.call_id().expect("a callback names its call").to_owned();
            let attempt = callback.header("evoke-attempt").expect("an attempt").to_owned();
            assert_eq!(callback.header("x-function-status"), Some("200"), "{call_id}");
            called_back.entry(call_id).or_default().push((attempt, callback.arrived, callback.took));
        }
    }
    for (call_id, call) in told.calls.iter().filter(|(_, call)| call.callback) {
        assert!(called_back.contains_key(call_id), "{call_id} ({}) was not called back", call.answers[0]);
    }
    let mut repeated_callbacks = 0;
    for (call_id, mut received) in called_back.clone() {
        received.sort_by_key(|(_, arrived, _)| *arrived);
        for (at, (attempt, arrived, _)) in received.iter().enumerate() {
            let Some((_, before, took)) = received[..at].iter().rev().find(|(other, ..)| other == attempt)
            else {
                continue;
            };
            let ended = took.map(|took| *before + took);
            assert!(
                explained(*before, ended, *arrived, &kills),
                "{call_id} was called back again without a reason"
            );
            repeated_callbacks += 1;
        }
    }

    // The ledger agrees with what callers know.
    let by_origin = |origin: &str| ledger["accepted_by_origin"][origin].as_u64().unwrap_or(0);
    let unanswered_calls = told.unanswered.iter().filter(|id| id.starts_with("call-")).count() as u64;
    let calls = told.calls.len() as u64;
    assert!((calls..=calls + unanswered_calls).contains(&by_origin("call")), "{calls} calls: {ledger}");

    println!(
        "crash test: seed {seed}, {} kills; accepted {} (calls {calls}, events {}, of NATS {} of {} published x 2), \
         deliveries {}, repeated {duplicates} ({running_at_kills} ran at the kills, the others had ended at most {latest:?} before), \
         requests unanswered {}, repeated callbacks {repeated_callbacks}, callbacks {}, redriven {}, cancelled {}, \
         dead {} (exhausted; interrupted 0), held {}, drift 0, lost 0",
        kills.len(),
        count("accepted"),
        told.events.len(),
        from_nats.len(),
        told.over_nats.len(),
        runs.len(),
        told.cut_short,
        called_back.len(),
        count("redriven"),
        count("cancelled"),
        dead.len(),
        count("held"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_kills_the_broker_each_time_it_runs_is_found_while_others_complete() {
    let victim: Arc<Mutex<Option<u32>>> = Arc::default();
    let aims_at = victim.clone();
    let killer = Function::answering("killer", move |_| {
        let victim = aims_at.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(pid) = victim.and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
        }
        async { Answer::hang() }
    });
    let gateway = DemoGateway::start([killer, Function::echo("env")]).await.unwrap();
    let mut broker = Setup::beside(&gateway).start().await;
    let aim = |broker: &Broker| *victim.lock().unwrap_or_else(PoisonError::into_inner) = broker.id();
    let mut others = Vec::new();

    aim(&broker);
    let killer = broker.accepted(broker.call("killer")).await;
    loop {
        let path = format!("/v1/invocations/{killer}");
        let died = eventually(Duration::from_secs(60), "a death, of one or the other", async || {
            if broker.has_died() {
                return Some(true);
            }
            let seen = try_send(broker.request(Method::GET, &path)).await.ok()?;
            (seen.status == 200 && seen.json()["state"] == "dead").then_some(false)
        })
        .await;
        if !died {
            break;
        }
        broker.wait(SOON);
        broker.start_again();
        aim(&broker);
        // It may die before it answers anybody.
        eventually(SOON, "another call to be taken, or the next death", async || {
            match try_send(broker.call("env").body("meanwhile")).await {
                Ok(answer) if answer.status == 202 => others.push(answer.invocation()),
                _ if broker.has_died() => {}
                _ => return false,
            }
            true
        })
        .await;
    }

    let dead = broker.get(&format!("/v1/dead-letters/{killer}")).await;
    assert_eq!((&dead["reason"], &dead["redrivable"]), (&"interrupted".into(), &true.into()), "{dead}");
    let deaths = gateway.call_count("killer");
    // Its first run alone may have gone unmarked: it was accepted and begun within the same breath.
    let interrupted = dead["interrupted"].as_u64().unwrap();
    assert!((deaths - 1..=deaths).contains(&interrupted), "{deaths} deaths: {dead}");
    assert!((3..10).contains(&deaths), "found after a few deaths, not {deaths}");
    assert!(!others.is_empty());
    for id in others {
        broker.wait_for_state(id, "completed").await;
    }
    let ledger = broker.quiet().await;
    assert_eq!((&ledger["dead"], &ledger["dead_by_reason"]["interrupted"]), (&1.into(), &1.into()));
}
