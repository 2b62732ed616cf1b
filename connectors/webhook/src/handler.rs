//! What is answered: who may send, what came of it, and only then a success.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use connectors_sdk::receiver::{Custody, Handler, NotTaken, Unread, answer, received};
use connectors_sdk::{Clock, Health, Receipt, SourceContext, Topic, Topics, Wildcards};
use futures::{StreamExt, TryStreamExt};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use percent_encoding::percent_decode_str;

use crate::cloud_events::Mode;
use crate::denied::{DENIED, Denied};
use crate::endpoint::{Endpoint, Kind};
use crate::event::{Brought, Message, Request};
use crate::settings::WebhookSettings;
use crate::sns::Sns;
use crate::{cloud_events, github, gitlab, sns, standard, token};

/// How many events of one batch are on their way at once.
const OF_A_BATCH: usize = 16;

/// The endpoints of one source.
pub(crate) struct Webhooks {
    settings: WebhookSettings,
    custody: Custody,
    sns: Sns,
    clock: Arc<dyn Clock>,
    health: Health,
}

/// Where a request goes.
struct Place<'a> {
    endpoint: &'a Endpoint,
    /// Behind the prefix, decoded.
    path: String,
}

impl Webhooks {
    pub(crate) fn new(settings: WebhookSettings, ctx: &SourceContext, sns: Sns) -> Self {
        Webhooks {
            custody: Custody::new(ctx, settings.common.in_flight),
            settings,
            sns,
            clock: ctx.clock.clone(),
            health: ctx.health.clone(),
        }
    }

