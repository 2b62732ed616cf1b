//! The webhook target of the real MinIO.

use std::sync::atomic::Ordering;

use serde_json::json;
use testkit::servers::Port;
use testkit::servers::minio::{Minio, MinioConfig, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::{Data, Rig};

/// A request as it is written; the whole answer.
async fn said(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn post(authorization: &str, body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: {authorization}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_in_a_bucket_arrives_with_its_headers_by_every_form_of_topic() {
    let port = Port::reserve();
    let address = port.address();
    let topics = ["photos:s3:ObjectCreated:*/in/*", "photos:s3:ObjectRemoved:Delete", "photos/out/b"];
    let data = Data::new();
    let rig =
        Rig::connected(json!({"listen": address.to_string(), "token": "s3cret", "topics": topics}), &data)
            .await;
    let target = Target::webhook("t", &format!("http://{address}/"), "s3cret");
    let minio = Minio::with(MinioConfig { targets: vec![target.clone()], ..MinioConfig::default() }).await;
    minio.create_bucket("photos").await;
    minio.notify("photos", &target, &["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]).await;

    minio.put("photos", "in/a%20b%2B%C3%BC.txt", "hello").await;
    minio.put("photos", "out/a", "not wanted").await;
    minio.put("photos", "out/b", "wanted by its key").await;
    minio.delete("photos", "out/a").await;
    data.has(&["in/a b+ü.txt", "out/a", "out/b"]).await;

    let events = data.events();
    let put = events.iter().find(|e| e.headers.text("x-s3-key") == Some("in/a b+ü.txt")).unwrap();
    assert_eq!(put.topic.as_str(), "photos:s3:ObjectCreated:Put/in/a b+ü.txt");
    assert_eq!(put.headers.text("x-s3-event-name"), Some("s3:ObjectCreated:Put"));
    assert_eq!(put.headers.text("x-s3-bucket"), Some("photos"));
    assert_eq!(put.headers.text("x-s3-size"), Some("5"));
    assert_eq!(put.headers.text("x-s3-etag"), Some("5d41402abc4b2a76b9719d911017c592"));
    assert!(put.headers.get("x-s3-sequencer").is_some() && put.time.is_some() && put.dedup.is_some());
    assert_eq!(put.cloud_event.as_ref().unwrap().kind.as_deref(), Some("com.amazonaws.s3.ObjectCreated:Put"));
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_queue_directory_nothing_is_lost_while_we_are_away_or_refuse() {
    let port = Port::reserve();
    let address = port.address();
    let queue = tempfile::tempdir().unwrap();
    let mut target = Target::webhook("t", &format!("http://{address}/"), "s3cret");
    target.settings.push(("QUEUE_DIR", queue.path().to_str().unwrap().to_owned()));
    let settings = json!({"listen": address.to_string(), "token": "s3cret", "topics": ["photos"]});
    let data = Data::new();
    let rig = Rig::connected(settings.clone(), &data).await;
    let minio = Minio::with(MinioConfig { targets: vec![target.clone()], ..MinioConfig::default() }).await;
    minio.create_bucket("photos").await;
    minio.notify("photos", &target, &["s3:ObjectCreated:*"]).await;
    minio.put("photos", "a", "1").await;
    data.has(&["a"]).await;

    rig.stopped().await;
    minio.put("photos", "b", "2").await;
    minio.put("photos", "c", "3").await;
    data.taken.refusing.store(true, Ordering::Relaxed);
    let rig = Rig::connected(settings, &data).await;
    testkit::time::eventually(crate::rig::PATIENCE, "a refusal", async || {
        let counts = rig.status().counts;
        if counts.refused > 0 { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    data.taken.refusing.store(false, Ordering::Relaxed);

    data.has(&["a", "b", "c"]).await;
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_token_is_refused_and_a_probe_is_answered() {
    let port = Port::reserve();
    let address = port.address();
    let data = Data::new();
    let settings = json!({"listen": address.to_string(), "token": "s3cret", "topics": ["photos"]});
    let rig = Rig::connected(settings, &data).await;

    let probe = said(address, "HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert!(probe.starts_with("HTTP/1.1 200"), "{probe}");
    let get = said(address, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert!(get.starts_with("HTTP/1.1 405"), "{get}");
    for wrong in ["Bearer other", "s3cre", ""] {
        let answer = said(address, &post(wrong, "{}")).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{wrong}: {answer}");
    }
    assert!(data.quarantined().is_empty());

    // With the token, what cannot be read is kept and acknowledged: the store would send it for ever.
    let kept = said(address, &post("Bearer s3cret", "{\"no\":1}")).await;
    assert!(kept.starts_with("HTTP/1.1 202"), "{kept}");
    assert_eq!(&data.quarantined()[0].raw[..], b"{\"no\":1}");

    data.taken.refusing.store(true, Ordering::Relaxed);
    let record = json!({"eventName": "s3:ObjectCreated:Put", "eventSource": "minio:s3",
        "s3": {"bucket": {"name": "photos"}, "object": {"key": "a", "sequencer": "1"}}});
    let body = json!({"Records": [record]}).to_string();
    let refused = said(address, &post("s3cret", &body)).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: "), "{refused}");
    data.taken.refusing.store(false, Ordering::Relaxed);
    let taken = said(address, &post("Bearer s3cret", &body)).await;
    assert!(taken.starts_with("HTTP/1.1 202"), "{taken}");
    data.has(&["a"]).await;
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_list_of_the_settings_leaves_events_out_and_they_are_counted() {
    let record = json!({"eventName": "s3:ObjectCreated:Put", "eventSource": "minio:s3",
        "s3": {"bucket": {"name": "photos"}, "object": {"key": "a", "sequencer": "1"}}});
    let body = json!({"Records": [record]}).to_string();
    for (topics, taken, unmatched) in
        [(json!("from-functions"), 1, 0), (json!(["photos"]), 1, 0), (json!(["videos"]), 0, 1)]
    {
        let port = Port::reserve();
        let data = Data::new();
        let settings = json!({"listen": port.address().to_string(), "token": "s3cret", "topics": topics});
        let rig = Rig::connected(settings, &data).await;
        let answer = said(port.address(), &post("s3cret", &body)).await;
        assert!(answer.starts_with("HTTP/1.1 202"), "{topics}: {answer}");
        let counts = rig.stopped().await.counts;
        assert_eq!((data.events().len(), counts.unmatched), (taken, unmatched), "{topics}");
    }
}
