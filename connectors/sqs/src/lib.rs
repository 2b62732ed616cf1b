//! Events from SQS queues.
//!
//! SQS hides a message that it gave for a time, and gives it again when that has passed and nobody deleted it. So this source
//! deletes a message once the broker has it, renews the time while it holds one, and gives back what the broker refuses. A
//! queue with groups (FIFO) gives no later message of a group while an earlier one is hidden; within one answer the order is
//! this source's to keep.
//!
//! In reading order: `settings`, `names` (queues), `event` (message → event), `topics` (under which names), `hold` (what is
//! held, and its order), `pace` (how much to ask for), `trouble` and `client` (the requests), `queues` (which are read),
//! `outbox` (what is to be told), `source` (the loop).

mod client;
mod event;
mod hold;
mod names;
mod outbox;
mod pace;
mod queues;
mod settings;
mod source;
mod topics;
mod trouble;

use connectors_sdk::{
    Connector, Inheritance, Inherited, InheritedForm, SettingsError, Source, SourceName, Wildcards,
};

/// SQS: `sources.<name>.sqs`.
#[derive(Clone, Copy, Debug)]
pub struct Sqs;

impl Connector for Sqs {
    fn kind(&self) -> &'static str {
        "sqs"
    }

    fn wildcards(&self) -> Wildcards {
        Wildcards::Glob
    }

    fn inherits(&self) -> Inheritance {
        // The other variables of OpenFaaS' connector (AWS_DEFAULT_REGION, AWS_SHARED_CREDENTIALS_FILE) are AWS' own, and its
        // client reads them.
        Inheritance {
            defined_by: &[&["-queue-url"]],
            variables: &[
                Inherited { name: "-queue-url", key: "topics", form: InheritedForm::List },
                Inherited {
                    name: "-visibility-timeout",
                    key: "visibility_timeout",
                    form: InheritedForm::Duration,
                },
                Inherited { name: "-wait-time", key: "wait_time", form: InheritedForm::Duration },
                Inherited { name: "-max-messages", key: "batch", form: InheritedForm::Number },
            ],
            defaults: &[],
        }
    }

    fn build(
        &self,
        name: &SourceName,
        settings: serde_json::Value,
    ) -> Result<Box<dyn Source>, SettingsError> {
        Ok(Box::new(source::SqsSource::new(name.clone(), settings::SqsSettings::read(name, settings)?)))
    }
}
