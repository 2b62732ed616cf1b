//! The source under test, and its servers.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use connectors_rabbitmq::Rabbitmq;
use testkit::servers::rabbitmq::{RabbitMqSecure, RabbitMqUser};
use testkit::servers::{Certificates, RabbitMq, RabbitMqConfig, Shared};
use testkit::source::UnderTest;

pub(crate) const TASKS: UnderTest = UnderTest { connector: &Rabbitmq, name: "tasks" };

/// A virtual host beside the default one.
pub(crate) const ELSEWHERE: &str = "sales/eu";

/// Whoever may only read, in the default virtual host.
pub(crate) const READER: &str = "reader";

/// The certificates of the shared server.
pub(crate) static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(Certificates::new);

static SHARED: Shared<RabbitMqConfig> = Shared::new();

/// The server of all tests that neither restart nor trouble it. Queues are their own.
pub(crate) async fn shared() -> &'static RabbitMq {
    SHARED
        .server_with(|| RabbitMqConfig {
            secure: Some(RabbitMqSecure { client_certificates: true, ..RabbitMqSecure::with(&CERTIFICATES) }),
            virtual_hosts: vec![ELSEWHERE.to_owned()],
            users: vec![RabbitMqUser {
                name: READER.to_owned(),
                password: "r:/@".to_owned(),
                configure: String::new(),
                write: String::new(),
                read: ".*".to_owned(),
            }],
            ..RabbitMqConfig::default()
        })
        .await
}

/// A name that no other test has.
pub(crate) fn fresh(name: &str) -> String {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    format!("{name}-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}
