//! A load on a schedule: each call is sent when it is due, whether or not those before it were answered.
//!
//! Latency counts from when a call was due, so a server that stalls is charged for every call it delayed, not only for
//! the one that was under way (no coordinated omission). The thread that keeps the schedule writes to the sockets
//! itself; handing over to a runtime would add a switch to every latency.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::plan::BODY;
use crate::schedule::{Schedule, now, sleep_until};

/// Enough that the next call on a connection comes long after the answer to the one before.
const CONNECTIONS: usize = 32;

/// Nothing takes longer to be answered, or something hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest head of an answer.
const HEAD: usize = 16 * 1024;

/// Posts every call of the schedule. Gives, for each call by its number, the time from when it was due to when
/// its answer was read, in nanoseconds. Blocks.
pub(crate) fn post(
    address: SocketAddr,
    path: &str,
    expected: u16,
    schedule: Schedule,
) -> Result<Vec<(u64, u64)>> {
    let mut writers = Vec::new();
    let mut readers = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        readers.push(stream.try_clone()?);
        writers.push(stream);
    }
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/octet-stream\r\ncontent-length: {BODY}\r\n\r\n"
    );
    std::thread::scope(|scope| {
        let readers: Vec<_> = readers
            .into_iter()
            .enumerate()
            .map(|(first, stream)| {
                scope.spawn(move || read_answers(stream, first as u64, expected, schedule))
            })
            .collect();
        let mut written = Ok(());
        let mut request = Vec::with_capacity(head.len() + BODY);
        for n in 0..schedule.count() {
            request.clear();
            request.extend_from_slice(head.as_bytes());
            write_stamp(&mut request, n, schedule.due_at(n));
            sleep_until(schedule.due_at(n));
            let writer = usize::try_from(n).unwrap_or_default() % CONNECTIONS;
            written = writers[writer].write_all(&request).with_context(|| format!("sending call {n}"));
            if written.is_err() {
                break;
            }
        }
        let mut latencies = Vec::with_capacity(usize::try_from(schedule.count()).unwrap_or_default());
        let mut failed = None;
        for reader in readers {
            match reader.join().map_err(|_| anyhow!("a reading thread panicked"))? {
                Ok(read) => latencies.extend(read),
                Err(error) => failed = Some(error),
            }
        }
        // What was answered says more than that a connection is gone.
        if let Some(error) = failed {
            return Err(error);
        }
        written?;
        Ok(latencies)
    })
}

/// Reads the answers to the calls `first`, `first + CONNECTIONS`, ... in order.
fn read_answers(
    mut stream: TcpStream,
    first: u64,
    expected: u16,
    schedule: Schedule,
) -> Result<Vec<(u64, u64)>> {
    let mut latencies = Vec::new();
    let (mut buffer, mut piece) = (Vec::new(), [0; 4096]);
    for n in (first..schedule.count()).step_by(CONNECTIONS) {
        let (answer, at) = loop {
            if let Some(answer) = Answer::in_front_of(&buffer)? {
                break (answer, now());
            }
            ensure!(buffer.len() < HEAD, "an answer without end");
            let read =
                stream.read(&mut piece).with_context(|| format!("waiting for the answer to call {n}"))?;
            ensure!(read > 0, "the connection ended before the answer to call {n}");
            buffer.extend_from_slice(&piece[..read]);
        };
        ensure!(answer.status == expected, "call {n} was answered {}, not {expected}", answer.status);
        buffer.drain(..answer.length);
        latencies.push((n, at.saturating_sub(schedule.due_at(n))));
    }
    Ok(latencies)
}

/// A whole answer at the beginning of what was read.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Head and body, in bytes.
    length: usize,
}

impl Answer {
    /// `None` until it is whole.
    fn in_front_of(read: &[u8]) -> Result<Option<Answer>> {
        let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let head = std::str::from_utf8(&read[..end]).context("an answer's head that is not text")?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let Some(status) = status else { bail!("not an answer of HTTP/1.1: {head:?}") };
        let body = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
        });
        let Some(body) = body else { bail!("an answer without Content-Length: {head:?}") };
        let length = end + 4 + body.context("a Content-Length that is no number")?;
        Ok((read.len() >= length).then_some(Answer { status, length }))
    }
}

/// Appends a body that says which call it is and when it was due.
fn write_stamp(request: &mut Vec<u8>, n: u64, due: u64) {
    let from = request.len();
    request.extend_from_slice(format!("{n:016x}{due:016x}").as_bytes());
    request.resize(from + BODY, b'x');
}

/// Which call a body says it is, and when it was due. `None` for any other body.
pub(crate) fn read_stamp(body: &[u8]) -> Option<(u64, u64)> {
    let hex = |range: std::ops::Range<usize>| {
        u64::from_str_radix(std::str::from_utf8(body.get(range)?).ok()?, 16).ok()
    };
    Some((hex(0..16)?, hex(16..32)?))
}

#[cfg(test)]
mod tests {
    use broker_demo_gateway::{DemoGateway, Function};

    use super::*;

    #[test]
    fn a_body_says_which_call_it_is_and_when_it_was_due() {
        let mut body = Vec::new();
        write_stamp(&mut body, 70_000, u64::MAX - 1);

        assert_eq!(body.len(), BODY);
        assert_eq!(read_stamp(&body), Some((70_000, u64::MAX - 1)));
        assert_eq!(read_stamp(b"hello"), None);
    }

    #[test]
    fn an_answer_is_read_when_it_is_whole() {
        let text = b"HTTP/1.1 202 Accepted\r\nX-Call-Id: 1\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200";
        let whole = text.len() - "HTTP/1.1 200".len();

        for cut in 0..whole {
            assert_eq!(Answer::in_front_of(&text[..cut]).unwrap(), None, "{cut} bytes");
        }
        assert_eq!(Answer::in_front_of(text).unwrap(), Some(Answer { status: 202, length: whole }));
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        assert!(Answer::in_front_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(Answer::in_front_of(b"SSH-2.0\r\n\r\n").is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn every_call_of_the_schedule_is_sent_once_and_answered() {
        let gateway = DemoGateway::start([Function::echo("echo")]).await.unwrap();
        let (address, count) = (gateway.addr(), 100);

        let latencies = tokio::task::spawn_blocking(move || {
            post(address, "/function/echo", 200, Schedule::soon(10_000, count))
        });

        assert_eq!(latencies.await.unwrap().unwrap().len(), 100);
        let mut calls: Vec<_> =
            gateway.calls("echo").iter().filter_map(|call| read_stamp(&call.body)).collect();
        calls.sort_unstable();
        let numbers: Vec<_> = calls.iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers, Vec::from_iter(0..count));
        assert!(calls.windows(2).all(|two| two[1].1 - two[0].1 == 100_000), "{calls:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn another_answer_than_expected_is_no_figure() {
        let gateway = DemoGateway::start([Function::fail("fail", 500)]).await.unwrap();
        let address = gateway.addr();

        let posted = tokio::task::spawn_blocking(move || {
            post(address, "/function/fail", 202, Schedule::soon(10_000, 3))
        });

        let error = posted.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("answered 500"), "{error:#}");
    }
}
