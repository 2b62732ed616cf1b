//! What a source means, as tests that every connector passes on its real upstream.
//!
//! A connector's tests implement [`Upstream`] and name it in [`source_contract!`](crate::source_contract), which makes one
//! test of each case. What a protocol cannot do it declares in its [`Capabilities`], and only by that declaration a case
//! asks for less: then losses must be counted, and nothing may come twice.

mod bench;
pub mod cases;
#[cfg(test)]
mod memory;

use async_trait::async_trait;
use bytes::Bytes;
use connectors_sdk::{Capabilities, Connector, Headers};
use serde_json::Value;

/// One message for an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Where it is published.
    pub topic: String,
    /// Header fields in the upstream's own form; none where the protocol has none.
    pub headers: Vec<(String, String)>,
    /// The payload.
    pub body: Bytes,
}

/// A real upstream, as the contract drives it.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// A new one, empty and ready.
    async fn start() -> Self
    where
        Self: Sized;

    /// The connector under test.
    fn connector(&self) -> &'static dyn Connector;

    /// What the protocol can do with [`Upstream::settings`].
    fn capabilities(&self) -> Capabilities;

    /// Settings for these topics, or for what functions ask for, with at most `in_flight` messages on their way and, where a
    /// source holds others, at most as many more.
    fn settings(&self, topics: Option<&[String]>, in_flight: usize) -> Value;

    /// Whether the source listens and this upstream comes to it: then nobody notices that the upstream is not there, and its
    /// outages are no gaps.
    fn comes_to_the_source(&self) -> bool {
        false
    }

    /// Whether the source hands over also what no function is known to want, for the broker to decide: it knows whether it
    /// has heard of all of them yet.
    fn leaves_it_to_the_broker(&self) -> bool {
        self.comes_to_the_source()
    }

    /// The settings of a second replica: the same, but for what must differ (a client id).
    fn settings_of_replica(&self, settings: Value) -> Value {
        settings
    }

    /// A topic of this upstream, made if need be; different for different numbers.
    async fn topic(&self, n: usize) -> String;

    /// Publishes, and returns when the upstream has all of them.
    async fn publish(&self, messages: &[Sent]);

    /// The header fields a function must see for a message, as an event carries them.
    fn expected(&self, sent: &Sent) -> Headers;

    /// Waits until the upstream will give a message of each of these topics, and of no other, to the source; of none: until
    /// the source has left.
    async fn listening(&self, topics: &[String]);

    /// Ends the upstream's process. What is published meanwhile waits for [`Upstream::up`].
    async fn down(&self);

    /// Starts it again, with its data.
    async fn up(&self);

    /// Breaks the connections of the source, not those of [`Upstream::publish`].
    async fn cut(&self);

    /// How many messages the upstream may forget; `None` where it has no acknowledgements.
    async fn acknowledged(&self) -> Option<u64>;

    /// Publishes something on this topic that cannot be made into an event; `false` where there is no such thing.
    async fn publish_unreadable(&self, topic: &str) -> bool;
}

/// How much a case does: `short` in CI, `long` where `EVOKE_SOAK` is set.
pub fn scale(short: u32, long: u32) -> u32 {
    if std::env::var_os("EVOKE_SOAK").is_some() { long } else { short }
}

/// Makes one test of each case of the contract for an [`Upstream`].
#[macro_export]
macro_rules! source_contract {
    ($upstream:ty) => {
        $crate::source_contract! { $upstream:
            delivers_bodies_and_headers_exactly
            takes_only_the_topics_it_is_told
            follows_what_functions_ask_for
            acknowledges_only_after_the_receipt
            offers_again_what_was_refused
            pushes_back_while_the_sink_hangs
            keeps_its_memory_bounded
            survives_restarts_of_its_upstream_under_load
            survives_cut_connections
            starts_before_its_upstream
            hands_over_what_it_holds_when_it_stops
            leaves_its_upstream_while_it_is_held
            keeps_what_it_cannot_read
            survives_thousands_of_malformed_messages
            waits_for_a_slow_broker
            repeats_nothing_already_received
            stops_while_everything_is_refused
            is_given_again_what_it_held_when_it_was_cut_off
            shares_the_work_between_replicas
        }
    };
    ($upstream:ty: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::contract::source::cases::$case::<$upstream>().await;
            }
        )*
    };
}
