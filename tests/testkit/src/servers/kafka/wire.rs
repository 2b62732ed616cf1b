//! The few questions that tell whether a Kafka is ready, in the oldest version of each that it still speaks.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection of the listener that asks nothing.
pub(super) struct Wire(TcpStream);

/// What a request is about. Not the name of anything that is made.
const NAME: &str = "is-it-ready";

// The API keys, and what coordinators answer once they work: they do not know whom we ask about.
const METADATA: i16 = 3;
const CREATE_TOPICS: i16 = 19;
const API_VERSIONS: i16 = 18;
const FIND_COORDINATOR: i16 = 10;
const HEARTBEAT: i16 = 12;
const INIT_PRODUCER_ID: i16 = 22;
const END_TXN: i16 = 26;
const UNKNOWN_MEMBER_ID: i16 = 25;
const INVALID_PRODUCER_ID_MAPPING: i16 = 49;

impl Wire {
    pub(super) async fn connect(at: SocketAddr) -> Result<Wire, String> {
        TcpStream::connect(at).await.map(Wire).map_err(|error| error.to_string())
    }

    pub(super) async fn api_versions(&mut self) -> Result<(), String> {
        let mut answer = self.ask(API_VERSIONS, 0, Body::default()).await?;
        expect(answer.short()?, 0, "ApiVersions")
    }

    pub(super) async fn could_create_a_topic(&mut self) -> Result<(), String> {
        self.create(NAME, 1, &[], true).await
    }

    pub(super) async fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Result<(), String> {
        self.create(name, partitions, settings, false).await
    }

    async fn create(
        &mut self,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
        only_validate: bool,
    ) -> Result<(), String> {
        let mut body = Body::default();
        body.int(1).string(name).int(partitions).short(1 /* replica */).int(0 /* chosen places */);
        body.int(i32::try_from(settings.len()).expect("a few settings"));
        for (key, value) in settings {
            body.string(key).string(value);
        }
        body.int(30_000).byte(only_validate.into());
        let mut answer = self.ask(CREATE_TOPICS, 2, body).await?;
        let (_throttled, _topics, _name) = (answer.int()?, answer.int()?, answer.string()?);
        expect(answer.short()?, 0, "CreateTopics")
    }

    /// The names of all topics but the broker's own.
    pub(super) async fn topics(&mut self) -> Result<Vec<String>, String> {
        let mut body = Body::default();
        body.int(-1 /* all */);
        let mut answer = self.ask(METADATA, 1, body).await?;
        for _ in 0..answer.int()? {
            let _node = answer.int()?;
            answer.string()?;
            let _port = answer.int()?;
            answer.string()?;
        }
        let _controller = answer.int()?;
        let mut topics = Vec::new();
        for _ in 0..answer.int()? {
            let _error = answer.short()?;
            let name = answer.string()?;
            let internal = answer.byte()? != 0;
            for _ in 0..answer.int()? {
                let (_error, _partition, _leader) = (answer.short()?, answer.int()?, answer.int()?);
                for _lists in ["replicas", "in sync"] {
                    for _ in 0..answer.int()? {
                        answer.int()?;
                    }
                }
            }
            if !internal {
                topics.push(name);
            }
        }
        Ok(topics)
    }

    pub(super) async fn has_producer_ids(&mut self) -> Result<(), String> {
        let mut body = Body::default();
        body.short(-1 /* no transactional id */).int(5_000);
        let mut answer = self.ask(INIT_PRODUCER_ID, 0, body).await?;
        let _throttled = answer.int()?;
        expect(answer.short()?, 0, "InitProducerId")
    }

    pub(super) async fn coordinates_groups(&mut self) -> Result<(), String> {
        self.find_coordinator(0).await?;
        let mut body = Body::default();
        body.string(NAME).int(0).string(NAME);
        let mut answer = self.ask(HEARTBEAT, 0, body).await?;
        expect(answer.short()?, UNKNOWN_MEMBER_ID, "Heartbeat")
    }

    pub(super) async fn coordinates_transactions(&mut self) -> Result<(), String> {
        self.find_coordinator(1).await?;
        let mut body = Body::default();
        body.string(NAME).int(0).int(0).short(0).byte(0 /* abort */);
        let mut answer = self.ask(END_TXN, 0, body).await?;
        let _throttled = answer.int()?;
        expect(answer.short()?, INVALID_PRODUCER_ID_MAPPING, "EndTxn")
    }

    /// Also has the coordinator's own topic made, if it is not there.
    async fn find_coordinator(&mut self, kind: u8) -> Result<(), String> {
        let mut body = Body::default();
        body.string(NAME).byte(kind);
        let mut answer = self.ask(FIND_COORDINATOR, 1, body).await?;
        let _throttled = answer.int()?;
        expect(answer.short()?, 0, "FindCoordinator")
    }

    async fn ask(&mut self, api: i16, version: i16, body: Body) -> Result<Answer, String> {
        let mut request = Body::default();
        request.short(api).short(version).int(1 /* correlation */).string("testkit");
        request.0.extend(body.0);
        self.exchange(&request.0).await.map_err(|error| format!("no answer to request {api}: {error}"))
    }

    async fn exchange(&mut self, request: &[u8]) -> std::io::Result<Answer> {
        let length = u32::try_from(request.len()).expect("a request of a few bytes");
        self.0.write_all(&length.to_be_bytes()).await?;
        self.0.write_all(request).await?;
        let length = self.0.read_u32().await?;
        let mut answer = vec![0; usize::try_from(length).unwrap_or_default().min(1 << 20)];
        self.0.read_exact(&mut answer).await?;
        let mut answer = Answer(answer.into());
        let _correlation = answer.int().map_err(std::io::Error::other)?;
        Ok(answer)
    }
}

fn expect(code: i16, wanted: i16, request: &str) -> Result<(), String> {
    if code == wanted { Ok(()) } else { Err(format!("error code {code} for {request}")) }
}

#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn byte(&mut self, value: u8) -> &mut Body {
        self.0.push(value);
        self
    }

    fn short(&mut self, value: i16) -> &mut Body {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn int(&mut self, value: i32) -> &mut Body {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn string(&mut self, value: &str) -> &mut Body {
        self.short(i16::try_from(value.len()).expect("a short name"));
        self.0.extend(value.as_bytes());
        self
    }
}

struct Answer(std::collections::VecDeque<u8>);

impl Answer {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.0.pop_front().ok_or("an answer that is too short")?;
        }
        Ok(bytes)
    }

    fn short(&mut self) -> Result<i16, String> {
        self.take().map(i16::from_be_bytes)
    }

    fn int(&mut self) -> Result<i32, String> {
        self.take().map(i32::from_be_bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.take().map(u8::from_be_bytes)
    }

    /// Nothing is an empty one.
    fn string(&mut self) -> Result<String, String> {
        let length = usize::try_from(self.short()?).unwrap_or_default();
        if self.0.len() < length {
            return Err("an answer that is too short".into());
        }
        String::from_utf8(self.0.drain(..length).collect()).map_err(|error| error.to_string())
    }
}
