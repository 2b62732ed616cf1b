//! The environment variables of OpenFaaS' queue-worker and connectors, so that an existing manifest works as it is.
//!
//! | variable | sets |
//! |---|---|
//! | `gateway_url`, or `faas_gateway_address` and `faas_gateway_port` | `gateway.url` |
//! | `basic_auth` with `secret_mount_path` | `gateway.credentials` |
//! | `rebuild_interval` | `gateway.poll_interval` |
//! | `upstream_timeout` | `delivery.timeout` |
//! | `max_inflight` | `delivery.max_concurrency` |
//! | `max_retry_attempts`, `initial_retry_wait`, `max_retry_wait`, `retry_http_codes`, `backoff` | `delivery.retry` |
//!
//! The variables of a connector are its own to say (`inherited`).
//!
//! `ack_wait` is not an execution timeout: it was the lease of a message, and ours are not timed. It is passed over, with
//! a note. A variable that is set to nothing counts as not set, because charts write such ones.
//!
//! Source: the OpenFaaS contract, §1.2, §2.10 and §6.

use std::collections::BTreeMap;

use crate::duration::format_duration;
use crate::go_duration;
use crate::load::Note;
use crate::problem::Problem;
use crate::tree::{Node, Origin};

/// Where the secret is mounted when `secret_mount_path` does not say: the gateway's own default.
const SECRET_MOUNT_PATH: &str = "/run/secrets";

/// Sets what the variables say in the tree, but for sources.
pub(crate) fn apply(
    environment: &BTreeMap<String, String>,
    tree: &mut Node,
    problems: &mut Vec<Problem>,
) -> Vec<Note> {
    let mut layer = Layer { environment, tree, problems };
    layer.gateway();
    layer.credentials();

    // As written: our notation is theirs, or holds it.
    for (variable, key) in [
        ("max_retry_attempts", "delivery.retry.attempts"),
        ("retry_http_codes", "delivery.retry.codes"),
        ("backoff", "delivery.retry.backoff"),
        ("max_inflight", "delivery.max_concurrency"),
    ] {
        if let Some(value) = layer.get(variable) {
            layer.set(key, value, variable);
        }
    }

    for (variable, key, zero) in [
        ("rebuild_interval", "gateway.poll_interval", "0s"),
        ("initial_retry_wait", "delivery.retry.min_wait", "0s"),
        ("max_retry_wait", "delivery.retry.max_wait", "0s"),
        // In the SDK's client no timeout at all, and so it is here.
        ("upstream_timeout", "delivery.timeout", "none"),
    ] {
        layer.duration(variable, key, zero);
    }

    let ack_wait = layer.get("ack_wait").map(|_| Note {
        variable: "ack_wait".into(),
        why: "a call may run for as long as it takes; delivery.timeout is the key that limits it".into(),
    });
    ack_wait.into_iter().collect()
}

struct Layer<'a> {
    environment: &'a BTreeMap<String, String>,
    tree: &'a mut Node,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Layer<'a> {
    fn get(&self, variable: &str) -> Option<&'a str> {
        self.environment.get(variable).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn set(&mut self, key: &str, value: impl Into<String>, variable: &str) {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        let node = Node::loose(value, Origin::Environment(variable.into()));
        self.problems.extend(self.tree.set(&path, node, str::eq).err());
    }

    fn wrong(&mut self, variable: &str, key: &str, what: String, remedy: &str) {
        self.problems.push(Problem::new(Origin::Environment(variable.into()), key, what, remedy));
    }

    fn gateway(&mut self) {
        const KEY: &str = "gateway.url";
        // The flag of OpenFaaS' MQTT connector goes before the variable, there and here.
        for name in ["-gateway", "gateway_url"] {
            if let Some(url) = self.get(name) {
                self.set(KEY, url, name);
                return;
            }
        }
        let (address, port) = (self.get("faas_gateway_address"), self.get("faas_gateway_port"));
        let Some(variable) = address.map(|_| "faas_gateway_address").or(port.map(|_| "faas_gateway_port"))
        else {
            return;
        };
        match port.unwrap_or("8080").parse::<u16>() {
            Ok(port) => self.set(KEY, format!("http://{}:{port}", address.unwrap_or("gateway")), variable),
            Err(_) => self.wrong(
                "faas_gateway_port",
                KEY,
                format!("{:?} is not a port", port.unwrap_or_default()),
                "write a number such as 8080",
            ),
        }
    }

    fn credentials(&mut self) {
        match self.get("basic_auth") {
            Some("true" | "1") => {
                let (directory, variable) = match self.get("secret_mount_path") {
                    Some(directory) => (directory, "secret_mount_path"),
                    None => (SECRET_MOUNT_PATH, "basic_auth"),
                };
                let directory = directory.trim_end_matches('/');
                for (name, file) in
                    [("username_file", "basic-auth-user"), ("password_file", "basic-auth-password")]
                {
                    self.set(&format!("gateway.credentials.{name}"), format!("{directory}/{file}"), variable);
                }
            }
            None | Some("false" | "0") => {}
            Some(other) => self.wrong(
                "basic_auth",
                "gateway.credentials",
                format!("{other:?} is neither true nor false"),
                "write true or false",
            ),
        }
    }

    fn duration(&mut self, variable: &str, key: &str, zero: &str) {
        let Some(text) = self.get(variable) else { return };
        let parsed = match variable {
            // The gateway takes its timeouts as bare seconds, too.
            "upstream_timeout" => go_duration::parse_or_seconds(text),
            _ => go_duration::parse(text),
        };
        match parsed {
            Ok(duration) if duration.is_zero() => self.set(key, zero, variable),
            Ok(duration) => self.set(key, format_duration(duration), variable),
            Err(error) => self.wrong(
                variable,
                key,
                format!("{text:?} is not a duration: {error}"),
                "write a Go duration such as 30s or 1m30s",
            ),
        }
    }
}
