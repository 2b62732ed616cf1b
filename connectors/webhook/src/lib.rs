//! Events from signed webhooks and CloudEvents over HTTP.
//!
//! A webhook is an upstream that comes to us: it keeps what it sends until it is answered with a 2xx, and sends it again
//! after anything else. So the answer is the acknowledgement. It goes out once the event is durable, and nothing becomes an
//! event before it is known who sent it.
//!
//! In reading order: `settings` with `endpoint` and `topic`, `guard` (secrets and comparisons), `denied` (who is sent away
//! and why), `event` (request → event), the kinds of senders (`github`, `gitlab`, `standard`, `cloud_events`, `sns`,
//! `token`), `handler` (what is answered), `source`.

mod cloud_events;
mod denied;
mod endpoint;
mod event;
mod github;
mod gitlab;
mod guard;
mod handler;
mod settings;
mod sns;
mod source;
mod standard;
mod token;
mod topic;

use connectors_sdk::{
    Connector, Inheritance, Inherited, InheritedForm, SettingsError, Source, SourceName, Wildcards,
};

/// Webhooks: `sources.<name>.webhook`.
#[derive(Clone, Copy, Debug)]
pub struct Webhook;

impl Connector for Webhook {
    fn kind(&self) -> &'static str {
        "webhook"
    }

    fn wildcards(&self) -> Wildcards {
        Wildcards::Glob
    }

    /// OpenFaaS' SNS connector. It subscribed itself; here somebody subscribes the endpoint once, and it is confirmed.
    fn inherits(&self) -> Inheritance {
        Inheritance {
            defined_by: &[&["-arn"]],
            variables: &[
                Inherited { name: "-arn", key: "endpoints.sns.arn", form: InheritedForm::List },
                Inherited { name: "-callback-url", key: "endpoints.sns.path", form: InheritedForm::Text },
                Inherited { name: "-port", key: "listen", form: InheritedForm::Text },
                Inherited {
                    name: "-confirm-timeout",
                    key: "endpoints.sns.confirm_timeout",
                    form: InheritedForm::Duration,
                },
            ],
            defaults: &[
                ("listen", "0.0.0.0:8080"),
                ("endpoints.sns.kind", "sns"),
                // Where no callback URL says another one.
                ("endpoints.sns.path", "/"),
            ],
        }
    }

    fn build(
        &self,
        name: &SourceName,
        settings: serde_json::Value,
    ) -> Result<Box<dyn Source>, SettingsError> {
        let settings = settings::WebhookSettings::read(name, settings)?;
        Ok(Box::new(source::WebhookSource::new(settings)))
    }
}
