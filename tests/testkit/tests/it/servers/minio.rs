//! MinIO.

use hyper::{Method, StatusCode};
use testkit::servers::minio::{Minio, MinioConfig, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test]
async fn two_run_at_once_and_a_crash_or_a_restart_loses_no_object() {
    let mut minio: Minio = super::two_at_once::<MinioConfig>().await;
    minio.create_bucket("orders").await;
    minio.put("orders", "in/1.txt", "one").await;

    minio.kill();
    minio.start_again().await;
    minio.terminate();
    minio.start_again().await;

    assert_eq!(&minio.get("orders", "in/1.txt").await[..], b"one");
    minio.delete("orders", "in/1.txt").await;
    let (status, _) = minio.request(Method::GET, "/orders/in/1.txt", "", hyper::body::Bytes::new()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_bucket_notifies_a_target() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target =
        Target::webhook("evoke", &format!("http://{}/hook", listener.local_addr().unwrap()), "s3cret");
    let told = tokio::spawn(async move {
        // MinIO also connects to see whether the target is there: the first request with a body is the notification.
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let mut part = [0; 4096];
            while !request.windows(7).any(|end| end == b"in/1.tx") {
                match stream.read(&mut part).await.unwrap() {
                    0 => break,
                    read => request.extend(&part[..read]),
                }
            }
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            if !request.is_empty() {
                return String::from_utf8_lossy(&request).into_owned();
            }
        }
    });
    let minio = Minio::with(MinioConfig { targets: vec![target.clone()], ..MinioConfig::default() }).await;
    minio.create_bucket("orders").await;
    minio.notify("orders", &target, &["s3:ObjectCreated:*"]).await;

    minio.put("orders", "in/1.txt", "one").await;

    let request = told.await.unwrap();
    assert!(request.starts_with("POST /hook ") && request.contains("Bearer s3cret"), "{request}");
}

#[tokio::test]
async fn a_wrong_setting_is_named_when_it_does_not_start() {
    let environment = vec![("MINIO_ROOT_PASSWORD".to_owned(), "short".to_owned())];
    let config = MinioConfig { environment, ..MinioConfig::default() };

    super::says_why_it_does_not_start(config, "password").await;
}
