//! Envelopes signed by OpenSSL in the form of SNS (`tests/captures/sns`), and a stand-in for its host over TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use connectors_sdk::{EventForm, SourceName, Wildcards};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::endpoint::{Endpoint, Kind};

const ARN: &str = "arn:aws:sns:eu-west-1:123456789012:orders";
const HOST: &str = "sns.eu-west-1.amazonaws.com";
const CERTIFICATE: &[u8] = include_bytes!("../../tests/captures/sns/certificate.pem");
const VERSIONS: [&str; 2] = [
    include_str!("../../tests/captures/sns/version-1.json"),
    include_str!("../../tests/captures/sns/version-2.json"),
];

/// Answers whatever it is asked with one body.
struct Stand {
    certificates: Bytes,
    asked: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Fetch for Stand {
    async fn get(&self, url: &Url, _: Duration) -> Result<Bytes, Cause> {
        self.asked.lock().unwrap().push(url.to_string());
        Ok(self.certificates.clone())
    }
}

fn stand(certificates: impl Into<Bytes>) -> (Sns, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    (Sns::new(Stand { certificates: certificates.into(), asked: asked.clone() }), asked)
}

fn published_at() -> Timestamp {
    moment("2026-04-26T20:45:04.751Z").unwrap()
}

/// Gives a request to an endpoint with these settings.
async fn asked(
    sns: &Sns,
    more: Value,
    headers: HeaderMap,
    body: &str,
    now: Timestamp,
) -> Result<Brought, Denied> {
    let mut settings = json!({"kind": "sns", "arn": ARN});
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut at = Reader::new(settings);
    let endpoint = Endpoint::read("sns", "/", &mut at);
    let endpoint = at.finish(|| endpoint).unwrap();
    let Kind::Sns(rules) = &endpoint.kind else { panic!("{endpoint:?}") };
    let name = SourceName::parse("hooks").unwrap();
    let form = EventForm::read(&mut Reader::new(json!({})), &name, "webhook", Wildcards::Glob);
    admit(rules, &headers).await?;
    let body = Bytes::copy_from_slice(body.as_bytes());
    let request =
        Request { form: &form, endpoint: &endpoint, path: "sns", query: None, headers: &headers, body };
    sns.read(rules, &request, now).await
}

async fn read(sns: &Sns, body: &str) -> Result<Brought, Denied> {
    asked(sns, json!({}), HeaderMap::new(), body, published_at()).await
}

/// A key of its own that signs confirmations, with its certificate.
struct Signer {
    key: RsaKeyPair,
    certificate: String,
}

impl Signer {
    fn new() -> Signer {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let params = rcgen::CertificateParams::new(vec!["sns.amazonaws.com".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Signer { key: RsaKeyPair::from_pkcs8(&key.serialize_der()).unwrap(), certificate }
    }

    fn confirmation(&self, kind: &str, subscribe_url: &str) -> String {
        let mut envelope = json!({
            "Type": kind, "MessageId": "2a5c", "Token": "t0ken", "TopicArn": ARN,
            "Message": "You have chosen to subscribe", "SubscribeURL": subscribe_url,
            "Timestamp": "2026-04-26T20:45:04.751Z", "SignatureVersion": "2",
            "SigningCertURL": format!("https://{HOST}/SimpleNotificationService-0a.pem"),
        });
        let text = SnsMessage::parse(envelope.to_string().as_bytes()).unwrap().string_to_sign();
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        envelope["Signature"] = json!(STANDARD.encode(signature));
        envelope.to_string()
    }
}

#[test]
fn only_urls_of_amazon_are_asked() {
    for good in ["https://sns.eu-west-1.amazonaws.com/?Action=x", "https://sns.cn-north-1.amazonaws.com.cn/"]
    {
        assert!(amazons(good).is_some(), "{good}");
    }
    for bad in [
        "http://sns.eu-west-1.amazonaws.com/",
        "https://sns.eu-west-1.amazonaws.com.evil.org/",
        "https://evil.org/sns.eu-west-1.amazonaws.com",
        "https://sns.eu-west-1.amazonaws.com@evil.org/",
        "https://u:p@sns.eu-west-1.amazonaws.com/",
        "https://sns.eu-west-1.amazonaws.com:8443/",
        "https://sns.a.b.amazonaws.com/",
        "https://sns.amazonaws.com/",
        "https://s3.eu-west-1.amazonaws.com/",
        "https://evil-sns.eu-west-1.amazonaws.com/",
        "file:///etc/passwd",
        "",
    ] {
        assert_eq!(amazons(bad), None, "{bad}");
    }
    let certificate = |path: &str| certificate_url(&format!("https://{HOST}{path}")).is_some();
    assert!(certificate("/SimpleNotificationService-0a1B.pem"));
    for bad in
        ["/bucket/SimpleNotificationService-0a.pem", "/SimpleNotificationService-../x.pem", "/x.pem", "/"]
    {
        assert!(!certificate(bad), "{bad}");
    }
}

#[tokio::test]
async fn both_versions_of_the_signature_hold_and_the_certificate_is_fetched_once() {
    let (sns, fetched) = stand(CERTIFICATE);
    for envelope in VERSIONS {
        let Ok(Brought::Messages(messages)) = read(&sns, envelope).await else { panic!("{envelope}") };
        let event = messages[0].outcome.as_ref().unwrap();

        assert_eq!((event.topic.as_str(), &event.body[..]), (ARN, &br#"{"id": 7}"#[..]));
        assert_eq!(event.time, Some(published_at()));
        for (name, value) in [
            ("x-connector", "openfaasltd/sns-connector"),
            ("x-sns-message-id", "165545c9-2a5c-472c-8df2-7ff2be2b3b1b"),
            ("x-sns-arn", ARN),
            ("x-sns-subject", "An order"),
            ("x-sns-attr-store", "vienna"),
            ("x-sns-attr-store-type", "String"),
        ] {
            assert_eq!(event.headers.text(name), Some(value), "{name}");
        }
    }
    assert_eq!(fetched.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_changed_on_its_way_is_no_event() {
    let (sns, fetched) = stand(CERTIFICATE);
    let denied = Denied::Credentials;
    for (from, to, expected) in [
        (r#"{\"id\": 7}"#, r#"{\"id\": 8}"#, &denied),
        ("An order", "Another", &denied),
        ("\"SignatureVersion\": \"2\"", "\"SignatureVersion\": \"1\"", &denied),
        ("\"SignatureVersion\": \"2\"", "\"SignatureVersion\": \"3\"", &denied),
        ("https://sns.eu-west-1", "https://evil.org/sns.eu-west-1", &denied),
        ("04.751Z", "04.752Z", &denied),
    ] {
        let changed = VERSIONS[1].replace(from, to);
        assert_ne!(changed, VERSIONS[1], "{from}");
        assert_eq!(read(&sns, &changed).await.unwrap_err(), *expected, "{to}");
    }
    let foreign = VERSIONS[1].replace("orders", "others");
    assert!(matches!(read(&sns, &foreign).await, Err(Denied::Foreign(_))));
    assert!(matches!(read(&sns, "{}").await, Err(Denied::Incomplete(_))));
    assert_eq!(fetched.lock().unwrap().len(), 1, "and nobody was asked for it but Amazon, once");

    let other = Signer::new();
    let (sns, _) = stand(other.certificate);
    assert_eq!(read(&sns, VERSIONS[1]).await.unwrap_err(), denied, "another's certificate");
    let (sns, _) = stand("no certificate");
    assert_eq!(read(&sns, VERSIONS[1]).await.unwrap_err(), denied);
}

#[tokio::test]
async fn what_sns_gave_up_long_ago_is_a_replay() {
    let (sns, _) = stand(CERTIFICATE);
    let later = |hours: u64| published_at() + Duration::from_secs(hours * 3600);
    let read = async |now| asked(&sns, json!({}), HeaderMap::new(), VERSIONS[1], now).await;

    assert!(read(later(1)).await.is_ok());
    assert_eq!(read(later(3)).await.unwrap_err(), Denied::Stale);
}

#[tokio::test]
async fn a_subscription_is_confirmed_for_a_configured_topic_alone() {
    let signer = Signer::new();
    let (sns, fetched) = stand(signer.certificate.clone());
    let url = format!("https://{HOST}/?Action=ConfirmSubscription&Token=t0ken");
    let asks = signer.confirmation("SubscriptionConfirmation", &url);

    let others = json!({"arn": "arn:aws:sns:eu-west-1:123456789012:others"});
    let refused = asked(&sns, others, HeaderMap::new(), &asks, published_at()).await;
    assert!(matches!(refused, Err(Denied::Foreign(_))));
    let elsewhere =
        signer.confirmation("SubscriptionConfirmation", "https://evil.org/?Action=ConfirmSubscription");
    assert_eq!(read(&sns, &elsewhere).await.unwrap_err(), Denied::Credentials);
    let forged = asks.replace("t0ken", "t1ken");
    assert_eq!(read(&sns, &forged).await.unwrap_err(), Denied::Credentials);
    assert!(!fetched.lock().unwrap().contains(&url), "nothing was confirmed");

    assert!(matches!(read(&sns, &asks).await, Ok(Brought::Nothing(_))));
    assert_eq!(fetched.lock().unwrap().last(), Some(&url));
    let ends = signer.confirmation("UnsubscribeConfirmation", &url);
    let before = fetched.lock().unwrap().len();
    assert!(matches!(read(&sns, &ends).await, Ok(Brought::Nothing(_))));
    assert_eq!(fetched.lock().unwrap().len(), before, "an ended subscription is not renewed");
}

#[tokio::test]
async fn raw_messages_need_a_secret_of_their_own() {
    let (sns, _) = stand(CERTIFICATE);
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("x-amz-sns-rawdelivery", "true"), ("x-amz-sns-topic-arn", ARN), ("x-amz-sns-message-id", "7")]
    {
        headers.insert(name, value.parse().unwrap());
    }
    let secret = json!({"username": "sns", "secret": "s3cret"});
    let raw = async |more: Value, headers| asked(&sns, more, headers, "raw", published_at()).await;

    assert!(matches!(raw(json!({}), headers.clone()).await, Err(Denied::Foreign(_))));
    assert!(matches!(raw(secret.clone(), headers.clone()).await, Err(Denied::Unauthorized(_))));
    headers.insert("authorization", format!("Basic {}", STANDARD.encode("sns:s3cret")).parse().unwrap());
    let Ok(Brought::Messages(messages)) = raw(secret, headers).await else { panic!("it was refused") };
    let event = messages[0].outcome.as_ref().unwrap();
    assert_eq!((event.topic.as_str(), &event.body[..]), (ARN, &b"raw"[..]));
    assert_eq!(event.headers.text("x-sns-message-id"), Some("7"));
}

/// A host that calls itself SNS', with a certificate that only this test trusts, and answers with one body.
async fn host(body: &'static [u8]) -> (SocketAddr, String) {
    let own = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    let pem = own.cert.pem();
    let key = PrivateKeyDer::from_pem_slice(own.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[answer.as_bytes(), body].concat()).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, pem)
}

#[tokio::test]
async fn the_certificate_comes_over_tls_from_a_host_whose_name_is_checked() {
    let (address, trusted) = host(CERTIFICATE).await;
    let client = |trusted: &str, name: &str| {
        let certificate = reqwest::Certificate::from_pem(trusted.as_bytes()).unwrap();
        let builder =
            reqwest::Client::builder().no_proxy().tls_certs_only([certificate]).resolve(name, address);
        Sns::new(Https(OnceCell::new_with(Some(https(builder).build().unwrap()))))
    };

    assert!(read(&client(&trusted, HOST), VERSIONS[1]).await.is_ok());
    let stranger = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap().cert.pem();
    let untrusted = read(&client(&stranger, HOST), VERSIONS[1]).await;
    assert!(matches!(untrusted, Err(Denied::Unusable(_))), "SNS is to send it again");
    let other = VERSIONS[1].replace("https://sns.eu-west-1", "https://sns.eu-west-2");
    let misnamed = read(&client(&trusted, "sns.eu-west-2.amazonaws.com"), &other).await;
    assert!(matches!(misnamed, Err(Denied::Unusable(_))));
}
