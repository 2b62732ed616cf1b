//! The webhook: the store sends, and keeps what we do not take.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use connectors_sdk::receiver::{Custody, Handler, NotTaken, Receiver, answer, received};
use connectors_sdk::{
    Capabilities, Common, Event, EventForm, Health, Quarantined, Receipt, Retries, Retry, Source,
    SourceContext, SourceError, SourceName, Topics, Wishes, dead_letter,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::identity::Creation;
use crate::memory::{Made, Memory};
use crate::repair::{Found, Look, Repair};
use crate::settings::{Endpoint, WebhookSettings};
use crate::{event, names};

/// A source that the store sends to.
pub(crate) struct WebhookSource {
    name: SourceName,
    common: Common,
    settings: WebhookSettings,
}

impl WebhookSource {
    pub(crate) fn new(name: SourceName, common: Common, settings: WebhookSettings) -> Self {
        WebhookSource { name, common, settings }
    }
}

#[async_trait]
impl Source for WebhookSource {
    fn capabilities(&self) -> Capabilities {
        // A store with a `queue_dir` keeps and sends again; who balances between replicas gives each event to one.
        Capabilities { acknowledges: true, replays: true, decodes: true, shares: true, ..Capabilities::NONE }
    }

    async fn run(self: Box<Self>, ctx: SourceContext) -> Result<(), SourceError> {
        let token = self.settings.token.reveal().await?;
        let receiver = Receiver::bind(&self.settings.receiver, self.common.in_flight, &ctx).await?;
        let mut following = self.common.follow(&ctx);
        let (wishes, wished) = watch::channel(following.now().clone());
        let repair = self.settings.repair.clone().filter(|endpoint| endpoint.repair.enabled);
        let memory = repair.is_some().then(Arc::<Memory>::default);
        let notifications = Arc::new(Notifications {
            form: self.common.form.clone(),
            listed: matches!(self.common.topics, Topics::List(_)),
            health: ctx.health.clone(),
            token,
            custody: Custody::new(&ctx, self.common.in_flight),
            wishes: wished.clone(),
            memory: memory.clone(),
        });
        let _repairing = match (repair, memory) {
            (Some(endpoint), Some(memory)) => {
                let at = Repairing { ctx: ctx.clone(), notifications: notifications.clone(), wishes: wished };
                let repair = Repair::new(&self.name, &endpoint, &ctx).await?;
                Some(AbortOnDropHandle::new(tokio::spawn(at.run(repair, endpoint, memory))))
            }
            _ => None,
        };
        ctx.health.subscribed(following.now().names());
        ctx.health.connected();
        let mut serving = std::pin::pin!(receiver.serve(notifications, ctx.shutdown.clone()));
        loop {
            tokio::select! {
                () = &mut serving => return Ok(()),
                now = following.changed() => {
                    ctx.health.subscribed(now.names());
                    wishes.send_replace(now.clone());
                }
            }
        }
    }
}

/// What is done with what the store sends.
struct Notifications {
    form: EventForm,
    /// The settings list topics.
    listed: bool,
    health: Health,
    token: SecretString,
    custody: Custody,
    wishes: watch::Receiver<Wishes>,
    /// What was told, where somebody looks for what was not.
    memory: Option<Arc<Memory>>,
}

impl Notifications {
    /// Whether the settings list topics, and this is none of them. What functions ask for is for the broker to say: it
    /// knows whether it has heard of all of them yet.
    fn is_left_out(&self, topic: &str) -> bool {
        self.listed && !names::wanted(&self.wishes.borrow(), topic)
    }

    /// Takes one event, or keeps what the broker will never take.
    async fn take(&self, event: Result<Event, Box<Quarantined>>) -> Result<Receipt, NotTaken> {
        let event = match event {
            Ok(event) => event,
            Err(unreadable) => return self.custody.unreadable(&unreadable).await,
        };
        match self.custody.event(&event).await {
            // The store would send it for ever, and nothing behind it.
            Err(NotTaken::Refused(refusal)) if refusal.retry() == Retry::Never => {
                self.custody.unreadable(&dead_letter(event, &refusal)).await
            }
            outcome => outcome,
        }
    }
}

#[async_trait]
impl Handler for Notifications {
    async fn admit(&self, head: &Parts) -> Result<(), Response<Bytes>> {
        match head.method {
            // The store asks whether anybody is there, without its token.
            Method::HEAD => return Err(Response::new(Bytes::new())),
            Method::POST => {}
            _ => return Err(answer(StatusCode::METHOD_NOT_ALLOWED, "notifications are posted")),
        }
        let shown = head.headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
        if is_token(shown, self.token.expose_secret().as_bytes()) {
            Ok(())
        } else {
            Err(answer(StatusCode::UNAUTHORIZED, "the token is another one than the source's"))
        }
    }

    async fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        let body = request.into_body();
        if body.is_empty() {
            return received(&[]);
        }
        let told = match event::records(&body) {
            Ok(told) => told,
            Err(why) => {
                let kept = self.custody.unreadable(&event::unreadable(&self.form, body, why)).await;
                return kept.map_or_else(|why| why.answer(), |receipt| received(&[receipt]));
            }
        };
        let mut receipts = Vec::new();
        for told in told {
            // Where objects are looked for, it must be what identifies the object when it is found.
            let identity = match &self.memory {
                Some(memory) => memory.identity(&told.record),
                None => told.record.identity().to_vec(),
            };
            let event = event::event_from(&self.form, &told, &identity);
            if self.is_left_out(&told.topic()) {
                if let Ok(event) = &event {
                    self.health.unwanted(&event.topic);
                }
                continue;
            }
            match self.take(event).await {
                Ok(receipt) => receipts.push(receipt),
                Err(why) => return why.answer(),
            }
            if let (Some(memory), Some(made)) = (&self.memory, Made::of(&told.record)) {
                memory.remember(made);
            }
        }
        received(&receipts)
    }
}

