//! What Mosquitto says it did, read from its log: nothing else tells what a session is subscribed to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use tempfile::TempDir;
use testkit::servers::{Mosquitto, MosquittoConfig};

/// Where it writes, and what it said so far.
pub(crate) struct ServerLog {
    folder: TempDir,
    read: u64,
    /// The beginning of a line whose end is not there yet.
    rest: String,
    clients: BTreeMap<String, Client>,
}

/// One client, over all its connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    pub(crate) connected: bool,
    /// It took leave, instead of only being gone.
    pub(crate) took_leave: bool,
    /// Filters as they were asked for, without the group.
    pub(crate) subscriptions: BTreeSet<String>,
    /// Messages it acknowledged: PUBACK or PUBREC.
    pub(crate) acknowledged: u64,
    /// Messages it was sent, those sent again included.
    pub(crate) sent: u64,
}

impl ServerLog {
    pub(crate) fn new() -> ServerLog {
        ServerLog { folder: TempDir::new().unwrap(), read: 0, rest: String::new(), clients: BTreeMap::new() }
    }

    /// A server that writes here.
    pub(crate) async fn server(&self, config: MosquittoConfig) -> Mosquitto {
        let more = format!("{}\nlog_dest file {}\nlog_type all\n", config.more, self.path().display());
        Mosquitto::with(MosquittoConfig { more: format!("{more}connection_messages true\n"), ..config }).await
    }

    /// What is known of a client by now.
    pub(crate) fn client(&mut self, id: &str) -> Client {
        self.read_on();
        self.clients.get(id).cloned().unwrap_or_default()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mosquitto.log")
    }

    fn read_on(&mut self) {
        let Ok(mut file) = std::fs::File::open(self.path()) else { return };
        file.seek(SeekFrom::Start(self.read)).unwrap();
        let mut bytes = Vec::new();
        self.read += file.read_to_end(&mut bytes).unwrap() as u64;
        let text = std::mem::take(&mut self.rest) + &String::from_utf8_lossy(&bytes);
        let (lines, rest) = text.rsplit_once('\n').unwrap_or(("", &text));
        lines.lines().for_each(|line| self.hear(line));
        self.rest = rest.to_owned();
    }

    fn hear(&mut self, line: &str) {
        let Some((_, said)) = line.split_once(": ") else { return };
        let words: Vec<&str> = said.split(' ').collect();
        match words[..] {
            ["New", "client", "connected", "from", _, "as", id, _, clean, ..] => {
                let client = self.clients.entry(id.to_owned()).or_default();
                client.connected = true;
                client.took_leave = false;
                if clean == "c1," {
                    client.subscriptions.clear();
                }
            }
            ["Client", id, "disconnected."] => {
                let client = self.clients.entry(id.to_owned()).or_default();
                (client.connected, client.took_leave) = (false, true);
            }
            ["Client", id, "closed", ..]
            | ["Client", id, "has", "exceeded", "timeout,", ..]
            | ["Socket", "error", "on", "client", id, ..] => {
                self.clients.entry(id.trim_end_matches(',').to_owned()).or_default().connected = false;
            }
            ["Received", "PUBACK" | "PUBREC", "from", id, ..] => {
                self.clients.entry(id.to_owned()).or_default().acknowledged += 1;
            }
            ["Sending", "PUBLISH", "to", id, ..] => self.clients.entry(id.to_owned()).or_default().sent += 1,
            // Of subscriptions and their ends: `<id> <qos> <filter>`, `<id> <filter>`.
            [id, "0" | "1" | "2", filter] => {
                let filter = unshared(filter).to_owned();
                self.clients.entry(id.to_owned()).or_default().subscriptions.insert(filter);
            }
            [id, filter] if !id.starts_with('\t') => {
                if let Some(client) = self.clients.get_mut(id) {
                    client.subscriptions.remove(unshared(filter));
                }
            }
            _ => {}
        }
    }
}

fn unshared(filter: &str) -> &str {
    filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')).map_or(filter, |(_, filter)| filter)
}