    fn place(&self, path: &str) -> Result<Place<'_>, Denied> {
        let decoded = percent_decode_str(path).decode_utf8().map_err(|_| Denied::Path)?;
        let meets = |endpoint: &&Endpoint| {
            decoded
                .strip_prefix(&endpoint.path)
                .is_some_and(|below| below.is_empty() || below.starts_with('/'))
        };
        let endpoint = self.settings.endpoints.iter().find(meets).ok_or(Denied::Path)?;
        let behind = decoded.strip_prefix(&self.settings.prefix).unwrap_or(&decoded).trim_matches('/');
        let path = if behind.is_empty() { endpoint.name.clone() } else { behind.to_owned() };
        Ok(Place { endpoint, path })
    }

    /// Counts and answers.
    fn denied(&self, path: &str, denied: &Denied) -> Response<Bytes> {
        let place = self.place(path);
        let name = place.as_ref().map_or("", |place| &place.endpoint.name);
        self.health.count(&DENIED, &[name, denied.reason()], 1);
        if let Some(problem) = denied.problem(name) {
            self.health.problem(problem);
        }
        denied.answer()
    }

    async fn may_bring(&self, head: &Parts) -> Result<(), Denied> {
        let place = self.place(head.uri.path())?;
        if head.method != Method::POST {
            return Err(Denied::Method);
        }
        let (headers, now) = (&head.headers, self.clock.now());
        match &place.endpoint.kind {
            Kind::GitHub { secrets } => github::admit(secrets.is_open(), headers),
            Kind::GitLab { secrets, .. } => gitlab::admit(secrets.is_open(), headers),
            Kind::Standard { secrets, tolerance } => {
                standard::admit(secrets.is_open(), headers, now, *tolerance)
            }
            Kind::CloudEvents { credential, .. } => {
                credential.verify(headers).await?;
                Mode::of(headers).map(|_| ())
            }
            Kind::Sns(rules) => sns::admit(rules, headers).await,
            Kind::Token(rules) => rules.credential.verify(headers).await,
        }
    }

    /// The answer to who only asks.
    fn asked(&self, head: &Parts) -> Result<Response<Bytes>, Denied> {
        let place = self.place(head.uri.path())?;
        match &place.endpoint.kind {
            Kind::CloudEvents { origins, .. } if head.headers.contains_key("webhook-request-origin") => {
                cloud_events::handshake(origins, &head.headers)
            }
            _ => {
                let mut answer = Denied::Method.answer();
                *answer.status_mut() = StatusCode::NO_CONTENT;
                *answer.body_mut() = Bytes::new();
                Ok(answer)
            }
        }
    }

    async fn read(&self, head: &Parts, body: Bytes) -> Result<Brought, Denied> {
        let place = self.place(head.uri.path())?;
        let request = Request {
            form: &self.settings.common.form,
            endpoint: place.endpoint,
            path: &place.path,
            query: head.uri.query(),
            headers: &head.headers,
            body,
        };
        let (headers, now) = (request.headers, self.clock.now());
        let messages = match &place.endpoint.kind {
            Kind::GitHub { secrets } => {
                if !secrets.is_open() {
                    github::verify(&secrets.reveal().await?, headers, &request.body)?;
                }
                if github::is_ping(headers) {
                    return Ok(Brought::Nothing("pong: the secret is right"));
                }
                vec![github::message(request)]
            }
            Kind::GitLab { secrets, tolerance } => {
                if !secrets.is_open() {
                    gitlab::verify(&secrets.reveal().await?, headers, &request.body, now, *tolerance)?;
                }
                vec![gitlab::message(request)]
            }
            Kind::Standard { secrets, tolerance } => {
                if !secrets.is_open() {
                    standard::verify(&secrets.reveal().await?, headers, &request.body, now, *tolerance)?;
                }
                vec![standard::message(request)]
            }
            Kind::CloudEvents { .. } => cloud_events::messages(Mode::of(headers)?, &request),
            Kind::Sns(rules) => return self.sns.read(rules, &request, now).await,
            Kind::Token(rules) => vec![token::message(rules, request)],
        };
        Ok(Brought::Messages(messages))
    }

    /// Whether the settings list topics, and this is none of them. What functions ask for is for the broker to say: it
    /// knows whether it has heard of all of them yet.
    fn is_left_out(&self, topic: &str) -> bool {
        match &self.settings.common.topics {
            Topics::FromFunctions => false,
            Topics::List(names) => !names.iter().any(|name| Wildcards::Glob.matches(name, topic)),
        }
    }

    async fn hand_over(&self, message: Message) -> Result<Receipt, NotTaken> {
        if self.is_left_out(&message.topic) {
            if let Ok(event) = &message.outcome {
                self.health.unwanted(&event.topic);
            } else if let Ok(topic) = Topic::parse(&message.topic) {
                self.health.unwanted(&topic);
            }
            return Ok(Receipt::default());
        }
        match message.outcome {
            Ok(event) => self.custody.event(&event).await,
            Err(unreadable) => self.custody.unreadable(&unreadable).await,
        }
    }
}

#[async_trait]
impl Handler for Webhooks {
    async fn admit(&self, head: &Parts) -> Result<(), Response<Bytes>> {
        let path = head.uri.path();
        if head.method == Method::OPTIONS {
            return Err(self.asked(head).unwrap_or_else(|denied| self.denied(path, &denied)));
        }
        self.may_bring(head).await.map_err(|denied| self.denied(path, &denied))
    }

    async fn answer(&self, request: http::Request<Bytes>) -> Response<Bytes> {
        let (head, body) = request.into_parts();
        let messages = match self.read(&head, body).await {
            Ok(Brought::Messages(messages)) => messages,
            Ok(Brought::Nothing(what)) => return answer(StatusCode::OK, what),
            Err(denied) => return self.denied(head.uri.path(), &denied),
        };
        // One that is not taken ends the whole: the sender brings all again, and those that were are recognised.
        let receipts: Result<Vec<Receipt>, NotTaken> = futures::stream::iter(messages)
            .map(|message| self.hand_over(message))
            .buffer_unordered(OF_A_BATCH)
            .try_collect()
            .await;
        match receipts {
            Ok(receipts) => received(&receipts),
            Err(why) => why.answer(),
        }
    }

    fn unread(&self, head: &Parts, why: Unread) {
        // The receiver answers.
        let _ = self.denied(head.uri.path(), &Denied::Unread(why));
    }
}

#[cfg(test)]
mod tests;
