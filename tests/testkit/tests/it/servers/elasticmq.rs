//! ElasticMQ.

use serde_json::json;
use testkit::servers::{ElasticMq, ElasticMqConfig};

async fn received(server: &ElasticMq, queue: &str) -> Vec<String> {
    let request = json!({ "QueueUrl": server.queue_url(queue), "MaxNumberOfMessages": 10 });
    let answer = server.action("ReceiveMessage", &request).await;
    let messages = answer["Messages"].as_array().cloned().unwrap_or_default();
    messages.iter().map(|message| message["Body"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn two_run_at_once_and_a_crash_or_a_restart_loses_no_message() {
    let mut server: ElasticMq = super::two_at_once::<ElasticMqConfig>().await;
    for queue in ["orders", "gone"] {
        server.action("CreateQueue", &json!({ "QueueName": queue })).await;
    }
    server.action("DeleteQueue", &json!({ "QueueUrl": server.queue_url("gone") })).await;
    let send = json!({ "QueueUrl": server.queue_url("orders"), "MessageBody": "one" });
    server.action("SendMessage", &send).await;

    server.kill();
    server.start_again().await;
    server.terminate();
    server.start_again().await;

    assert_eq!(received(&server, "orders").await, ["one"]);
}

#[tokio::test]
async fn in_memory_nothing_outlives_it() {
    let mut server = ElasticMq::with(ElasticMqConfig { in_memory: true, ..ElasticMqConfig::default() }).await;
    server.action("CreateQueue", &json!({ "QueueName": "orders" })).await;

    server.terminate();
    server.start_again().await;

    let queues = server.action("ListQueues", &json!({})).await;
    assert!(queues["QueueUrls"].as_array().is_none_or(Vec::is_empty), "{queues}");
}

#[tokio::test]
async fn a_wrong_setting_is_named_when_it_does_not_start() {
    let config = ElasticMqConfig { more: "rest-sqs.sqs-limits = none".into(), ..ElasticMqConfig::default() };

    super::says_why_it_does_not_start(config, "sqs-limits").await;
}
