//! As much AMQP as tells that a RabbitMQ is up: from the greeting to an open virtual host.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

// Classes and methods of AMQP 0.9.1.
const START: (u16, u16) = (10, 10);
const TUNE: (u16, u16) = (10, 30);
const OPEN_OK: (u16, u16) = (10, 41);

/// Opens `/` as the guest.
pub(super) async fn opens_the_virtual_host(at: SocketAddr) -> Result<(), String> {
    let mut stream = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
    write(&mut stream, b"AMQP\x00\x00\x09\x01").await?;
    expect(&mut stream, START).await?;

    // Start-Ok: no properties, PLAIN, the credentials, a locale.
    let mut start_ok = vec![0, 10, 0, 11, 0, 0, 0, 0, 5];
    start_ok.extend(b"PLAIN\x00\x00\x00\x0c\x00guest\x00guest\x05en_US");
    send(&mut stream, &start_ok).await?;
    expect(&mut stream, TUNE).await?;

    // Tune-Ok: one channel, frames of 4 KiB, no heartbeats; then Open of `/`.
    send(&mut stream, &[0, 10, 0, 31, 0, 1, 0, 0, 16, 0, 0, 0]).await?;
    send(&mut stream, b"\x00\x0a\x00\x28\x01/\x00\x00").await?;
    expect(&mut stream, OPEN_OK).await?;

    // Close, so that the server has nothing to complain about.
    send(&mut stream, &[0, 10, 0, 50, 0, 200, 0, 0, 0, 0, 0]).await
}

async fn write(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), String> {
    stream.write_all(bytes).await.map_err(|error| error.to_string())
}

/// Sends a method on channel 0.
async fn send(stream: &mut TcpStream, method: &[u8]) -> Result<(), String> {
    let length = u32::try_from(method.len()).expect("a method of a few bytes");
    let mut frame = vec![1, 0, 0];
    frame.extend(length.to_be_bytes());
    frame.extend(method);
    frame.push(0xce);
    write(stream, &frame).await
}

/// Reads a method and says whether it is this one.
async fn expect(stream: &mut TcpStream, wanted: (u16, u16)) -> Result<(), String> {
    let mut head = [0; 7];
    stream.read_exact(&mut head).await.map_err(|error| error.to_string())?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]).min(1 << 20);
    let mut rest = vec![0; length as usize + 1];
    stream.read_exact(&mut rest).await.map_err(|error| error.to_string())?;
    let method = match rest.as_slice() {
        [a, b, c, d, ..] => (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
        _ => (0, 0),
    };
    if method == wanted { Ok(()) } else { Err(format!("it says {method:?} where {wanted:?} is due")) }
}
