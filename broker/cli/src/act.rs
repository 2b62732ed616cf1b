//! Each command as requests, and what is printed of their answers.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;

use broker_api as api;
use broker_api::{List, OneOrMany};

use crate::client::{Answered, Client};
use crate::command::{
    Command, DeadLettersCommand, FunctionsCommand, Global, InvocationsCommand, Invoke, PageArgs, Publish,
    SchedulesCommand, SourcesCommand, TriggersCommand,
};
use crate::data;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::show::{self, Table};

/// Does what a command says.
pub(crate) async fn act(command: Command, global: &Global, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let at = At { client: &client, screen };
    match command {
        Command::Info => at.show::<api::Info>(&["v1", "info"]).await,
        Command::Functions(command) => functions(at, command).await,
        Command::Triggers(TriggersCommand::List(page)) => {
            at.list::<api::Trigger>("triggers", &[], &page).await
        }
        Command::Sources(command) => sources(at, command).await,
        Command::Schedules(command) => schedules(at, command).await,
        Command::Invoke(call) => invoke(at, call).await,
        Command::Publish(event) => publish(at, event).await,
        Command::Invocations(command) => invocations(at, command).await,
        Command::DeadLetters(command) => dead_letters(at, command).await,
    }
}

async fn functions(at: At<'_, '_>, command: FunctionsCommand) -> Result<(), Failure> {
    match command {
        FunctionsCommand::List(page) => at.list::<api::Function>("functions", &[], &page).await,
        FunctionsCommand::Show { name } => at.show::<api::Function>(&["v1", "functions", &name]).await,
        FunctionsCommand::Pause { name } => {
            at.post::<api::Paused>(&["v1", "functions", &name, "pause"]).await
        }
        FunctionsCommand::Resume { name } => {
            at.post::<api::Paused>(&["v1", "functions", &name, "resume"]).await
        }
    }
}

async fn sources(at: At<'_, '_>, command: SourcesCommand) -> Result<(), Failure> {
    match command {
        SourcesCommand::List(page) => at.list::<api::Source>("sources", &[], &page).await,
        SourcesCommand::Show { name } => at.show::<api::Source>(&["v1", "sources", &name]).await,
        SourcesCommand::Pause { name } => at.post::<api::Paused>(&["v1", "sources", &name, "pause"]).await,
        SourcesCommand::Resume { name } => at.post::<api::Paused>(&["v1", "sources", &name, "resume"]).await,
        SourcesCommand::ResetPosition { name } => {
            at.post::<api::PositionReset>(&["v1", "sources", &name, "reset-position"]).await
        }
    }
}

async fn schedules(at: At<'_, '_>, command: SchedulesCommand) -> Result<(), Failure> {
    match command {
        SchedulesCommand::List(page) => at.list::<api::Schedule>("schedules", &[], &page).await,
        SchedulesCommand::Show { id, next } => {
            let request = at.client.filtered(&["v1", "schedules", &id], &[("next", &next.to_string())]);
            at.facts::<api::ScheduleDetail>(request).await
        }
        SchedulesCommand::Run { id } => {
            let request = at.client.request(Method::POST, &["v1", "schedules", &id, "run"]);
            at.receipt(request).await
        }
        SchedulesCommand::Pause { id } => at.post::<api::Paused>(&["v1", "schedules", &id, "pause"]).await,
        SchedulesCommand::Resume { id } => at.post::<api::Paused>(&["v1", "schedules", &id, "resume"]).await,
        SchedulesCommand::Backfill { id, from, until } => {
            let request = at.client.request(Method::POST, &["v1", "schedules", &id, "backfill"]);
            at.facts::<api::Backfilled>(request.json(&api::Backfill { from, until })).await
        }
    }
}

async fn invocations(at: At<'_, '_>, command: InvocationsCommand) -> Result<(), Failure> {
    match command {
        InvocationsCommand::List { function, state, call_id, page } => {
            let filter = [("function", function), ("state", state), ("call_id", call_id)];
            at.list::<api::Invocation>("invocations", &filter, &page).await
        }
        InvocationsCommand::Show { id } => {
            at.show::<api::InvocationDetail>(&["v1", "invocations", &id]).await
        }
        InvocationsCommand::Body { id } => at.pass(&["v1", "invocations", &id, "body"]).await,
        InvocationsCommand::Cancel { id } => {
            at.post::<api::Cancelled>(&["v1", "invocations", &id, "cancel"]).await
        }
    }
}

