//! The settings of a RabbitMQ source. `reference.yaml` holds each of them with its meaning.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use connectors_sdk::{Common, Reader, Secret, SettingsError, SourceName, Tls, Topics};

use crate::Rabbitmq;
use crate::address::{self, Address, Said};
use crate::declaration::{self, Declaration};

/// The settings of one source.
#[derive(Clone, Debug)]
pub(crate) struct RabbitmqSettings {
    /// The servers, in the order in which they are tried.
    pub(crate) addresses: Vec<Address>,
    pub(crate) virtual_host: String,
    pub(crate) common: Common,
    /// The queues that are ours to make.
    pub(crate) declared: BTreeMap<String, Declaration>,
    /// Whether a message's id makes it recognisable.
    pub(crate) deduplicate: bool,
    pub(crate) client_name: String,
    pub(crate) tls: Option<Tls>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) connect_timeout: Duration,
    pub(crate) heartbeat: Duration,
}

/// How we say who we are.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) username: Secret,
    pub(crate) password: Secret,
}

impl RabbitmqSettings {
    /// Reads them.
    pub(crate) fn read(name: &SourceName, settings: Value) -> Result<Self, SettingsError> {
        let mut at = Reader::new(settings);
        let settings = Self::from_reader(name, &mut at);
        at.finish(|| settings)
    }

    /// `None` when something required is missing; what else is wrong is noted in the reader.
    pub(crate) fn from_reader(name: &SourceName, at: &mut Reader) -> Option<Self> {
        let urls: Option<Vec<String>> = at.required("url", "\"amqp://127.0.0.1:5672/%2f\"");
        let tls = at.table("tls", Tls::read);
        let servers: Vec<(Address, Said)> =
            urls.iter().flatten().filter_map(|url| address::read(at, url, tls.is_some())).collect();
        let (addresses, said): (Vec<Address>, Vec<Said>) = servers.into_iter().unzip();
        let said = one_said(at, said);
        let topics_are_listed = at.is_set("topics");
        let mut common = Common::read(at, name, &Rabbitmq, declaration::check);
        let declared = declared(at, &mut common, topics_are_listed);
        let deduplicate = at.or("deduplicate", true);
        let client_name = at.or("client_name", "evoke".to_owned());
        let credentials = credentials(at, said.as_ref().and_then(|said| said.login.clone()));
        let connect_timeout = at.or("connect_timeout", Duration::from_secs(5));
        if connect_timeout.is_zero() {
            at.refuse("connect_timeout", "it is nothing", "write a duration such as 5s");
        }
        let heartbeat = at.or("heartbeat", Duration::from_secs(20));
        if heartbeat.subsec_nanos() != 0 || !(1..=u64::from(u16::MAX)).contains(&heartbeat.as_secs()) {
            at.refuse(
                "heartbeat",
                "it is no number of whole seconds from 1s",
                "write a duration such as 20s",
            );
        }
        urls?;
        Some(RabbitmqSettings {
            addresses,
            virtual_host: said.map_or_else(|| "/".to_owned(), |said| said.virtual_host),
            common,
            declared,
            deduplicate,
            client_name,
            tls,
            credentials,
            connect_timeout,
            heartbeat,
        })
    }

    /// The servers, for people.
    pub(crate) fn upstream(&self) -> String {
        let at = |Address { host, port, secure }: &Address| {
            let scheme = if *secure { "amqps" } else { "amqp" };
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            format!("{scheme}://{host}:{port}")
        };
        let servers: Vec<String> = self.addresses.iter().map(at).collect();
        format!("{} (virtual host {})", servers.join(", "), self.virtual_host)
    }
}

/// What all addresses say together.
fn one_said(at: &mut Reader, mut said: Vec<Said>) -> Option<Said> {
    said.dedup();
    if said.len() > 1 {
        at.refuse(
            "url",
            "the addresses differ in their virtual host or credentials",
            "write the servers of one cluster; another virtual host is another source",
        );
    }
    said.pop()
}

/// The queues that are ours to make: those described under `queues`, and those of a list of topics. What only functions ask
/// for may be another source's.
fn declared(at: &mut Reader, common: &mut Common, topics_are_listed: bool) -> BTreeMap<String, Declaration> {
    let declare = at.or("declare", false);
    let queues = declaration::read(at);
    if !declare && !queues.is_empty() {
        at.refuse(
            "queues",
            "it says how queues are made, and declare is not true",
            "write declare: true, or list the names under topics",
        );
    }
    if !topics_are_listed && !queues.is_empty() {
        common.topics = Topics::List(queues.iter().map(|(name, _)| name.clone()).collect());
    }
    let mut declared: BTreeMap<String, Declaration> = queues.into_iter().collect();
    if let (true, Topics::List(names)) = (declare, &common.topics) {
        for name in names {
            declared.entry(name.clone()).or_default();
        }
    }
    declared
}

