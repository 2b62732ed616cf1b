//! Rules that name hosts, addresses and networks.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::setting::{Fault, Setting, text, wrong};
use crate::tree::Node;

/// A host, or a network (a single address is a network of one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRule {
    /// A host by its name, in lower case.
    Host(String),
    /// Every host below a domain, but not the domain itself: `*.example.org`, held as `.example.org`.
    Below(String),
    /// Every address of a network.
    Network(IpNet),
}

impl HostRule {
    /// Reads `example.org`, `*.example.org`, `10.1.2.3`, `10.0.0.0/8` or `fd00::/8`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Some(Self::Network(network.trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Network(address.into()));
        }
        let name = text.to_ascii_lowercase();
        let host = name.strip_prefix("*.").unwrap_or(&name);
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if !host.split('.').all(label) {
            return None;
        }
        Some(match name.strip_prefix('*') {
            Some(domain) => Self::Below(domain.into()),
            None => Self::Host(name),
        })
    }

    /// Whether the rule names this host. Upper and lower case are the same, and so is a dot at the end.
    pub fn names(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match self {
            Self::Host(name) => *name == host,
            Self::Below(domain) => host.ends_with(domain.as_str()) && host.len() > domain.len(),
            Self::Network(_) => false,
        }
    }

    /// Whether the rule covers this address. An IPv4 address in IPv6 clothes is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        matches!(self, Self::Network(network) if network.contains(&address.to_canonical()))
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Below(domain) => write!(f, "*{domain}"),
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                write!(f, "{}", network.addr())
            }
            Self::Network(network) => write!(f, "{network}"),
        }
    }
}

impl Setting for HostRule {
    const EXPECTED: &'static str = "a host, *.domain, an address or a network such as 10.0.0.0/8";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        text(node, |text| Self::parse(text).ok_or_else(|| wrong::<Self>(text)))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> HostRule {
        HostRule::parse(text).expect(text)
    }

    #[test]
    fn each_form_covers_what_it_says() {
        assert!(rule("Example.org").names("example.ORG."));
        assert!(!rule("example.org").names("www.example.org"));
        assert!(rule("*.example.org").names("a.b.example.org"));
        assert!(!rule("*.example.org").names("example.org"));
        assert!(!rule("*.example.org").names("badexample.org"));
        assert!(rule("10.0.0.0/8").contains("10.9.8.7".parse().expect("address")));
        assert!(rule("10.0.0.0/8").contains("::ffff:10.9.8.7".parse().expect("address")));
        assert!(!rule("10.0.0.0/8").contains("11.0.0.1".parse().expect("address")));
        assert!(rule("::1").contains("::1".parse().expect("address")));
    }

    #[test]
    fn what_is_written_is_shown() {
        for text in ["example.org", "*.example.org", "10.0.0.0/8", "169.254.169.254", "fd00::/8"] {
            assert_eq!(rule(text).to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "*", "*.", "http://x", "a..b", "10.0.0.0/99", "host:80", "a b"] {
            assert_eq!(HostRule::parse(text), None, "{text}");
        }
    }
}
