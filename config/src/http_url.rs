//! URLs of HTTP servers.

use std::fmt;

use url::Url;

use crate::secret::redact_urls;
use crate::setting::{Fault, Setting, scalar, wrong};
use crate::tree::Node;

/// An `http` or `https` URL with a host.
///
/// It is printed without the user and password it may hold; [`HttpUrl::as_url`] has them.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl(Url);

impl HttpUrl {
    /// Reads a URL; `None` when it is not one of HTTP.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(Self(url))
    }

    /// The URL as it is, user and password included.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    fn text(&self) -> &str {
        let text = self.0.as_str();
        // The parser's slash says nothing, and people do not write it.
        if self.0.path() == "/" { text.strip_suffix('/').unwrap_or(text) } else { text }
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact_urls(self.text()))
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Setting for HttpUrl {
    const EXPECTED: &'static str = "a URL such as http://gateway.openfaas:8080";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        scalar(node, |text| Self::parse(text).ok_or_else(|| wrong::<Self>(&redact_urls(text))))
    }

    fn show(&self) -> String {
        self.text().into()
    }

    fn show_redacted(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_printed_without_its_password() {
        let url = HttpUrl::parse("http://user:s3cret@proxy:3128").expect("a URL");

        assert_eq!(format!("{url} {url:?}"), "http://[redacted]@proxy:3128 http://[redacted]@proxy:3128");
        assert_eq!(url.as_url().password(), Some("s3cret"));
    }

    #[test]
    fn only_http_urls_are_taken() {
        for text in ["gateway:8080", "127.0.0.1:8080", "nats://x", "http://", "/path", "file:///etc/passwd"] {
            assert_eq!(HttpUrl::parse(text), None, "{text}");
        }
    }
}
