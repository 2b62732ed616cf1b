//! The requests that SQS is asked, each once: who asks decides what a failure means.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region};
use aws_sdk_sqs::config::{Credentials as Key, StalledStreamProtectionConfig};
use aws_sdk_sqs::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    MessageSystemAttributeName, QueueAttributeName,
};
use secrecy::ExposeSecret;
use url::Url;

use connectors_sdk::SourceError;

use crate::event::Received;
use crate::names::Queue;
use crate::settings::{BodyForm, Credentials, Seconds, SqsSettings};
use crate::trouble::{Failure, Trouble};

/// What a request brought.
pub(crate) type Answer<T> = Result<T, Failure>;

/// A client of one endpoint. Clones share their connections.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    sqs: aws_sdk_sqs::Client,
    /// What bodies are.
    body: BodyForm,
    /// How long an answer may take.
    limit: Duration,
}

impl Client {
    /// Reads what says who we are and where SQS is: the settings, and AWS' own chain for the rest.
    ///
    /// # Errors
    /// [`SourceError::Unusable`]: a file of the settings cannot be read, or nobody names a region.
    pub(crate) async fn new(settings: &SqsSettings) -> Result<Client, SourceError> {
        let timeouts = TimeoutConfig::builder().connect_timeout(settings.connect_timeout).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            // A connection that breaks is to be seen and recorded, and waits are the source's own.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &settings.endpoint {
            loader = loader.endpoint_url(endpoint.as_str());
        }
        let config = with_credentials(loader, settings).await?.load().await;
        if config.region().is_none() {
            return Err(SourceError::Unusable {
                key: "region".to_owned(),
                what: "neither this setting nor the AWS environment names one".to_owned(),
                cause: None,
            });
        }
        let sqs = aws_sdk_sqs::Client::new(&config);
        Ok(Client { sqs, body: settings.body, limit: settings.request_timeout })
    }

    /// Asks for anything at all, to see whether we are answered. To be told that this is not allowed is an answer.
    pub(crate) async fn reach(&self) -> Answer<()> {
        match self.within(Duration::ZERO, self.sqs.list_queues().max_results(1).send()).await {
            Err(failure) if matches!(failure.trouble, Trouble::Lost | Trouble::Credentials) => Err(failure),
            _ => Ok(()),
        }
    }

    /// The queue of this name.
    pub(crate) async fn look_up(&self, name: &str) -> Answer<Queue> {
        let found = self.within(Duration::ZERO, self.sqs.get_queue_url().queue_name(name).send()).await?;
        let url = found.queue_url.unwrap_or_default();
        Queue::at(&url)
            .ok_or_else(|| Failure::of_entry("NoQueueUrl", Some(&format!("{name} is said to be at {url:?}"))))
    }

    /// About how many messages the queue has for us.
    pub(crate) async fn measure(&self, queue: &Queue) -> Answer<u64> {
        let request = self
            .sqs
            .get_queue_attributes()
            .queue_url(&*queue.url)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages);
        let found = self.within(Duration::ZERO, request.send()).await?;
        let text = found.attributes.unwrap_or_default();
        let count = text.get(&QueueAttributeName::ApproximateNumberOfMessages);
        Ok(count.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// Takes up to so many messages, hidden from others for `visibility`, and waits for one as long as it takes up to `wait`.
    pub(crate) async fn receive(
        &self,
        queue: &Queue,
        messages: usize,
        visibility: Seconds,
        wait: Seconds,
    ) -> Answer<Vec<Received>> {
        let request = self
            .sqs
            .receive_message()
            .queue_url(&*queue.url)
            .max_number_of_messages(i32::try_from(messages).unwrap_or(1))
            .visibility_timeout(visibility.0)
            .wait_time_seconds(wait.0)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All");
        let found = self.within(wait.duration(), request.send()).await?;
        let messages = found.messages.unwrap_or_default().into_iter();
        Ok(messages.filter_map(|message| Received::from(message, self.body)).collect())
    }

    /// Deletes messages by their handles, at most 10; answers what came to nothing, by its place among them.
    pub(crate) async fn delete(&self, queue: &Queue, handles: &[String]) -> Answer<HashMap<usize, Failure>> {
        let entries = handles.iter().enumerate().map(|(at, handle)| {
            DeleteMessageBatchRequestEntry::builder().id(at.to_string()).receipt_handle(handle).build()
        });
        let entries = entries.collect::<Result<Vec<_>, BuildError>>().map_err(|error| malformed(&error))?;
        let request = self.sqs.delete_message_batch().queue_url(&*queue.url).set_entries(Some(entries));
        let answer = self.within(Duration::ZERO, request.send()).await?;
        Ok(failures(&answer.failed))
    }

    /// Hides messages for other times from now on, at most 10; answers what came to nothing, by its place among them.
    pub(crate) async fn hide(
        &self,
        queue: &Queue,
        handles: &[(String, Seconds)],
    ) -> Answer<HashMap<usize, Failure>> {
        let entries = handles.iter().enumerate().map(|(at, (handle, time))| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(at.to_string())
                .receipt_handle(handle)
                .visibility_timeout(time.0)
                .build()
        });
        let entries = entries.collect::<Result<Vec<_>, BuildError>>().map_err(|error| malformed(&error))?;
        let request =
            self.sqs.change_message_visibility_batch().queue_url(&*queue.url).set_entries(Some(entries));
        let answer = self.within(Duration::ZERO, request.send()).await?;
        Ok(failures(&answer.failed))
    }

    /// An answer that does not come within the limit, beyond what it was asked to wait, does not come at all: on a connection
    /// that fell silent nothing else would say so.
    async fn within<T, E, R>(
        &self,
        wait: Duration,
        request: impl Future<Output = Result<T, SdkError<E, R>>> + Send,
    ) -> Answer<T>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        let limit = wait + self.limit;
        match tokio::time::timeout(limit, request).await {
            Ok(answer) => answer.map_err(|error| Failure::of(&error)),
            Err(_) => Err(Failure::lost(format!("no answer within {limit:?}"))),
        }
    }
}

