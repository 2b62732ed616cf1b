//! Events from MinIO and other S3-compatible object stores.
//!
//! A store tells of its objects in one of two ways. It sends notifications to a webhook of ours, and keeps what we do not
//! take (with its `queue_dir`): nothing is lost. Or we listen to its stream of notifications, for users who may not
//! configure a target; the store keeps nothing of it, so what a gap swallowed is found by listing the bucket afterwards.
//!
//! In reading order: `names` (topics), `settings`, `event` (record → event), `identity` and `memory` (what is told once
//! whether it is told or found), `webhook`, `client` (signed requests) with `listing`, `repair`, `stream` (lines of the
//! notification stream), `held` (what came and is not durable yet), `listen` (the loop).

mod client;
mod event;
mod held;
mod identity;
mod listen;
mod listing;
mod memory;
mod names;
mod repair;
mod settings;
mod stream;
mod webhook;

use connectors_sdk::{Connector, Inheritance, SettingsError, Source, SourceName, Wildcards};

use settings::Way;

/// MinIO: `sources.<name>.minio`.
#[derive(Clone, Copy, Debug)]
pub struct Minio;

impl Connector for Minio {
    fn kind(&self) -> &'static str {
        "minio"
    }

    fn wildcards(&self) -> Wildcards {
        Wildcards::S3
    }

    fn inherits(&self) -> Inheritance {
        // OpenFaaS has no connector for it.
        Inheritance::default()
    }

    fn build(
        &self,
        name: &SourceName,
        settings: serde_json::Value,
    ) -> Result<Box<dyn Source>, SettingsError> {
        let settings = settings::MinioSettings::read(name, settings)?;
        Ok(match settings.way {
            Way::Webhook(webhook) => {
                Box::new(webhook::WebhookSource::new(name.clone(), settings.common, webhook))
            }
            Way::Listen(endpoint) => {
                Box::new(listen::ListenSource::new(name.clone(), settings.common, endpoint))
            }
        })
    }
}
