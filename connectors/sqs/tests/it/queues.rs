//! Queues as their owner handles them: made, written to, counted.

use std::time::Duration;

use aws_sdk_sqs::config::{BehaviorVersion, Region};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};
use testkit::servers::elasticmq::REGION;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A client that goes on over any outage.
#[derive(Clone)]
pub(crate) struct Owner {
    address: String,
    pub(crate) sqs: aws_sdk_sqs::Client,
}

/// A message to be sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Letter {
    pub(crate) body: String,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) group: Option<String>,
}

impl Letter {
    pub(crate) fn of(body: impl Into<String>) -> Letter {
        Letter { body: body.into(), ..Letter::default() }
    }

    pub(crate) fn in_group(body: impl Into<String>, group: &str) -> Letter {
        Letter { group: Some(group.to_owned()), ..Letter::of(body) }
    }
}

impl Owner {
    pub(crate) fn of(endpoint: &str) -> Owner {
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(endpoint)
            .allow_no_auth()
            .build();
        let address = endpoint.trim_start_matches("http://").to_owned();
        Owner { address, sqs: aws_sdk_sqs::Client::from_conf(config) }
    }

    /// Makes a queue; answers its URL.
    pub(crate) async fn create(&self, name: &str, attributes: &[(QueueAttributeName, &str)]) -> String {
        let mut request = self.sqs.create_queue().queue_name(name);
        if name.ends_with(".fifo") {
            request = request
                .attributes(QueueAttributeName::FifoQueue, "true")
                .attributes(QueueAttributeName::ContentBasedDeduplication, "true");
        }
        for (name, value) in attributes {
            request = request.attributes(name.clone(), *value);
        }
        request.send().await.unwrap().queue_url.unwrap()
    }

    /// Sends messages in their order; answers their ids. What an outage took the answer of is sent again.
    pub(crate) async fn send(&self, url: &str, letters: &[Letter]) -> Vec<String> {
        let mut ids = Vec::new();
        let mut rest = letters;
        while !rest.is_empty() {
            // One request holds 10 messages, and 1 MiB.
            let mut bytes = 0;
            let fits = rest.iter().take(10).take_while(|letter| {
                bytes += letter.body.len();
                bytes < 900_000
            });
            let (batch, later) = rest.split_at(fits.count().max(1));
            ids.extend(self.send_batch(url, batch).await);
            rest = later;
        }
        ids
    }

    async fn send_batch(&self, url: &str, letters: &[Letter]) -> Vec<String> {
        let entries: Vec<Value> = letters.iter().enumerate().map(|(at, letter)| entry(at, letter)).collect();
        let request = json!({"QueueUrl": url, "Entries": entries}).to_string();
        loop {
            match self.post("SendMessageBatch", &request).await {
                Ok((200, answer)) => {
                    assert!(answer.get("Failed").is_none_or(|failed| failed == &json!([])), "{answer}");
                    let mut sent = answer["Successful"].as_array().unwrap().clone();
                    sent.sort_by_key(|entry| entry["Id"].as_str().unwrap().parse::<usize>().unwrap());
                    return sent
                        .iter()
                        .map(|entry| entry["MessageId"].as_str().unwrap().to_owned())
                        .collect();
                }
                // ElasticMQ answers before it has read what it stored.
                Ok((_, answer)) if !answer.to_string().contains("QueueDoesNotExist") => {
                    panic!("cannot send: {answer}")
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// One request without the client, which takes longer over a large message than the server does.
    async fn post(&self, action: &str, request: &str) -> std::io::Result<(u16, Value)> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let head = format!(
            "POST / HTTP/1.1\r\nhost: {}\r\nx-amz-target: AmazonSQS.{action}\r\n\
             content-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            request.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let cut = || std::io::Error::other("half an answer");
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
        Ok((status, serde_json::from_str(body).map_err(|_| cut())?))
    }

    /// How many messages the queue has: to be given, and hidden.
    pub(crate) async fn count(&self, url: &str) -> (u64, u64) {
        let [given, hidden] = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let request = self.sqs.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
        let attributes = request.send().await.unwrap().attributes.unwrap();
        (attributes[&given].parse().unwrap(), attributes[&hidden].parse().unwrap())
    }
}

fn entry(at: usize, letter: &Letter) -> Value {
    let mut entry = json!({"Id": at.to_string(), "MessageBody": letter.body});
    if let Some(group) = &letter.group {
        entry["MessageGroupId"] = json!(group);
    }
    for (name, value) in &letter.attributes {
        entry["MessageAttributes"][name] = json!({"DataType": "String", "StringValue": value});
    }
    entry
}
