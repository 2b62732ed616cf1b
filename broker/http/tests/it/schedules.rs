//! `/v1/schedules` and `evoke schedules`, before a timetable that notes what it is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use broker_demo_gateway::Function;
use broker_model::function::AnnotationProblem;
use broker_model::schedule::{Schedule, ScheduleState};
use broker_model::timetable::{Backfilled, ScheduleRules, ScheduleStatus, TimetableError};
use broker_model::{FunctionName, Receipt, ScheduleId, SourceName, StoreError, Timestamp, Timetable};
use reqwest::Method;
use serde_json::json;

use crate::fixture::Broker;
use crate::operator::evoke;

const BEGINNING: u64 = 1_767_225_600_000;

/// One schedule of one function, every five minutes.
struct One {
    schedule: Schedule,
    told: Mutex<Vec<String>>,
}

impl One {
    fn new() -> Arc<One> {
        let function = FunctionName::parse("report", "openfaas-fn").expect("a name");
        let id = ScheduleId::derive(&function, "*/5 * * * *", 0);
        let anchor = Timestamp::from_millis(BEGINNING);
        let schedule = Schedule { id, function, expression: "*/5 * * * *".into(), anchor };
        Arc::new(One { schedule, told: Mutex::default() })
    }

    fn told(&self, what: String) {
        self.told.lock().expect("not poisoned").push(what);
    }
}

fn minute(n: u64) -> Timestamp {
    Timestamp::from_millis(BEGINNING + 60_000 * n)
}

#[async_trait]
impl Timetable for One {
    fn list(&self) -> Vec<ScheduleStatus> {
        let rules = ScheduleRules {
            time_zone: "Europe/Vienna".into(),
            overlap: "allow".into(),
            missed: "latest 3600s".into(),
            dst: "openfaas".into(),
            jitter: Duration::from_secs(30),
        };
        let (schedule, last_fire) = (self.schedule.clone(), Some(minute(5)));
        let state = ScheduleState { schedule, paused: false, decided: minute(5), last_fire };
        vec![ScheduleStatus { state, rules: Some(rules), next: Some(minute(10)) }]
    }

    fn next(&self, id: &ScheduleId, most: usize) -> Option<Vec<Timestamp>> {
        (*id == self.schedule.id).then(|| (2..).map(|n| minute(5 * n)).take(most).collect())
    }

    fn problems(&self, function: &FunctionName) -> Vec<AnnotationProblem> {
        assert_eq!(function.name(), "report");
        let (key, value) = ("schedule".into(), "0 0 * * 7".into());
        vec![AnnotationProblem { key, value, problem: "Sunday is 0".into() }]
    }

    async fn run(&self, id: &ScheduleId) -> Result<Receipt, TimetableError> {
        self.told(format!("run {id}"));
        Ok(Receipt::default())
    }

