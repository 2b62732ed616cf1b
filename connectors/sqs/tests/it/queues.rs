//! Queues as their owner handles them: made, written to, counted.

use std::time::Duration;

use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry};
use testkit::servers::elasticmq::REGION;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A client that goes on over any outage.
#[derive(Clone)]
pub(crate) struct Owner {
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
            .credentials_provider(Credentials::new("x", "x", None, None, "test"))
            .build();
        Owner { sqs: aws_sdk_sqs::Client::from_conf(config) }
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
        let entries: Vec<SendMessageBatchRequestEntry> =
            letters.iter().enumerate().map(|(at, letter)| entry(at, letter)).collect();
        loop {
            let request = self.sqs.send_message_batch().queue_url(url).set_entries(Some(entries.clone()));
            match request.send().await {
                Ok(answer) => {
                    assert!(answer.failed.is_empty(), "{:?}", answer.failed);
                    let mut sent = answer.successful;
                    sent.sort_by_key(|entry| entry.id.parse::<usize>().unwrap());
                    return sent.into_iter().map(|entry| entry.message_id).collect();
                }
                Err(error) if error.as_service_error().is_none() => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("cannot send: {error:?}"),
            }
        }
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

fn entry(at: usize, letter: &Letter) -> SendMessageBatchRequestEntry {
    let mut entry = SendMessageBatchRequestEntry::builder()
        .id(at.to_string())
        .message_body(&letter.body)
        .set_message_group_id(letter.group.clone());
    for (name, value) in &letter.attributes {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value).build().unwrap();
        entry = entry.message_attributes(name, value);
    }
    entry.build().unwrap()
}