/// Whether this is the token, after `Bearer` or, as a store shows one of two words, verbatim. Takes the same time whatever
/// of it is right.
fn is_token(shown: &[u8], token: &[u8]) -> bool {
    let bearer = shown.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    let word = bearer.map_or(&b""[..], |(_, word)| word);
    !token.is_empty() && bool::from(shown.ct_eq(token) | word.ct_eq(token))
}

/// Looks from time to time for what was never sent.
struct Repairing {
    ctx: SourceContext,
    notifications: Arc<Notifications>,
    wishes: watch::Receiver<Wishes>,
}

impl Repairing {
    async fn run(mut self, mut repair: Repair, endpoint: Endpoint, memory: Arc<Memory>) {
        let every = endpoint.repair.every;
        let mut retries = Retries::reconnecting();
        let (mut look, mut next) = (Look::Everywhere, Instant::now());
        loop {
            let wishes = self.wishes.borrow_and_update().clone();
            let mut finding = repair.find(look, &wishes, Some(endpoint.repair.settle));
            let mut failed = None;
            while let Some(found) = finding.recv().await {
                match found {
                    Found::Object { bucket, object } => {
                        if !memory.knows(&bucket, &object) && !self.reconcile(&wishes, &bucket, &object).await
                        {
                            failed = Some("the broker does not take what was found".to_owned());
                            break;
                        }
                    }
                    Found::Until { bucket, until } => repair.done(&bucket, until).await,
                    Found::Failed(why) => failed = Some(why),
                }
            }
            if let Some(why) = failed {
                warn!(%why, "what was not notified of cannot be looked for");
                self.ctx.health.problem(format!("repair: {why}"));
                next = Instant::now() + retries.failed().min(every);
            } else if look == Look::Everywhere {
                retries.answered();
                memory.forget_before(repair.earliest());
                next = Instant::now() + every;
            }
            look = tokio::select! {
                () = tokio::time::sleep_until(next) => Look::Everywhere,
                // A bucket that is asked for from now on is followed from now on.
                Ok(()) = self.wishes.changed() => Look::Beginnings,
            };
        }
    }

    /// Whether it is durable, or nobody wants it.
    async fn reconcile(&self, wishes: &Wishes, bucket: &str, object: &crate::listing::Object) -> bool {
        let told = event::reconciled(bucket, object);
        if self.notifications.listed && !names::wanted(wishes, &told.topic()) {
            return true;
        }
        let (form, creation) = (&self.notifications.form, Creation::found(bucket, object));
        self.notifications.take(event::reconciled_event(form, &told, &creation)).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_as_a_bearers_or_verbatim() {
        assert!(is_token(b"Bearer s3cret", b"s3cret") && is_token(b"bearer s3cret", b"s3cret"));
        assert!(is_token(b"Basic abc", b"Basic abc") && is_token(b"s3cret", b"s3cret"));
        for wrong in [&b""[..], b"Bearer ", b"Bearer s3cre", b"Bearer s3crets", b"Basic s3cret"] {
            assert!(!is_token(wrong, b"s3cret"), "{wrong:?}");
        }
        assert!(!is_token(b"", b"") && !is_token(b"Bearer ", b""));
    }
}