    async fn backfill(
        &self,
        id: &ScheduleId,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Backfilled, TimetableError> {
        if until > minute(60) {
            return Err(TimetableError::Range("the range ends in the future".into()));
        }
        self.told(format!("backfill {id} {} {}", from.as_millis(), until.as_millis()));
        Ok(Backfilled { ran: 3, ran_before: 2 })
    }

    async fn pause(&self, id: &ScheduleId) -> Result<bool, StoreError> {
        self.told(format!("pause {id}"));
        Ok(true)
    }

    async fn resume(&self, id: &ScheduleId) -> Result<bool, StoreError> {
        self.told(format!("resume {id}"));
        Ok(true)
    }
}

async fn broker() -> Broker {
    Broker::with(|plan| {
        let report = Function::echo("report").annotation("topic", "orders, cron-function");
        plan.functions.push(report.annotation("schedule", "*/5 * * * *; 0 0 * * 7"));
    })
    .await
}

#[tokio::test]
async fn schedules_are_shown_run_held_and_made_up_for() {
    let (broker, one) = (broker().await, One::new());
    let _post = broker.timetable.post(&SourceName::parse("clock").unwrap(), one.clone()).unwrap();
    let id = one.schedule.id.as_str();

    let (status, list) = broker.get("/v1/schedules").await;
    assert_eq!(status, 200);
    let shown = json!({
        "id": id, "function": "report.openfaas-fn", "expression": "*/5 * * * *", "asked": true, "paused": false,
        "rules": {"time_zone": "Europe/Vienna", "overlap": "allow", "missed": "latest 3600s", "dst": "openfaas",
            "jitter": "30s"},
        "since": "2026-01-01T00:00:00.000Z", "last_run": "2026-01-01T00:05:00.000Z",
        "next_run": "2026-01-01T00:10:00.000Z",
    });
    assert_eq!(list, json!({"items": [shown], "next": null}));
    let (_, report) = broker.get("/v1/functions/report").await;
    assert_eq!(report["schedules"], json!([shown]), "with its triggers");
    let (_, functions) = broker.get("/v1/functions").await;
    let with_schedules =
        functions["items"].as_array().unwrap().iter().filter(|f| f["schedules"] != json!([]));
    assert_eq!(with_schedules.collect::<Vec<_>>(), [&report]);
    let (_, detail) = broker.get(&format!("/v1/schedules/{id}?next=2")).await;
    assert_eq!(detail["next"], json!(["2026-01-01T00:10:00.000Z", "2026-01-01T00:15:00.000Z"]));
    let (_, detail) = broker.get(&format!("/v1/schedules/{id}")).await;
    assert_eq!(detail["next"].as_array().unwrap().len(), 10);
    assert_eq!(broker.get(&format!("/v1/schedules/{id}?next=1001")).await.0, 400);

    let post =
        async |verb: &str, body| broker.api(Method::POST, &format!("/v1/schedules/{id}/{verb}"), body).await;
    assert_eq!(post("run", None).await.0, 202);
    assert_eq!(post("pause", None).await.1, json!({"name": id, "paused": true}));
    assert_eq!(post("resume", None).await.1, json!({"name": id, "paused": false}));
    let range = json!({"from": "2026-01-01T00:00:00Z", "until": "2026-01-01T01:00:00+00:00"});
    let filled = post("backfill", Some(range)).await;
    assert_eq!(filled, (202, json!({"id": id, "ran": 3, "ran_before": 2})));
    let told = one.told.lock().unwrap().clone();
    let range = format!("backfill {id} {BEGINNING} {}", BEGINNING + 3_600_000);
    assert_eq!(told, [format!("run {id}"), format!("pause {id}"), format!("resume {id}"), range]);

    broker.stop().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_a_problem_with_its_remedy() {
    let (broker, one) = (broker().await, One::new());
    // Nobody runs schedules.
    assert_eq!(broker.get("/v1/schedules").await.1["items"], json!([]));
    let (status, problem) = broker.get(&format!("/v1/schedules/{}", one.schedule.id)).await;
    assert_eq!((status, &problem["type"]), (404, &json!("/problems/schedule-not-found")));
    assert!(problem["detail"].as_str().unwrap().contains("add sources.clock.cron"), "{problem}");
    let (_, function) = broker.get("/v1/functions/report").await;
    let what = function["problems"][0]["problem"].as_str().unwrap();
    assert!(what.contains("add sources.clock.cron"), "{function}");

    let _post = broker.timetable.post(&SourceName::parse("clock").unwrap(), one.clone()).unwrap();
    let (_, function) = broker.get("/v1/functions/report").await;
    assert_eq!(function["problems"][0]["value"], "0 0 * * 7");
    assert_eq!(broker.get("/v1/functions/echo").await.1["problems"], json!([]));
    for other in ["report.openfaas-fn.0000", "a%2Fb"] {
        assert_eq!(broker.get(&format!("/v1/schedules/{other}")).await.0, 404, "{other}");
    }
    let backfill = format!("/v1/schedules/{}/backfill", one.schedule.id);
    for range in [
        json!({"from": "2026-01-01T01:00:00Z", "until": "2026-01-01T00:00:00Z"}),
        json!({"from": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}),
        json!({"from": "2026-01-01T00:00:00Z"}),
        json!({"from": "yesterday", "until": "2026-01-01T00:00:00Z"}),
    ] {
        assert_eq!(broker.api(Method::POST, &backfill, Some(range.clone())).await.0, 400, "{range}");
    }
    assert_eq!(*one.told.lock().unwrap(), Vec::<String>::new());

    broker.stop().await;
}

#[tokio::test]
async fn the_command_line_does_all_of_it() {
    let (broker, one) = (broker().await, One::new());
    let _post = broker.timetable.post(&SourceName::parse("clock").unwrap(), one.clone()).unwrap();
    let id = one.schedule.id.as_str();
    for (line, said) in [
        (&["schedules", "list"] as &[&str], "*/5 * * * *"),
        (&["functions", "show", "report"], "2026-01-01T00:10:00.000Z"),
        (&["schedules", "show", id], "Europe/Vienna"),
        (&["schedules", "show", id, "--next", "1"], "2026-01-01T00:10:00.000Z"),
        (&["schedules", "run", id, "--output", "json"], "invocations"),
        (&["schedules", "pause", id], "paused"),
        (&["schedules", "resume", id], "running"),
        (
            &[
                "schedules",
                "backfill",
                id,
                "--from",
                "2026-01-01T00:00:00Z",
                "--until",
                "2026-01-01T00:30:00Z",
            ],
            "had run",
        ),
    ] {
        let (result, remarks, code) = evoke(&broker, line).await;
        assert_eq!(code, 0, "{line:?}: {remarks}");
        assert!(result.contains(said), "{line:?}: {result}");
    }
    assert_eq!(evoke(&broker, &["schedules", "show", "nothing"]).await.2, 3);

    broker.stop().await;
}