fn malformed(error: &BuildError) -> Failure {
    Failure::of_entry("Malformed", Some(&error.to_string()))
}

fn failures(entries: &[BatchResultErrorEntry]) -> HashMap<usize, Failure> {
    entries
        .iter()
        .filter_map(|entry| {
            Some((entry.id.parse().ok()?, Failure::of_entry(&entry.code, entry.message.as_deref())))
        })
        .collect()
}

async fn with_credentials(loader: ConfigLoader, settings: &SqsSettings) -> Result<ConfigLoader, SourceError> {
    Ok(match &settings.credentials {
        Some(Credentials::Key { id, secret, token }) => {
            let token = match token {
                Some(token) => Some(token.reveal().await?.expose_secret().trim().to_owned()),
                None => None,
            };
            let [id, secret] = [id.reveal().await?, secret.reveal().await?]
                .map(|secret| secret.expose_secret().trim().to_owned());
            loader.credentials_provider(Key::new(id, secret, token, None, "settings"))
        }
        Some(Credentials::Profile(profile)) => loader.profile_name(profile),
        None if settings.endpoint.as_ref().is_some_and(is_stand_in) => {
            let own = CredentialsProviderChain::first_try(
                "environment",
                EnvironmentVariableCredentialsProvider::new(),
            )
            .or_else("profile", ProfileFileCredentialsProvider::builder().build())
            .or_else("none", Key::new("none", "none", None, None, "a stand-in for SQS"));
            loader.credentials_provider(own)
        }
        None => loader,
    })
}

/// AWS itself is never spoken to in the clear, so this is a stand-in for it. It takes any key where it asks for one at all;
/// and the machine's own role, which belongs to AWS alone, is never shown to it.
fn is_stand_in(endpoint: &Url) -> bool {
    endpoint.scheme() == "http"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_in_the_clear_is_a_stand_in() {
        assert!(is_stand_in(&Url::parse("http://127.0.0.1:9324").unwrap()));
        assert!(!is_stand_in(&Url::parse("https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com").unwrap()));
    }

    #[test]
    fn failures_are_told_by_their_places() {
        let entry = |id: &str, code: &str| {
            BatchResultErrorEntry::builder().id(id).code(code).sender_fault(true).build().unwrap()
        };
        let failures = failures(&[entry("3", "ReceiptHandleIsInvalid"), entry("7", "InternalError")]);

        assert_eq!(failures[&3].trouble, Trouble::Stale);
        assert_eq!(failures[&7].trouble, Trouble::Busy);
        assert_eq!(failures.len(), 2);
    }
}
