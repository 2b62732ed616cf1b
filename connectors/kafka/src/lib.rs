//! Events from Kafka topics, through a consumer group.
//!
//! A record is committed to the group once the broker has it in custody, and its position is written with the invocation:
//! what comes a second time, because a commit was lost, is recognised by it. Partitions are taken up and given back with
//! care: before the first record is read, what the group, the topic and our own store say of the partition is held against
//! each other; before a partition goes to another replica, what was begun is finished and committed.
//!
//! In reading order: `settings`, `topics` (what to subscribe to), `event` (record → event), `progress` (what of a partition
//! is done; pure), `client` (the library, its configuration and its callbacks), `source` (the loop).

mod client;
mod event;
mod progress;
mod settings;
mod source;
mod topics;

use connectors_sdk::{
    Connector, Inheritance, Inherited, InheritedForm, SettingsError, Source, SourceName, Wildcards,
};

/// Kafka: `sources.<name>.kafka`.
#[derive(Clone, Copy, Debug)]
pub struct Kafka;

impl Connector for Kafka {
    fn kind(&self) -> &'static str {
        "kafka"
    }

    fn wildcards(&self) -> Wildcards {
        Wildcards::Glob
    }

    fn inherits(&self) -> Inheritance {
        Inheritance {
            // `broker_host` alone, the older name, is NATS' as well: only with a group it is Kafka's.
            defined_by: &[&["broker_hosts"], &["broker_host", "group"]],
            variables: &[
                Inherited { name: "broker_hosts", key: "brokers", form: InheritedForm::List },
                Inherited { name: "broker_host", key: "brokers", form: InheritedForm::List },
                Inherited { name: "topics", key: "topics", form: InheritedForm::List },
                Inherited { name: "group", key: "group", form: InheritedForm::Text },
                Inherited { name: "max_bytes", key: "max_bytes", form: InheritedForm::Number },
                Inherited {
                    name: "initial_offset",
                    key: "start",
                    form: InheritedForm::OneOf(&[("oldest", "earliest"), ("newest", "latest")]),
                },
                Inherited { name: "-tls", key: "tls", form: InheritedForm::Group },
                Inherited { name: "-ca-file", key: "tls.ca_file", form: InheritedForm::Text },
                Inherited { name: "-cert-file", key: "tls.cert_file", form: InheritedForm::Text },
                Inherited { name: "-key-file", key: "tls.key_file", form: InheritedForm::Text },
                Inherited {
                    name: "-username-file",
                    key: "credentials.username_file",
                    form: InheritedForm::Text,
                },
                Inherited {
                    name: "-password-file",
                    key: "credentials.password_file",
                    form: InheritedForm::Text,
                },
            ],
            defaults: &[("group", "faas-group-1")],
        }
    }

    fn build(
        &self,
        name: &SourceName,
        settings: serde_json::Value,
    ) -> Result<Box<dyn Source>, SettingsError> {
        Ok(Box::new(source::KafkaSource::new(name.clone(), settings::KafkaSettings::read(name, settings)?)))
    }
}