async fn dead_letters(at: At<'_, '_>, command: DeadLettersCommand) -> Result<(), Failure> {
    match command {
        DeadLettersCommand::List { function, reason, page } => {
            at.list::<api::DeadLetter>("dead-letters", &[("function", function), ("reason", reason)], &page)
                .await
        }
        DeadLettersCommand::Show { id } => {
            at.show::<api::DeadLetterDetail>(&["v1", "dead-letters", &id]).await
        }
        DeadLettersCommand::Body { id } => at.pass(&["v1", "dead-letters", &id, "body"]).await,
        DeadLettersCommand::Redrive { id: Some(id), .. } => {
            at.post::<api::Redriven>(&["v1", "dead-letters", &id, "redrive"]).await
        }
        DeadLettersCommand::Redrive { id: None, function, reason, dry_run } => {
            let filter = api::RedriveFilter { function: function.unwrap_or_default(), reason };
            let request = at.client.request(Method::POST, &["v1", "dead-letters", "redrive"]);
            at.facts::<api::RedrivenAll>(request.json(&api::RedriveAll { filter, dry_run })).await
        }
        DeadLettersCommand::Remove { id, yes: true } => {
            let request = at.client.request(Method::DELETE, &["v1", "dead-letters", &id]);
            at.client.nothing(request).await?;
            at.screen.remark(&format!("removed {id}"));
            Ok(())
        }
        DeadLettersCommand::Remove { yes: false, .. } => {
            Err(Failure::Usage("this removes body and history for good; add --yes to do it".into()))
        }
    }
}

async fn publish(at: At<'_, '_>, event: Publish) -> Result<(), Failure> {
    let data = data::read(event.data.as_deref())?;
    let (body, body_base64) = match String::from_utf8(data) {
        Ok(text) if text.is_empty() => (None, None),
        Ok(text) => (Some(text), None),
        Err(binary) => (None, Some(BASE64_STANDARD.encode(binary.as_bytes()))),
    };
    let mut headers: BTreeMap<String, OneOrMany> = BTreeMap::new();
    for (name, value) in data::headers(&event.headers)? {
        match headers.entry(name).or_insert_with(|| OneOrMany::Many(Vec::new())) {
            OneOrMany::Many(values) => values.push(value),
            one @ OneOrMany::One(_) => *one = OneOrMany::One(value),
        }
    }
    let request = api::PublishEvent {
        topic: event.topic,
        source: event.source,
        headers,
        content_type: None,
        body,
        body_base64,
        idempotency_key: event.idempotency_key,
    };
    let request = at.client.request(Method::POST, &["v1", "events"]).json(&request);
    at.receipt(request).await
}

/// What the front said of a call it took; the front itself answers in header fields.
#[derive(Debug, Serialize)]
struct Accepted<'a> {
    id: &'a str,
    call_id: &'a str,
    durability: &'a str,
    duplicate: bool,
    warning: Option<&'a str>,
}

