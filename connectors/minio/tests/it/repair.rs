//! What the real MinIO did not tell is found in its bucket.

use serde_json::{Value, json};
use testkit::servers::Port;
use testkit::servers::minio::{Minio, MinioConfig, PASSWORD, Target, USER};
use testkit::source::demand_for;
use testkit::time::eventually;

use crate::rig::{Data, PATIENCE, Rig};

fn settings(address: std::net::SocketAddr, minio: &Minio) -> Value {
    json!({
        "listen": address.to_string(), "token": "s3cret", "topics": ["photos"],
        "endpoint": minio.url(), "access_key": USER, "secret_key": PASSWORD,
        "repair": {"every": "500ms", "settle": "0s"},
    })
}

/// Waits until everything in the bucket so far lies behind the watermark.
async fn looked(data: &Data) {
    let before = data.watermark("photos").unwrap_or(0);
    eventually(PATIENCE, "another look", async || data.watermark("photos").unwrap_or(0) >= before + 2_000)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_made_while_nobody_was_told_are_found_once_and_marked() {
    let port = Port::reserve();
    let address = port.address();
    let target = Target::webhook("t", &format!("http://{address}/"), "s3cret");
    let minio = Minio::with(MinioConfig { targets: vec![target.clone()], ..MinioConfig::default() }).await;
    minio.create_bucket("photos").await;
    minio.put("photos", "before", "0").await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let data = Data::new();
    let rig = Rig::connected(settings(address, &minio), &data).await;
    minio.notify("photos", &target, &["s3:ObjectCreated:*"]).await;
    looked(&data).await;
    minio.put("photos", "live", "1").await;
    data.has(&["live"]).await;
    looked(&data).await;
    rig.stopped().await;

    // Without a queue directory the store forgets what it cannot send. More than one page.
    for n in 0..1005 {
        minio.put("photos", &format!("gap/{n:04}%20%2B"), "2").await;
    }
    let rig = Rig::connected(settings(address, &minio), &data).await;
    eventually(PATIENCE, "what was missed", async || data.keys().len() == 1006).await;
    looked(&data).await;

    let keys = data.keys();
    assert_eq!(keys.len(), 1006, "found once, and nothing that was told or is older");
    assert_eq!((keys[0].as_str(), keys[1005].as_str()), ("+gap/0000 +", "live"));
    minio.put("photos", "live%20again", "3").await;
    eventually(PATIENCE, "the way to be whole", async || data.keys().contains(&"live again".to_owned()))
        .await;
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_is_not_found_again_by_a_source_that_remembers_nothing() {
    let port = Port::reserve();
    let address = port.address();
    let target = Target::webhook("t", &format!("http://{address}/"), "s3cret");
    let minio = Minio::with(MinioConfig { targets: vec![target.clone()], ..MinioConfig::default() }).await;
    minio.create_bucket("photos").await;
    let data = Data::new();
    // It looks when it begins, and not again.
    let mut seldom = settings(address, &minio);
    seldom["repair"]["every"] = json!("1h");
    let rig = Rig::connected(seldom.clone(), &data).await;
    minio.notify("photos", &target, &["s3:ObjectCreated:*"]).await;
    eventually(PATIENCE, "the bucket to be followed", async || data.watermark("photos").is_some()).await;
    // The watermark counts in whole seconds, and lies before all that follows.
    let begun = data.watermark("photos").unwrap();
    for key in ["put", "in/a%20b%2B%C3%BC", "twice"] {
        minio.put("photos", key, "1").await;
    }
    // The same content again, and a copy onto itself, are made anew.
    minio.put("photos", "twice", "1").await;
    minio.copy("photos/put", "photos", "copied").await;
    minio.copy("photos/put", "photos", "put").await;
    eventually(PATIENCE, "all of it", async || data.events().len() == 6).await;
    rig.stopped().await;
    minio.put("photos", "away", "2").await;
    minio.put("photos", "twice", "1").await;

    let rig = Rig::connected(settings(address, &minio), &data).await;
    looked(&data).await;
    looked(&data).await;
    rig.stopped().await;

    assert!(data.watermark("photos").unwrap() > begun);
    let told = ["+away", "+twice", "copied", "in/a b+ü", "put", "put", "twice", "twice"];
    assert_eq!(data.keys(), told, "each creation once, and only what was not told is found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_followed_from_when_a_function_asks_for_it() {
    let port = Port::reserve();
    let minio = Minio::with(MinioConfig::default()).await;
    minio.create_bucket("photos").await;
    minio.put("photos", "before", "0").await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let data = Data::new();
    let mut seldom = settings(port.address(), &minio);
    (seldom["topics"], seldom["repair"]["every"]) = (json!("from-functions"), json!("1h"));
    let rig = Rig::connected(seldom.clone(), &data).await;

    rig.demand.send_replace(demand_for(&["photos"]));
    eventually(PATIENCE, "the bucket to be followed", async || data.watermark("photos").is_some()).await;
    rig.stopped().await;
    minio.put("photos", "away", "1").await;
    let rig = Rig::connected(settings(port.address(), &minio), &data).await;
    data.has(&["+away"]).await;
    rig.stopped().await;
}
