//! Sources that are sent to: an upstream of theirs is whoever posts.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::StatusCode;

use crate::Bench;
use crate::evoke::{Evoke, Settings};
use crate::generator::{self, Load};
use crate::meter::{Cast, Part, follow};
use crate::plan::BODY;
use crate::source::{NAME, Source};

/// How many post at once.
const CONNECTIONS: usize = 64;

/// What shows that a sender may send.
const TOKEN: (&str, &str) = ("authorization", "Bearer s3cret");

/// Who posts to a source of a kind.
#[derive(Debug)]
pub(crate) struct Sender {
    /// What the function wants.
    topic: &'static str,
    path: &'static str,
    expected: StatusCode,
    body: fn(u64) -> Bytes,
    /// The source that listens there, in one line of YAML.
    source: fn(SocketAddr) -> String,
}

impl Sender {
    /// A plain sender that shows a token.
    pub(crate) const WEBHOOK: Sender = Sender {
        topic: "bench",
        path: "/bench",
        expected: StatusCode::ACCEPTED,
        body: generator::same,
        source: |listen| {
            let endpoint = "{ bench: { kind: token, secret: s3cret } }";
            format!("{{ webhook: {{ listen: \"{listen}\", endpoints: {endpoint} }} }}")
        },
    };

    /// A MinIO that tells of objects which are put into a bucket.
    pub(crate) const MINIO: Sender = Sender {
        topic: "photos",
        path: "/",
        expected: StatusCode::ACCEPTED,
        body: put,
        source: |listen| format!("{{ minio: {{ listen: \"{listen}\", token: s3cret }} }}"),
    };

    /// An address for it to listen on, and the source as it is configured then.
    pub(crate) fn source(&self) -> Result<(SocketAddr, String)> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free address")?;
        let address = free.local_addr()?;
        Ok((address, (self.source)(address)))
    }

    /// What the function wants.
    pub(crate) fn topic(&self) -> &'static str {
        self.topic
    }
}

impl Source {
    /// One sample of a source that is sent to.
    pub(crate) async fn sent_to(&mut self, bench: &Bench, all: u64, sender: Sender) -> Result<()> {
        let (address, source) = sender.source()?;
        bench.functions.wants(sender.topic).await?;
        let settings = Settings { sources: vec![(NAME, source)], ..Settings::default() };
        let Some(evoke) = Evoke::start(bench, settings).await? else {
            eprintln!();
            return Ok(());
        };
        evoke.pause().await?;
        evoke.connected(NAME).await?;
        let load = Load {
            address,
            path: sender.path,
            expected: sender.expected,
            connections: CONNECTIONS,
            headers: &[TOKEN],
            body: sender.body,
        };
        let cast = Cast::with(&[(Part::Server, evoke.process), (Part::Function, bench.functions.process)]);
        let before = evoke.ledger().await?;
        let (sample, posted) = tokio::join!(
            follow(all, &cast, async || evoke.taken(NAME).await, async |_| {}),
            generator::post(&load, all),
        );
        // Whoever posted knows better why nothing came.
        posted?;
        let sample = sample?;
        eprintln!(", Evoke {:.0}/s", sample.rate);
        let cpu_per_message = sample.cpu.server / sample.rate * 1e6;
        self.taken("posted over 64 connections", sample, cpu_per_message, evoke, all, before.commits).await
    }
}

/// The notification of an object, as long as every other body.
fn put(n: u64) -> Bytes {
    let key = format!("album/{n:08}.jpg");
    let record = serde_json::json!({
        "EventName": "s3:ObjectCreated:Put",
        "Key": format!("photos/{key}"),
        "Records": [{
            "eventVersion": "2.0",
            "eventSource": "minio:s3",
            "awsRegion": "",
            "eventTime": "2026-01-01T09:00:00.123Z",
            "eventName": "s3:ObjectCreated:Put",
            "userIdentity": { "principalId": "bench" },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "Config",
                "bucket": { "name": "photos", "arn": "arn:aws:s3:::photos" },
                "object": { "key": key.replace('/', "%2F"), "size": 5, "eTag": "e", "sequencer": format!("{n:016X}") },
            },
            "source": { "host": "127.0.0.1", "port": "", "userAgent": "bench" },
        }],
    });
    let mut text = record.to_string();
    // Blanks behind it mean nothing.
    text.extend(std::iter::repeat_n(' ', BODY.saturating_sub(text.len())));
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_as_long_as_every_body_and_another_for_each_object() {
        let read: serde_json::Value = serde_json::from_slice(&put(7)).unwrap();

        assert_eq!((put(7).len(), put(u64::MAX >> 12).len()), (BODY, BODY));
        assert_eq!(read["Records"][0]["s3"]["object"]["sequencer"], "0000000000000007");
        assert_ne!(put(7), put(8));
    }
}
