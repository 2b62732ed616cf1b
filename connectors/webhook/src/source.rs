//! Listens until it is told to stop.

use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use connectors_sdk::receiver::Receiver;
use connectors_sdk::{Capabilities, Source, SourceContext, SourceError};
use tracing::warn;

use crate::endpoint::{Endpoint, Kind};
use crate::handler::Webhooks;
use crate::settings::WebhookSettings;
use crate::sns::{Https, Sns};

/// One configured webhook source.
pub(crate) struct WebhookSource {
    settings: WebhookSettings,
}

impl WebhookSource {
    pub(crate) fn new(settings: WebhookSettings) -> Self {
        WebhookSource { settings }
    }
}

#[async_trait]
impl Source for WebhookSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            acknowledges: true,
            replays: true,
            ordered: false,
            decodes: self.settings.endpoints.iter().any(|endpoint| endpoint.kind.decodes()),
            // Whatever stands in front of replicas gives each request to one of them.
            shares: true,
        }
    }

    async fn run(self: Box<Self>, ctx: SourceContext) -> Result<(), SourceError> {
        let settings = self.settings;
        let receiver = Receiver::bind(&settings.receiver, settings.common.in_flight, &ctx).await?;
        for endpoint in settings.endpoints.iter().filter(|endpoint| is_open(endpoint)) {
            let name = &endpoint.name;
            ctx.health.problem(format!("endpoint {name} takes events from anybody (secret: none)"));
            warn!(endpoint = %name, "endpoint {name} takes events from anybody: secret: none");
        }
        let mut following = settings.common.follow(&ctx);
        ctx.health.subscribed(following.now().names());
        let handler = Arc::new(Webhooks::new(settings, &ctx, Sns::new(Https::default())));
        ctx.health.connected();
        let mut serving = pin!(receiver.serve(handler, ctx.shutdown.clone()));
        loop {
            tokio::select! {
                biased;
                () = serving.as_mut() => return Ok(()),
                wishes = following.changed() => ctx.health.subscribed(wishes.names()),
            }
        }
    }
}

fn is_open(endpoint: &Endpoint) -> bool {
    match &endpoint.kind {
        Kind::GitHub { secrets } | Kind::GitLab { secrets, .. } | Kind::Standard { secrets, .. } => {
            secrets.is_open()
        }
        Kind::CloudEvents { credential, .. } => credential.secrets.is_open(),
        Kind::Token(rules) => rules.credential.secrets.is_open(),
        // Signed whatever is configured.
        Kind::Sns(_) => false,
    }
}
