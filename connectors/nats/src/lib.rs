//! Events from NATS subjects and JetStream streams.
//!
//! Core NATS forgets a message once it is sent: what is published while nobody is connected is gone, and there is nothing
//! to acknowledge. So this source holds what it received until the broker takes it, counts what it had to drop, and
//! records each time without a connection.
//!
//! A JetStream stream keeps what it is sent, and a consumer of ours on it remembers what we acknowledged: nothing is lost.
//!
//! In reading order: `settings`, `subjects` (what to subscribe to), `event` (message → event), `connect`, `source` (core
//! NATS, the loop), `jetstream` (the same from a stream).

mod connect;
mod event;
mod jetstream;
mod settings;
mod source;
mod subjects;

use connectors_sdk::{
    Connector, Inheritance, Inherited, InheritedForm, SettingsError, Source, SourceName, Wildcards,
};

/// NATS: `sources.<name>.nats`.
#[derive(Clone, Copy, Debug)]
pub struct Nats;

impl Connector for Nats {
    fn kind(&self) -> &'static str {
        "nats"
    }

    fn wildcards(&self) -> Wildcards {
        Wildcards::Nats
    }

    fn inherits(&self) -> Inheritance {
        Inheritance {
            defined_by: &[&["broker_host"]],
            variables: &[
                Inherited {
                    name: "broker_host",
                    key: "url",
                    form: InheritedForm::Url { scheme: "nats", port: 4222 },
                },
                Inherited { name: "topics", key: "topics", form: InheritedForm::List },
            ],
            defaults: &[],
        }
    }

    fn build(
        &self,
        name: &SourceName,
        settings: serde_json::Value,
    ) -> Result<Box<dyn Source>, SettingsError> {
        let mut settings = settings::NatsSettings::read(name, settings)?;
        Ok(match settings.jetstream.take() {
            None => Box::new(source::NatsSource::new(name.clone(), settings)),
            Some(stream) => Box::new(jetstream::JetStreamSource::new(name.clone(), settings, stream)),
        })
    }
}