async fn invoke(at: At<'_, '_>, call: Invoke) -> Result<(), Failure> {
    let mut request = at.client.post_raw(&format!("async-function/{}", call.name))?;
    for (name, value) in data::headers(&call.headers)? {
        request = request.header(name, value);
    }
    let fields = [
        ("X-Callback-Url", call.callback),
        ("X-Call-Id", call.call_id),
        ("Idempotency-Key", call.idempotency_key),
        ("Evoke-Delay", call.delay.map(|delay| delay.to_string())),
        ("Evoke-At", call.at.map(|at| at.to_string())),
        ("Evoke-Max-Age", call.max_age.map(|age| age.to_string())),
        ("Prefer", call.wait.map(|wait| format!("wait={}", wait.0.as_secs_f64().ceil()))),
    ];
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        request = request.header(name, value);
    }
    let response = at.client.send(request.body(data::read(call.data.as_deref())?)).await?;
    let status = response.status();
    let headers = response.headers().clone();
    let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());

    let Some(id) = field("evoke-invocation-id") else {
        let text = String::from_utf8_lossy(&at.client.whole(response).await?).trim_end().to_owned();
        let text = if text.is_empty() { format!("the front answered {status}") } else { text };
        return Err(Failure::Front { status: status.as_u16(), text });
    };
    if let Some(state) = field("evoke-state") {
        at.screen.remark(&format!("{state}, status {}, invocation {id}", status.as_u16()));
        let body = at.client.whole(response).await?;
        at.screen.raw(&body)?;
        at.screen.flush()?;
        return match state {
            "completed" => Ok(()),
            state => Err(Failure::Unsuccessful { state: state.to_owned() }),
        };
    }
    let accepted = Accepted {
        id,
        call_id: field("x-call-id").unwrap_or_default(),
        durability: field("evoke-durability").unwrap_or_default(),
        duplicate: field("evoke-duplicate").is_some(),
        warning: field("evoke-warning"),
    };
    if at.screen.wants_json() {
        let json = serde_json::to_vec(&accepted)
            .map_err(|error| Failure::Usage(format!("cannot print the answer: {error}")))?;
        return at.screen.document(&json);
    }
    at.screen.facts(&[
        ("invocation", accepted.id.into()),
        ("call id", accepted.call_id.into()),
        ("durability", accepted.durability.into()),
    ])?;
    if accepted.duplicate {
        at.screen.remark("the key is known: this is the first call's answer");
    }
    if accepted.warning == Some("function-not-listed") {
        at.screen.remark("the gateway does not list this function; the call waits for it");
    }
    if call.wait.is_some() {
        at.screen.remark("accepted, and not ended yet");
    }
    Ok(())
}

/// Where requests go and answers are shown.
struct At<'c, 's> {
    client: &'c Client,
    screen: &'c mut Screen<'s>,
}

impl At<'_, '_> {
    async fn list<T>(
        self,
        noun: &str,
        filter: &[(&str, Option<String>)],
        page: &PageArgs,
    ) -> Result<(), Failure>
    where
        T: DeserializeOwned + Table,
    {
        let limit = page.limit.map(|limit| limit.to_string());
        let parameters: Vec<(&str, &str)> = filter
            .iter()
            .map(|(name, value)| (*name, value.as_deref()))
            .chain([("limit", limit.as_deref()), ("cursor", page.cursor.as_deref())])
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        let request = self.client.filtered(&["v1", noun], &parameters);
        let Answered { shape, raw } = self.client.json::<List<T>>(request).await?;
        if self.screen.wants_json() {
            return self.screen.document(&raw);
        }
        self.screen.table(T::HEAD, shape.items.iter().map(Table::row).collect())?;
        if let Some(next) = shape.next {
            self.screen.remark(&format!("there are more: --cursor {next}"));
        }
        Ok(())
    }

    async fn show<T: DeserializeOwned + show::Whole>(self, path: &[&str]) -> Result<(), Failure> {
        let request = self.client.request(Method::GET, path);
        self.facts::<T>(request).await
    }

    async fn post<T: DeserializeOwned + show::Whole>(self, path: &[&str]) -> Result<(), Failure> {
        let request = self.client.request(Method::POST, path);
        self.facts::<T>(request).await
    }

    async fn facts<T: DeserializeOwned + show::Whole>(self, request: RequestBuilder) -> Result<(), Failure> {
        let Answered { shape, raw } = self.client.json::<T>(request).await?;
        if self.screen.wants_json() { self.screen.document(&raw) } else { shape.show(self.screen) }
    }

    /// What followed from an event or a run.
    async fn receipt(self, request: RequestBuilder) -> Result<(), Failure> {
        let Answered { shape, raw } = self.client.json::<api::Receipt>(request).await?;
        if self.screen.wants_json() {
            return self.screen.document(&raw);
        }
        if shape.invocations.is_empty() {
            self.screen.remark("received; no function wants it");
            return Ok(());
        }
        if shape.duplicate {
            self.screen.remark("received before; these ran the first time");
        }
        let rows =
            shape.invocations.iter().map(|started| vec![started.function.clone(), started.id.to_string()]);
        self.screen.table(&["FUNCTION", "INVOCATION"], rows.collect())
    }

    async fn pass(self, path: &[&str]) -> Result<(), Failure> {
        let request = self.client.request(Method::GET, path);
        self.client.pass(request, self.screen).await
    }
}
