//! What no notification told: found by listing the bucket since its watermark.
//!
//! The watermark of a bucket is a time of the store's clock. Everything created before it was told, or found. It is kept
//! with the marks of positions, because it outlives the process there: a partition for each bucket, whose offset is that
//! time in milliseconds. A bucket without one has no past: what was in it before is not for us.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use connectors_sdk::{
    Partition, Positions, SourceContext, SourceError, SourceName, Upstream, Wishes, describe,
};
use tokio::sync::mpsc;
use tracing::warn;

use crate::client::{self, Client};
use crate::listing::{self, Object};
use crate::names;
use crate::settings::Endpoint;

/// How long one page may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// In every bucket that anybody asked for.
    Everywhere,
    /// Only for the time from which a bucket without a watermark is followed.
    Beginnings,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    /// An object made since the watermark.
    Object { bucket: String, object: Object },
    /// All of a bucket up to this time.
    Until { bucket: String, until: u64 },
    /// No more can be found now.
    Failed(String),
}

/// Looks for objects, and keeps the watermarks.
pub(crate) struct Repair {
    client: Client,
    bucket: Option<String>,
    source: SourceName,
    positions: Arc<dyn Positions>,
    since: BTreeMap<String, u64>,
}

impl Repair {
    /// Knows what was kept.
    pub(crate) async fn new(
        source: &SourceName,
        endpoint: &Endpoint,
        ctx: &SourceContext,
    ) -> Result<Self, SourceError> {
        let client = Client::new(source, endpoint, ctx).await?;
        Ok(Repair::with(client, endpoint, source, ctx))
    }

    /// With a client that is there.
    pub(crate) fn with(
        client: Client,
        endpoint: &Endpoint,
        source: &SourceName,
        ctx: &SourceContext,
    ) -> Self {
        let positions = ctx.positions.clone();
        let marks = positions.marks(Some(source));
        let since =
            marks.iter().filter_map(|mark| Some((mark.partition.stream().to_owned(), mark.committed?)));
        Repair {
            since: since.collect(),
            client,
            bucket: endpoint.bucket.clone(),
            source: source.clone(),
            positions,
        }
    }

    /// The watermark that is furthest behind.
    pub(crate) fn earliest(&self) -> u64 {
        self.since.values().copied().min().unwrap_or(0)
    }

    /// The buckets with a watermark.
    pub(crate) fn buckets(&self) -> Vec<String> {
        self.since.keys().cloned().collect()
    }

    /// Whether the bucket has a watermark.
    pub(crate) fn follows(&self, bucket: &str) -> bool {
        self.since.contains_key(bucket)
    }

    /// Lists buckets that anybody asked for, from their watermarks to `settle` ago or, without it, to what is there now.
    /// Dropping the receiver ends it.
    pub(crate) fn find(
        &self,
        look: Look,
        wishes: &Wishes,
        settle: Option<Duration>,
    ) -> mpsc::Receiver<Found> {
        let (tell, told) = mpsc::channel(64);
        let finding = Finding {
            client: self.client.clone(),
            bucket: self.bucket.clone(),
            look,
            wishes: wishes.clone(),
            since: self.since.clone(),
            settle: settle.map(|settle| u64::try_from(settle.as_millis()).unwrap_or(u64::MAX)),
            tell,
        };
        tokio::spawn(async move {
            if let Err(why) = finding.all().await {
                // Nobody may be left who wants to know.
                let _ = finding.tell.send(Found::Failed(why)).await;
            }
        });
        told
    }

    /// Everything of a bucket before this was told or found.
    pub(crate) async fn done(&mut self, bucket: &str, until: u64) {
        let known = self.since.get(bucket).copied();
        if known.is_some_and(|known| known >= until) {
            return;
        }
        let Ok(partition) = Partition::new(self.source.clone(), bucket, "", 0) else { return };
        let upstream = Upstream { committed: Some(until), earliest: 0, end: u64::MAX - 1 };
        match self.positions.take_up(&Arc::new(partition), upstream).await {
            Ok(_) => {
                self.since.insert(bucket.to_owned(), until);
            }
            // Behind is no harm: what was told is found again.
            Err(error) => warn!(%error, %bucket, "how far the bucket was read cannot be kept"),
        }
    }
}

/// One look through the buckets.
struct Finding {
    client: Client,
    bucket: Option<String>,
    look: Look,
    wishes: Wishes,
    since: BTreeMap<String, u64>,
    settle: Option<u64>,
    tell: mpsc::Sender<Found>,
}

impl Finding {
    async fn all(&self) -> Result<(), String> {
        let buckets = match &self.bucket {
            Some(bucket) => vec![bucket.clone()],
            None => listing::buckets(&self.asked(None, &[]).await?.0)?,
        };
        for bucket in buckets.into_iter().filter(|bucket| names::bucket_wanted(&self.wishes, bucket)) {
            if self.look == Look::Everywhere || !self.since.contains_key(&bucket) {
                self.one(bucket).await?;
            }
        }
        Ok(())
    }

    async fn one(&self, bucket: String) -> Result<(), String> {
        let since = self.since.get(&bucket).copied();
        let mut next: Option<String> = None;
        let mut until = None;
        loop {
            let mut query = Vec::new();
            // Sorted, as it is signed.
            query.extend(next.as_deref().map(|token| ("continuation-token", token)));
            query.extend([("encoding-type", "url"), ("list-type", "2")]);
            if since.is_none() {
                query.push(("max-keys", "1"));
            }
            let (page, date) = self.asked(Some(&bucket), &query).await?;
            let listed = listing::objects(&page)?;
            // The time of the first page: what comes while the others are read is for the next look.
            let until = *until.get_or_insert(date.saturating_sub(self.settle.unwrap_or(0)));
            let Some(since) = since else { break };
            // Its clock counts in whole seconds. What was made in this one, before the stream began, nobody else tells.
            let up_to = if self.settle.is_some() { until } else { u64::MAX };
            for object in listed.objects {
                if (since..up_to).contains(&object.modified) {
                    let found = Found::Object { bucket: bucket.clone(), object };
                    self.tell.send(found).await.map_err(|_| "nobody listens")?;
                }
            }
            next = listed.next;
            if next.is_none() {
                break;
            }
        }
        let until = until.unwrap_or_default();
        self.tell.send(Found::Until { bucket, until }).await.map_err(|_| "nobody listens".to_owned())
    }

    /// A whole answer, and the store's time when it began.
    async fn asked(&self, bucket: Option<&str>, query: &[(&str, &str)]) -> Result<(String, u64), String> {
        let answer = self.client.get(bucket, query, PATIENCE, "it does not answer").await;
        let answer = answer.map_err(|error| describe(&error).to_string())?;
        let date = client::date(&answer).ok_or("the answer has no date")?;
        match tokio::time::timeout(PATIENCE, answer.text()).await {
            Ok(Ok(text)) => Ok((text, date)),
            Ok(Err(error)) => Err(error.without_url().to_string()),
            Err(_) => Err("the answer does not end".to_owned()),
        }
    }
}
