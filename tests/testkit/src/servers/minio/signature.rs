//! AWS' signature, version 4, of a whole request.

use std::fmt::Write as _;
use std::time::SystemTime;

use hmac::{Hmac, KeyInit, Mac};
use hyper::Method;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{PASSWORD, USER};

const REGION: &str = "us-east-1";

/// The headers that make a request the user's, for now.
pub(super) fn headers(
    method: &Method,
    host: &str,
    path: &str,
    query: &str,
    body: &[u8],
) -> Vec<(&'static str, String)> {
    let now =
        Timestamp::try_from(SystemTime::now()).unwrap_or_default().strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = &now[..8];
    let content = hexadecimal(&Sha256::digest(body));
    let signed = "host;x-amz-content-sha256;x-amz-date";
    let canonical = format!(
        "{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{content}\nx-amz-date:{now}\n\n{signed}\n{content}"
    );
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    let digest = hexadecimal(&Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{now}\n{scope}\n{digest}");
    let mut key = format!("AWS4{PASSWORD}").into_bytes();
    for part in [day, REGION, "s3", "aws4_request"] {
        key = keyed(&key, part);
    }
    let signature = hexadecimal(&keyed(&key, &text));
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={USER}/{scope}, SignedHeaders={signed}, Signature={signature}");
    vec![("authorization", authorization), ("x-amz-content-sha256", content), ("x-amz-date", now)]
}

fn keyed(key: &[u8], text: &str) -> Vec<u8> {
    let mut code = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length is one");
    code.update(text.as_bytes());
    code.finalize().into_bytes().to_vec()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