fn credentials(at: &mut Reader, in_url: Option<(String, String)>) -> Option<Credentials> {
    const KEY: &str = "credentials";
    let written = at.table(KEY, |at| match (at.secret("username"), at.secret("password")) {
        (Some(username), Some(password)) => Some(Credentials { username, password }),
        (Some(_), None) => {
            at.refuse("password", "username is set without it", "write password_file");
            None
        }
        (None, Some(_)) => {
            at.refuse("username", "password is set without it", "write username");
            None
        }
        (None, None) => None,
    });
    let in_url = in_url.map(|(username, password)| Credentials {
        username: Secret::Inline(username.into()),
        password: Secret::Inline(password.into()),
    });
    match (written.flatten(), in_url) {
        (Some(_), Some(_)) => {
            at.refuse(KEY, "there are others within url", "keep one of the two, best the files");
            None
        }
        (written, in_url) => written.or(in_url),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use connectors_sdk::WindowLimits;

    use super::*;

    testkit::settings_reference!(
        "../reference.yaml",
        "tasks",
        "rabbitmq",
        RabbitmqSettings::from_reader,
        json!({"url": "amqp://127.0.0.1:5672/%2f"})
    );

    fn read(settings: Value) -> Result<RabbitmqSettings, SettingsError> {
        RabbitmqSettings::read(&SourceName::parse("tasks").unwrap(), settings)
    }

    fn keys(settings: Value) -> Vec<String> {
        read(settings).unwrap_err().problems.into_iter().map(|problem| problem.key).collect()
    }

    fn listed(settings: &RabbitmqSettings) -> Vec<&str> {
        match &settings.common.topics {
            Topics::FromFunctions => Vec::new(),
            Topics::List(names) => names.iter().map(String::as_str).collect(),
        }
    }

    #[test]
    fn an_address_is_enough() {
        let settings = read(json!({"url": "amqp://guest:guest@127.0.0.1:5672/%2f"})).unwrap();

        assert_eq!(settings.common.topics, Topics::FromFunctions);
        assert_eq!(settings.common.in_flight, WindowLimits::default());
        assert!(settings.declared.is_empty(), "nothing is made");
        assert_eq!(settings.upstream(), "amqp://127.0.0.1:5672 (virtual host /)");
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let found = keys(json!({
            "url": ["http://h", "amqp://h"],
            "topics": ["orders.*", "a"],
            "queues": [{"name": "a"}, {"type": "stream"}],
            "tls": {"cert_file": "/c.pem"},
            "credentials": {"username": "u"},
            "connect_timeout": "0s",
            "heartbeat": "1500ms",
            "prefetch": 3,
        }));

        assert_eq!(
            found,
            [
                "tls.key_file",
                "url",
                "topics[0]",
                "queues[1].name",
                "queues[1].type",
                "queues",
                "credentials.password",
                "connect_timeout",
                "heartbeat",
                "prefetch"
            ]
        );
    }

    #[test]
    fn credentials_in_an_address_are_taken_out_of_it() {
        let settings = read(json!({"url": "amqp://joe:p%40ss@h"})).unwrap();

        assert!(settings.credentials.is_some());
        assert!(!settings.upstream().contains("joe") && !format!("{settings:?}").contains("p@ss"));
        assert_eq!(
            keys(json!({"url": "amqp://a:b@h", "credentials": {"username": "c", "password": "d"}})),
            ["credentials"]
        );
    }

    #[test]
    fn servers_of_one_cluster_agree() {
        let settings = read(json!({"url": ["amqp://a/v", "amqps://b/v", "amqp://[::1]/v"]})).unwrap();
        assert_eq!(settings.upstream(), "amqp://a:5672, amqps://b:5671, amqp://[::1]:5672 (virtual host v)");
        assert_eq!(keys(json!({"url": ["amqp://a/v", "amqp://b/w"]})), ["url"]);
    }

    #[test]
    fn queues_to_make_are_those_to_listen_to_unless_topics_say_otherwise() {
        let queues = json!([{"name": "a", "type": "quorum"}, {"name": "b"}]);
        let both = read(json!({"url": "h", "declare": true, "queues": queues})).unwrap();
        assert_eq!(listed(&both), ["a", "b"]);

        let from_functions =
            read(json!({"url": "h", "declare": true, "queues": queues, "topics": "from-functions"})).unwrap();
        assert_eq!(from_functions.common.topics, Topics::FromFunctions);
        assert_eq!(from_functions.declared.keys().collect::<Vec<_>>(), ["a", "b"]);

        let listed_topics =
            read(json!({"url": "h", "declare": true, "queues": queues, "topics": ["b", "c"]})).unwrap();
        assert_eq!(listed(&listed_topics), ["b", "c"]);
        assert_eq!(listed_topics.declared.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(listed_topics.declared["c"], Declaration::default());
    }

    #[test]
    fn what_openfaas_connector_understands_is_a_source() {
        let inherits = connectors_sdk::Connector::inherits(&Rabbitmq);
        let mut at = Reader::new(json!({}));
        let _ = RabbitmqSettings::from_reader(&SourceName::parse("tasks").unwrap(), &mut at);
        let known: Vec<&str> = at.known().collect();
        assert!(inherits.variables.iter().all(|variable| known.contains(&variable.key)));
        assert!(inherits.defaults.iter().all(|(key, _)| known.contains(key)));

        // As its chart writes it; without queues it has none.
        let entry =
            json!({"name": "q1", "durable": true, "nowait": false, "autodelete": false, "exclusive": false});
        let chart =
            |queues| read(json!({"url": "amqp://rabbitmq:5672", "declare": true, "queues": queues})).unwrap();
        assert_eq!(listed(&chart(json!([entry]))), ["q1"]);
        assert!(chart(json!([])).declared.is_empty());
    }

    #[test]
    fn what_only_functions_ask_for_is_never_made() {
        assert!(read(json!({"url": "h", "declare": true})).unwrap().declared.is_empty());
    }
}
