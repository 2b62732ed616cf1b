//! Toxiproxy: a wire that can be slow, torn, narrow or silent.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use hyper::Method;
use serde_json::{Value, json};

use super::{Kind, Place, Port, Server, http, paths};
use crate::process::Program;

/// A Toxiproxy of this test. One serves any number of wires.
pub type Toxiproxy = Server<ToxiproxyConfig>;

/// There is nothing to choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToxiproxyConfig;

impl Toxiproxy {
    /// Puts a wire in front of a server.
    ///
    /// # Panics
    /// When Toxiproxy refuses.
    pub async fn wire(&self, to: SocketAddr) -> Wire {
        self.wire_on(Port::reserve(), to).await
    }

    /// As [`Server::wire`], on a port that was reserved before the server was there: Kafka wants to know the address
    /// it is reached at when it starts.
    ///
    /// # Panics
    /// When Toxiproxy refuses.
    pub async fn wire_on(&self, port: Port, to: SocketAddr) -> Wire {
        let wire = Wire { api: self.address(), path: format!("/proxies/{}", port.number()), port };
        let proxy = json!({
            "name": wire.port.number().to_string(),
            "listen": wire.address().to_string(),
            "upstream": to.to_string(),
            "enabled": true,
        });
        wire.tell(Method::POST, "/proxies", &proxy).await;
        wire
    }
}

/// A wire to a server.
pub struct Wire {
    api: SocketAddr,
    path: String,
    port: Port,
}

/// Which way a toxic works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

impl Wire {
    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Breaks all connections, and refuses new ones until [`Wire::mend`].
    ///
    /// # Panics
    /// When Toxiproxy refuses.
    pub async fn cut(&self) {
        self.tell(Method::POST, &self.path, &json!({ "enabled": false })).await;
    }

    /// Lets connections in again, and takes all toxics away.
    ///
    /// # Panics
    /// When Toxiproxy refuses.
    pub async fn mend(&self) {
        let toxics = self.tell(Method::GET, &format!("{}/toxics", self.path), &Value::Null).await;
        for toxic in toxics.as_array().into_iter().flatten() {
            let name = toxic["name"].as_str().unwrap_or_default();
            self.tell(Method::DELETE, &format!("{}/toxics/{name}", self.path), &Value::Null).await;
        }
        self.tell(Method::POST, &self.path, &json!({ "enabled": true })).await;
    }

    /// Adds a toxic in Toxiproxy's own words: `latency` with `{"latency": 100}` (ms), `timeout` with `{"timeout": 0}` (all
    /// bytes vanish), `bandwidth` with `{"rate": 10}` (KB/s), `reset_peer` with `{"timeout": 0}`, `limit_data` with
    /// `{"bytes": 1000}`, `slicer`, `slow_close`.
    ///
    /// # Panics
    /// When Toxiproxy refuses.
    pub async fn poison(&self, kind: &str, direction: Direction, attributes: Value) {
        static TOXICS: AtomicU64 = AtomicU64::new(0);
        let name = format!("{kind}-{}", TOXICS.fetch_add(1, Ordering::Relaxed));
        let stream = match direction {
            Direction::ToServer => "upstream",
            Direction::ToClient => "downstream",
        };
        let toxic = json!({ "name": name, "type": kind, "stream": stream, "attributes": attributes });
        self.tell(Method::POST, &format!("{}/toxics", self.path), &toxic).await;
    }

    /// Nothing gets through any more in either direction, on connections that stay open, until [`Wire::mend`].
    ///
    /// # Panics
    /// When Toxiproxy refuses.
    pub async fn silence(&self) {
        self.poison("timeout", Direction::ToServer, json!({ "timeout": 0 })).await;
        self.poison("timeout", Direction::ToClient, json!({ "timeout": 0 })).await;
    }

    async fn tell(&self, method: Method, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let told = http::asked_well(self.api, method, path, &[("content-type", "application/json")], body);
        let answer = told.await.unwrap_or_else(|error| panic!("toxiproxy refuses: {error}"));
        serde_json::from_slice(&answer).unwrap_or_default()
    }
}

#[async_trait]
impl Kind for ToxiproxyConfig {
    const NAME: &'static str = "toxiproxy";

    fn ports(&self) -> Vec<&'static str> {
        vec!["api"]
    }

    fn program(&self, place: &Place) -> Result<Program, String> {
        let server = paths(Self::NAME)?.remove(0).join("toxiproxy");
        Ok(Program::new(server)
            .arguments(["-host", "127.0.0.1", "-port", &place.port("api").to_string()])
            .directory(place.folder())
            .errors(|_| false))
    }

    async fn is_ready(&self, place: &Place) -> Result<(), String> {
        http::asked_well(place.address("api"), Method::GET, "/version", &[], "").await.map(drop)
    }
}
