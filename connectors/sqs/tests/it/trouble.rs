//! What goes wrong, and is told and mended.

use aws_sdk_sqs::types::QueueAttributeName;
use connectors_sdk::{SourceError, SourceState, describe};
use serde_json::json;
use testkit::servers::Toxiproxy;
use testkit::source::PATIENCE;
use testkit::time::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::queues::{Letter, Owner};
use crate::rig::{JOBS, settings};
use crate::server;

#[tokio::test]
async fn a_missing_queue_is_told_and_read_when_it_is_made() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let there = owner.create("there-already", &[]).await;
    let rig = JOBS.start(settings(&server.url(), &json!({"topics": ["made-late", "there-already"]})));
    rig.complains("there is no queue made-late").await;
    assert_eq!(rig.status().state, SourceState::Connected, "the others are read");
    owner.send(&there, &[Letter::of("1")]).await;
    rig.has(1).await;

    let late = owner.create("made-late", &[]).await;
    owner.send(&late, &[Letter::of("2")]).await;
    rig.has(2).await;
    rig.stopped().await;
}

#[tokio::test]
async fn a_queue_that_is_deleted_and_made_again_is_read_again() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create("made-again", &[]).await;
    let more = json!({"topics": ["made-again", url.clone()], "wait_time": "1s"});
    let rig = JOBS.start(settings(&server.url(), &more));
    owner.send(&url, &[Letter::of("1")]).await;
    rig.has(1).await;
    eventually(PATIENCE, "the deletion", async || owner.count(&url).await == (0, 0)).await;

    owner.sqs.delete_queue().queue_url(&url).send().await.unwrap();
    rig.complains("there is no queue").await;
    owner.create("made-again", &[]).await;
    owner.send(&url, &[Letter::of("2")]).await;
    rig.has(2).await;
    assert_eq!(rig.status().state, SourceState::Connected);
    rig.stopped().await;
}

#[tokio::test]
async fn a_wire_that_falls_silent_is_noticed() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create("silent-wire", &[]).await;
    let proxy = Toxiproxy::start().await;
    let wire = proxy.wire(server.address()).await;
    let endpoint = format!("http://{}", wire.address());
    let more = json!({
        "topics": ["silent-wire"], "wait_time": "1s", "request_timeout": "1s", "visibility_timeout": "2s",
    });
    let rig = JOBS.start(settings(&endpoint, &more));
    rig.is(SourceState::Connected).await;
    owner.send(&url, &[Letter::of("1")]).await;
    rig.has(1).await;

    wire.silence().await;
    rig.is(SourceState::Connecting).await;
    rig.complains("no answer within").await;
    owner.send(&url, &[Letter::of("2")]).await;
    wire.mend().await;
    rig.is(SourceState::Connected).await;
    rig.has(2).await;
    rig.stopped().await;
}

#[tokio::test]
async fn a_dead_letter_queue_of_sqs_is_not_filled_while_the_broker_refuses() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let dead = owner.create("redrive-dead", &[]).await;
    let arn = r#"{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:redrive-dead", "maxReceiveCount": "5"}"#;
    let url = owner.create("redrive", &[(QueueAttributeName::RedrivePolicy, arn)]).await;
    let rig = JOBS.start(settings(&server.url(), &json!({"topics": ["redrive"]})));
    rig.sink.refuse_first(3, "1");
    owner.send(&url, &[Letter::of("1")]).await;

    rig.has(1).await;
    rig.stopped().await;
    assert_eq!((owner.count(&url).await, owner.count(&dead).await), ((0, 0), (0, 0)));
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_names_its_setting() {
    let key = json!({"access_key_id": "AKIA", "secret_access_key_file": "/nowhere/at/all"});
    let rig = JOBS.start(settings("http://127.0.0.1:1", &json!({"credentials": key})));
    let error = rig.error().await;

    assert!(matches!(error, SourceError::Unusable { .. }));
    assert!(error.to_string().starts_with("credentials.secret_access_key_file"), "{error}");
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_told_as_such() {
    let error = JOBS.start(settings("http://127.0.0.1:1", &json!({}))).error().await;

    assert!(matches!(error, SourceError::Unreachable { .. }));
    let told = describe(&error).to_string();
    assert!(told.starts_with("cannot reach http://127.0.0.1:1") && told.contains("refused"), "{told}");
}

/// Answers every request of this action so, and each other as if all were well: what ElasticMQ never says.
async fn answering(action: &'static str, head: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = vec![0; 1 << 16];
            let read = client.read(&mut request).await.unwrap_or(0);
            let asked = String::from_utf8_lossy(&request[..read]).into_owned();
            let (head, body) = if asked.contains(action) { (head, body) } else { ("200 OK", "{}") };
            let answer = format!(
                "HTTP/1.1 {head}\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    endpoint
}

#[tokio::test]
async fn wrong_credentials_are_told_as_such() {
    let body = r#"{"__type":"com.amazon.coral.service#InvalidClientTokenId","message":"The security token included in the request is invalid."}"#;
    let endpoint = answering("ListQueues", "403 Forbidden", body).await;
    let error = JOBS.start(settings(&endpoint, &json!({}))).error().await;

    assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");
    assert!(describe(&error).to_string().contains("InvalidClientTokenId"));
}

#[tokio::test]
async fn a_missing_queue_is_understood_in_both_spellings() {
    let json =
        r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"The specified queue does not exist."}"#;
    let query = "400 Bad Request\r\nx-amzn-query-error: AWS.SimpleQueueService.NonExistentQueue;Sender";
    for (head, body) in [("400 Bad Request", json), (query, json), (query, "{}")] {
        let endpoint = answering("GetQueueUrl", head, body).await;
        let rig = JOBS.start(settings(&endpoint, &json!({"topics": ["orders"]})));
        rig.complains("there is no queue orders").await;
        rig.stopped().await;
    }
}

#[tokio::test]
async fn what_is_not_allowed_at_one_queue_does_not_end_the_source() {
    let body = r#"{"__type":"com.amazon.coral.service#AccessDeniedException","message":"not authorized to perform: sqs:receivemessage"}"#;
    let endpoint = answering("ReceiveMessage", "403 Forbidden", body).await;
    let rig = JOBS.start(settings(&endpoint, &json!({"topics": ["http://h/0/orders"]})));
    rig.complains("orders: AccessDeniedException").await;
    assert_eq!(rig.status().state, SourceState::Connected);
    rig.stopped().await;
}
