//! ElasticMQ, which speaks SQS.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;
use serde_json::Value;

use super::{Kind, Place, Server, http, jvm};
use crate::process::Program;

/// An ElasticMQ of this test.
pub type ElasticMq = Server<ElasticMqConfig>;

/// What is asked of an ElasticMQ. The default keeps queues and messages on disk, each before it is answered.
#[derive(Clone, Debug, Default)]
pub struct ElasticMqConfig {
    /// Keeps everything in memory: several times faster, and gone at the end.
    pub in_memory: bool,
    /// How much memory its messages may take, in MiB; it holds them all there. By default what any server on the JVM gets.
    pub heap: Option<u32>,
    /// Further lines of its configuration. They win.
    pub more: String,
}

/// The region it says it is in.
pub const REGION: &str = "us-east-1";
/// The account all queues belong to.
pub const ACCOUNT: &str = "000000000000";

impl ElasticMq {
    /// The endpoint clients are configured with. It takes any credentials.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The URL of a queue.
    pub fn queue_url(&self, queue: &str) -> String {
        format!("{}/{ACCOUNT}/{queue}", self.url())
    }

    /// Asks it for an action of SQS, as `CreateQueue`, and hands out the answer.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn action(&self, name: &str, request: &Value) -> Value {
        let answer = action(self.place(), name, request).await;
        answer.unwrap_or_else(|error| panic!("ElasticMQ refuses {name} {request}: {error}"))
    }
}

async fn action(place: &Place, name: &str, request: &Value) -> Result<Value, String> {
    let target = format!("AmazonSQS.{name}");
    let headers = [("content-type", "application/x-amz-json-1.0"), ("x-amz-target", target.as_str())];
    let at = place.address("sqs");
    let answer = http::asked_well(at, Method::POST, "/", &headers, request.to_string()).await?;
    if answer.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&answer).map_err(|error| format!("{error} in {answer:?}"))
}

#[async_trait]
impl Kind for ElasticMqConfig {
    const NAME: &'static str = "elasticmq";
    const LIMIT: Duration = Duration::from_secs(120);

    fn ports(&self) -> Vec<&'static str> {
        vec!["sqs"]
    }

    fn program(&self, place: &Place) -> Result<Program, String> {
        let prepared = jvm::prepared(Self::NAME)?;
        let configuration = place.write("elasticmq.conf", &self.written(place))?;
        let log = place.write("logback.xml", LOG)?;
        // The last such word stands.
        let heap = self.heap.map(|mebibytes| format!("-Xmx{mebibytes}m"));
        let settings: Vec<&str> = heap.as_deref().into_iter().collect();
        Ok(prepared
            .program("elasticmq.jsa", &settings)?
            .argument(format!("-Dconfig.file={}", configuration.display()))
            .argument(format!("-Dlogback.configurationFile={}", log.display()))
            .argument("org.elasticmq.server.Main")
            .directory(place.folder()))
    }

    async fn is_ready(&self, place: &Place) -> Result<(), String> {
        action(place, "ListQueues", &serde_json::json!({})).await?;
        // It answers before it has read what it stored.
        let journal = std::fs::read_to_string(place.path(JOURNAL)).map_err(|error| error.to_string())?;
        match missing(&journal) {
            missing if missing.is_empty() || self.in_memory => Ok(()),
            missing => Err(format!("it has not restored the queues {missing:?}")),
        }
    }
}

/// The queues that earlier lives left and this one has not restored with their messages.
fn missing(journal: &str) -> BTreeSet<&str> {
    let mut missing = BTreeSet::new();
    let mut known = BTreeSet::new();
    for line in journal.lines() {
        let name = |mark: &str| {
            let (_, rest) = line.split_once(mark)?;
            rest.split([',', ' ', ')']).next()
        };
        if line.contains("Starting ElasticMQ server") {
            missing.clone_from(&known);
        } else if let Some(queue) = name("Creating queue CreateQueueData(") {
            known.insert(queue);
        } else if let Some(queue) = name("Deleting queue ") {
            known.remove(queue);
        } else if let Some(queue) = line.rsplit_once(" messages in queue ").map(|(_, queue)| queue) {
            missing.remove(queue);
        }
    }
    missing
}

/// The file in which it writes what becomes of its queues.
const JOURNAL: &str = "queues.log";

const LOG: &str = r#"<configuration>
  <appender name="STDOUT" class="ch.qos.logback.core.ConsoleAppender">
    <filter class="ch.qos.logback.classic.filter.ThresholdFilter"><level>WARN</level></filter>
    <encoder><pattern>%d{HH:mm:ss.SSS} %-5level %logger - %msg%n</pattern></encoder>
  </appender>
  <appender name="JOURNAL" class="ch.qos.logback.core.FileAppender">
    <file>queues.log</file>
    <encoder><pattern>%msg%n</pattern></encoder>
  </appender>
  <logger name="org.elasticmq.server.Main$" level="INFO"><appender-ref ref="JOURNAL"/></logger>
  <logger name="org.elasticmq.actor" level="INFO"><appender-ref ref="JOURNAL"/></logger>
  <root level="WARN"><appender-ref ref="STDOUT"/></root>
</configuration>
"#;

impl ElasticMqConfig {
    fn written(&self, place: &Place) -> String {
        let port = place.port("sqs");
        let kept = if self.in_memory { "false" } else { "true" };
        // Without the delay of 0, what was answered in the last half second before a crash would be gone.
        let file =
            format!("jdbc:h2:file:{};WRITE_DELAY=0;DB_CLOSE_ON_EXIT=FALSE", place.path("data").display());
        let storage = format!(
            r#"{{ enabled = {kept}, driver-class-name = "org.h2.Driver", uri = "{file}", username = "", password = "", prune-data-on-init = false }}"#
        );
        format!(
            r#"include classpath("application.conf")
node-address {{ protocol = http, host = 127.0.0.1, port = {port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = "127.0.0.1", sqs-limits = strict }}
rest-stats {{ enabled = false }}
generate-node-address = false
aws {{ region = {REGION}, accountId = {ACCOUNT} }}
messages-storage {storage}
queues-storage {{ enabled = false }}
{}
"#,
            self.more
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_life_left_is_missing_until_it_is_restored() {
        let earlier = "Starting ElasticMQ server (1.7.1) ...
Creating queue CreateQueueData(kept,Some(PT0S))
Creating queue CreateQueueData(gone,Some(PT0S))
Deleting queue gone
";
        assert!(missing(earlier).is_empty());

        let mut journal = format!("{earlier}Starting ElasticMQ server (1.7.1) ...\n");
        assert_eq!(missing(&journal), BTreeSet::from(["kept"]));

        journal
            .push_str("Creating queue CreateQueueData(kept,Some(PT0S))\nRestored 0 messages in queue kept\n");
        assert!(missing(&journal).is_empty());
    }
}
