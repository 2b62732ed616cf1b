//! The connectors of this build, one cargo feature per line. Nowhere else is there a `cfg` for a connector.

use connectors_sdk::Connector;

/// Every connector, by kind.
pub const ALL: &[&dyn Connector] = &[
    #[cfg(feature = "cron")]
    &connectors_cron::Cron,
    #[cfg(feature = "kafka")]
    &connectors_kafka::Kafka,
    #[cfg(feature = "minio")]
    &connectors_minio::Minio,
    #[cfg(feature = "mqtt")]
    &connectors_mqtt::Mqtt,
    #[cfg(feature = "nats")]
    &connectors_nats::Nats,
    #[cfg(feature = "rabbitmq")]
    &connectors_rabbitmq::Rabbitmq,
    #[cfg(feature = "sqs")]
    &connectors_sqs::Sqs,
    #[cfg(feature = "webhook")]
    &connectors_webhook::Webhook,
];

/// The connector of this kind.
pub fn find(kind: &str) -> Option<&'static dyn Connector> {
    ALL.iter().copied().find(|connector| connector.kind() == kind)
}

/// The kinds there are, for whoever asked for another.
pub fn kinds() -> Vec<&'static str> {
    ALL.iter().map(|connector| connector.kind()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name_and_there_once() {
        let mut kinds = kinds();
        assert!(kinds.iter().all(|kind| find(kind).is_some_and(|found| found.kind() == *kind)));
        kinds.dedup();
        assert_eq!(kinds.len(), ALL.len());
        assert!(kinds.is_sorted());
        assert!(find("no-such-kind").is_none());
    }
}
