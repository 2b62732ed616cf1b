//! Events from MQTT topics, over MQTT 5 or 3.1.1.
//!
//! What waits for a subscriber is kept in its *session* at the server, under its client id: messages that come while nobody
//! is connected, and those it was given and has not acknowledged. There is no way to give a message back; what is not
//! acknowledged comes again when the session is taken up on another connection, and only then. So a message that the broker
//! does not take yet is held, and its acknowledgement belongs to the connection on which it came last.
//!
//! A message has no identity of its own, only a packet identifier that is free again once it is acknowledged. Within one run
//! of a source that is enough to know a message that comes again (`arrivals`); over a restart it is not.
//!
//! In reading order: `settings`, `filters` (what a topic filter is, and which makes another needless), `subscriptions` (what
//! was asked for and granted), `message`, `event` (message → event), `arrivals` (what comes again), `client` (the two protocol
//! versions behind one face), `source` (the loop).

mod arrivals;
mod client;
mod event;
mod filters;
mod message;
mod settings;
mod source;
mod subscriptions;

use connectors_sdk::{
    Connector, Inheritance, Inherited, InheritedForm, SettingsError, Source, SourceName, Wildcards,
};

/// MQTT: `sources.<name>.mqtt`.
#[derive(Clone, Copy, Debug)]
pub struct Mqtt;

impl Connector for Mqtt {
    fn kind(&self) -> &'static str {
        "mqtt"
    }

    fn wildcards(&self) -> Wildcards {
        Wildcards::Mqtt
    }

    fn inherits(&self) -> Inheritance {
        const TEXT: InheritedForm = InheritedForm::Text;
        Inheritance {
            defined_by: &[&["-broker"]],
            variables: &[
                Inherited {
                    name: "-broker",
                    key: "url",
                    form: InheritedForm::Url { scheme: "tcp", port: 1883 },
                },
                Inherited { name: "-topic", key: "topics", form: InheritedForm::List },
                Inherited { name: "-user", key: "credentials.username", form: TEXT },
                Inherited { name: "-password", key: "credentials.password", form: TEXT },
                Inherited { name: "-id", key: "client_id", form: TEXT },
                Inherited { name: "-clean", key: "clean", form: InheritedForm::Bool },
                Inherited { name: "-qos", key: "qos", form: InheritedForm::Number },
                Inherited { name: "-trim-channel-key", key: "trim_channel_key", form: InheritedForm::Bool },
            ],
            // Its own defaults are the wrong ones to take over: QoS 0 loses events, and its client id is the same everywhere.
            defaults: &[("protocol", "3.1.1")],
        }
    }

    fn build(
        &self,
        name: &SourceName,
        settings: serde_json::Value,
    ) -> Result<Box<dyn Source>, SettingsError> {
        Ok(Box::new(source::MqttSource::new(name.clone(), settings::MqttSettings::read(name, settings)?)))
    }
}
