//! What a final outcome causes: a callback to the caller, a copy of a dead letter to whoever is told of them.
//!
//! Both are accepted in the record of the settlement itself, so that none is lost and none is sent twice.

use http::HeaderMap;

use broker_model::function::OnDeadLetter;
use broker_model::invocation::{CallbackCall, FunctionCall};
use broker_model::{
    Acceptance, Body, BodyReader, Draft, FunctionName, Headers, Invocation, Lane, LaneTarget, Origin,
    Outcome, QueueName, Reason, StoreError, Target,
};
use futures::StreamExt;
use url::Url;

use crate::functions;
use crate::gateway::headers::{self, Told};

/// The callback of a call's end, where its caller asked for one.
pub(crate) fn callback(
    invocation: &Invocation,
    call: &FunctionCall,
    answer: Option<&HeaderMap>,
    told: &Told<'_>,
    body: Body,
) -> Option<Acceptance> {
    let url = call.callback_url.clone()?;
    Some(Acceptance {
        origin: Origin::Callback { of: invocation.id },
        headers: headers::of_callback(answer, told),
        body,
        drafts: vec![to_url(url, invocation)],
        dedup: None,
        position: None,
        fire: None,
    })
}

fn to_url(url: Box<str>, invocation: &Invocation) -> Draft {
    // What is no URL waits in some lane as well, until its turn shows that it cannot be called.
    let parsed = Url::parse(&url).ok();
    let host = parsed.as_ref().and_then(Url::host_str).unwrap_or(&url);
    Draft {
        lane: Lane { queue: QueueName::default(), target: LaneTarget::for_callback_host(host) },
        target: Target::Callback(CallbackCall { url }),
        call_id: invocation.call_id.clone(),
        due: None,
        max_age: None,
    }
}

/// How an invocation died, as its copy tells it.
#[derive(Clone, Copy)]
pub(crate) struct Death<'a> {
    /// Why.
    pub(crate) reason: Reason,
    /// More about it.
    pub(crate) detail: &'a str,
    /// How the last attempt went, where there was one.
    pub(crate) last: Option<&'a Outcome>,
}

/// The copy of a dead letter, where somebody is told of them. A copy that dies is told to nobody: it would go round.
pub(crate) async fn copy(
    invocation: &Invocation,
    to: &OnDeadLetter,
    death: Death<'_>,
    functions: &functions::State,
    default_namespace: &str,
    bodies: &dyn BodyReader,
) -> Option<Acceptance> {
    if matches!(invocation.origin, Origin::DeadLetter { .. }) {
        return None;
    }
    let draft = match to {
        OnDeadLetter::Url(url) => to_url(url.clone(), invocation),
        OnDeadLetter::Function(written) => {
            let function = FunctionName::parse(written, default_namespace).ok()?;
            Draft {
                lane: Lane {
                    queue: functions.snapshot().rules(&function).queue.clone(),
                    target: LaneTarget::Function(function.clone()),
                },
                target: Target::Function(FunctionCall {
                    function,
                    written: written.clone(),
                    path_and_query: "".into(),
                    callback_url: None,
                }),
                call_id: invocation.call_id.clone(),
                due: None,
                max_age: None,
            }
        }
    };
    let mut fields = Headers::new();
    if let Some(content_type) = invocation.headers.get("content-type") {
        fields.append("content-type", content_type);
    }
    if let Some(encoding) = invocation.headers.get("content-encoding") {
        fields.append("content-encoding", encoding);
    }
    fields.append("x-call-id", invocation.call_id.as_str());
    fields.append("evoke-dead-letter-id", invocation.id.to_string());
    fields.append("evoke-dead-letter-reason", death.reason.as_str());
    fields.append("evoke-dead-letter-detail", headers::field_text(death.detail).as_bytes());
    fields.append("evoke-dead-letter-target", invocation.target.kind());
    match &invocation.target {
        Target::Function(call) => fields.append("x-function-name", &*call.written),
        Target::Callback(call) => fields
            .append("evoke-dead-letter-url", headers::field_text(&without_secrets(&call.url)).as_bytes()),
        Target::Nobody => {}
    }
    if let Some(status) = death.last.and_then(Outcome::status) {
        fields.append("x-function-status", status.to_string());
    }
    let body = match duplicate(bodies, &invocation.body).await {
        Ok(body) => body,
        Err(error) => {
            tracing::warn!(invocation.id = %invocation.id, %error, "a dead letter's copy goes without its body");
            fields.append("evoke-dead-letter-body", "unreadable");
            Body::EMPTY
        }
    };
    Some(Acceptance {
        origin: Origin::DeadLetter { of: invocation.id },
        headers: fields,
        body,
        drafts: vec![draft],
        dedup: None,
        position: None,
        fire: None,
    })
}

/// A URL without user and password, and without its query.
fn without_secrets(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.set_query(None);
            url.set_fragment(None);
            url.to_string()
        }
        Err(_) => "?".to_owned(),
    }
}

/// A body of its own for the copy: the original's place may be given up before the copy is delivered.
async fn duplicate(bodies: &dyn BodyReader, body: &Body) -> Result<Body, StoreError> {
    const IN_MEMORY: u64 = 256 * 1024;
    if body.len() <= IN_MEMORY {
        return Ok(Body::Inline(crate::gateway::invoke::whole(bodies, body).await?));
    }
    let mut chunks = bodies.read(body).await?;
    let mut spool = bodies.spool().await?;
    while let Some(chunk) = chunks.next().await {
        spool.write(chunk?).await?;
    }
    spool.finish().await
}
