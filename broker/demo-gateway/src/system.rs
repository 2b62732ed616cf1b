//! The JSON side of the gateway: listing, deploying, scaling and removing functions.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::function::Function;
use crate::registry::{Deployed, Registry};
use crate::target::is_name;

/// A provider allows so many replicas in this edition.
const MAX_REPLICAS: u32 = 5;

/// One function as a list shows it: what is empty or zero is left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FunctionStatus<'a> {
    name: &'a str,
    image: &'a str,
    namespace: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env_vars: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_zero")]
    invocation_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    replicas: u64,
    #[serde(skip_serializing_if = "is_zero")]
    available_replicas: u64,
    created_at: String,
}

impl<'a> FunctionStatus<'a> {
    fn of(deployed: &'a Deployed, invocation_count: u64) -> Self {
        let function = &deployed.function;
        Self {
            name: &function.name,
            image: &function.image,
            namespace: &deployed.namespace,
            env_vars: &function.env,
            labels: &function.labels,
            annotations: &function.annotations,
            invocation_count,
            replicas: deployed.replicas().into(),
            available_replicas: deployed.replicas().into(),
            created_at: deployed.created.to_string(),
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What is sent to deploy or update a function. Maps may be absent or `null`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Deployment {
    service: String,
    #[serde(default)]
    image: String,
    namespace: Option<String>,
    env_vars: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Removal {
    function_name: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct Scaling {
    replicas: u32,
}

/// `/system/functions`. `namespaces` are those that exist; none means that the provider has no namespaces.
pub(crate) fn functions(
    registry: &Registry,
    namespaces: &[String],
    method: &Method,
    namespace: Option<&str>,
    body: &[u8],
) -> Answer {
    match *method {
        Method::GET => list(registry, namespaces, namespace),
        Method::POST | Method::PUT => deploy(registry, namespaces, body, method == Method::PUT),
        Method::DELETE => remove(registry, body, namespace),
        _ => Answer::status(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn list(registry: &Registry, namespaces: &[String], namespace: Option<&str>) -> Answer {
    let namespace = match namespace.filter(|namespace| !namespace.is_empty()) {
        Some(_) if namespaces.is_empty() => None,
        Some(wanted) if namespaces.iter().any(|known| known == wanted) => Some(wanted),
        Some(_) => return Answer::plain(StatusCode::BAD_REQUEST, "namespace not valid\n"),
        // Without one, the list is that of the default namespace; a provider without namespaces lists all it has.
        None => (!namespaces.is_empty()).then(|| registry.default_namespace()),
    };
    let deployed = registry.list(namespace);
    let list: Vec<_> = deployed.iter().map(|one| FunctionStatus::of(one, one.log.count())).collect();
    json(&list)
}

fn deploy(registry: &Registry, namespaces: &[String], body: &[u8], update: bool) -> Answer {
    let Ok(deployment) = serde_json::from_slice::<Deployment>(body) else {
        return Answer::plain(StatusCode::BAD_REQUEST, "cannot read the deployment\n");
    };
    // A name in the router's pattern, but without dots: those separate the namespace.
    if !is_name(&deployment.service) || deployment.service.contains('.') {
        return Answer::plain(StatusCode::BAD_REQUEST, "service: not a function name\n");
    }
    let namespace = deployment.namespace.filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or_else(|| registry.default_namespace().to_owned());
    if !namespaces.is_empty() && !namespaces.contains(&namespace) {
        return Answer::plain(StatusCode::BAD_REQUEST, "namespace not valid\n");
    }
    let full_name = format!("{}.{namespace}", deployment.service);
    let present = registry.find(&full_name);
    if update && present.is_none() {
        return Answer::plain(StatusCode::NOT_FOUND, format!("function not found: {full_name}\n"));
    }
    let (env, labels, annotations) = (
        deployment.env_vars.unwrap_or_default(),
        deployment.labels.unwrap_or_default(),
        deployment.annotations.unwrap_or_default(),
    );
    let max_inflight =
        env.get("max_inflight").and_then(|calls| calls.parse().ok()).filter(|calls| *calls > 0);
    let tell = |function: &mut Function| {
        function.env = env;
        function.labels = labels;
        function.annotations = annotations;
        function.max_inflight = max_inflight;
    };
    match present {
        // The same code with other metadata: what it remembers stays.
        Some(present) if present.function.image == deployment.image => {
            registry.update(&full_name, tell);
        }
        _ => {
            let mut function =
                Function::from_image(&deployment.service, &deployment.image).namespace(&namespace);
            tell(&mut function);
            registry.deploy(function);
        }
    }
    Answer::status(StatusCode::ACCEPTED)
}

fn remove(registry: &Registry, body: &[u8], namespace: Option<&str>) -> Answer {
    let Ok(removal) = serde_json::from_slice::<Removal>(body) else {
        return Answer::plain(StatusCode::BAD_REQUEST, "cannot read which function to remove\n");
    };
    let namespace = removal.namespace.as_deref().or(namespace).unwrap_or(registry.default_namespace());
    match registry.remove(&format!("{}.{namespace}", removal.function_name)) {
        true => Answer::status(StatusCode::ACCEPTED),
        false => Answer::plain(StatusCode::NOT_FOUND, "function not found\n"),
    }
}

/// `/system/function/NAME`
pub(crate) fn function(registry: &Registry, method: &Method, name: &str, namespace: Option<&str>) -> Answer {
    if method != Method::GET {
        return Answer::status(StatusCode::METHOD_NOT_ALLOWED);
    }
    match find(registry, name, namespace) {
        // One function alone is told without its count: that is mixed in from elsewhere into lists only.
        Some(deployed) => json(&FunctionStatus::of(&deployed, 0)),
        None => Answer::plain(StatusCode::NOT_FOUND, "function not found\n"),
    }
}

/// `/system/scale-function/NAME`
pub(crate) fn scale(
    registry: &Registry,
    method: &Method,
    name: &str,
    namespace: Option<&str>,
    body: &[u8],
) -> Answer {
    if method != Method::POST {
        return Answer::status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Ok(scaling) = serde_json::from_slice::<Scaling>(body) else {
        return Answer::plain(StatusCode::BAD_REQUEST, "cannot read the number of replicas\n");
    };
    match find(registry, name, namespace) {
        Some(deployed) => {
            deployed.scale(scaling.replicas.clamp(1, MAX_REPLICAS));
            Answer::status(StatusCode::ACCEPTED)
        }
        None => Answer::plain(StatusCode::NOT_FOUND, "function not found\n"),
    }
}

fn find(registry: &Registry, name: &str, namespace: Option<&str>) -> Option<std::sync::Arc<Deployed>> {
    match namespace.filter(|namespace| !namespace.is_empty()) {
        Some(namespace) => registry.find(&format!("{name}.{namespace}")),
        None => registry.find(name),
    }
}

/// `/system/namespaces`
pub(crate) fn namespaces(method: &Method, namespaces: &[String]) -> Answer {
    match *method {
        Method::GET => json(&namespaces),
        _ => Answer::status(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// `/system/info`
pub(crate) fn info(method: &Method) -> Answer {
    if method != Method::GET {
        return Answer::status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let version = serde_json::json!({ "sha": "none", "release": env!("CARGO_PKG_VERSION") });
    json(&serde_json::json!({
        "provider": { "provider": "evoke-demo", "version": version, "orchestration": "none" },
        "version": version,
        "arch": std::env::consts::ARCH,
    }))
}

fn json(value: &impl Serialize) -> Answer {
    let text =
        serde_json::to_vec(value).expect("strings, numbers and maps with string keys always serialize");
    Answer::ok(Bytes::from(text)).with_header(CONTENT_TYPE, "application/json")
}
