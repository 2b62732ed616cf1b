//! Events from RabbitMQ queues.
//!
//! A message stays in its queue until the broker has it: it is acknowledged after the receipt, held while the broker takes
//! nothing, and offered again by RabbitMQ when we go away before. Queues are only looked at, unless the settings say that they
//! are ours to make.
//!
//! In reading order: `settings` with `address` and `declaration`, `values` (what headers hold), `event` (message → event),
//! `sieve` (what the client cannot read), `connect`, `prefetch` (how much to ask for), `queue` (what is asked of one queue), `source` (the loop).

mod address;
mod connect;
mod declaration;
mod event;
mod prefetch;
mod queue;
mod settings;
mod sieve;
mod source;
mod values;

use connectors_sdk::{
    Connector, Inheritance, Inherited, InheritedForm, SettingsError, Source, SourceName, Wildcards,
};

/// RabbitMQ: `sources.<name>.rabbitmq`.
#[derive(Clone, Copy, Debug)]
pub struct Rabbitmq;

impl Connector for Rabbitmq {
    fn kind(&self) -> &'static str {
        "rabbitmq"
    }

    fn wildcards(&self) -> Wildcards {
        Wildcards::Amqp
    }

    fn inherits(&self) -> Inheritance {
        const fn text(name: &'static str, key: &'static str) -> Inherited {
            Inherited { name, key, form: InheritedForm::Text }
        }
        const VARIABLES: &[Inherited] = &[
            text("rabbitmq_url", "url"),
            Inherited { name: "queues", key: "queues", form: InheritedForm::Json },
            text("-username-file", "credentials.username_file"),
            text("-password-file", "credentials.password_file"),
            text("-ca-file", "tls.ca_file"),
            text("-cert-file", "tls.cert_file"),
            text("-key-file", "tls.key_file"),
        ];
        Inheritance {
            defined_by: &[&["rabbitmq_url"]],
            variables: VARIABLES,
            // OpenFaaS' connector makes its queues.
            defaults: &[("declare", "true")],
        }
    }

    fn build(
        &self,
        name: &SourceName,
        settings: serde_json::Value,
    ) -> Result<Box<dyn Source>, SettingsError> {
        let settings = settings::RabbitmqSettings::read(name, settings)?;
        Ok(Box::new(source::RabbitmqSource::new(name.clone(), settings)))
    }
}
