//! Which addresses are called with results.
//!
//! Private and loopback addresses are: a gateway inside a cluster is the usual target. Link-local, metadata, unspecified
//! and multicast ones are not, and neither are our own listeners, but for their `/async-function/`. What counts is the
//! address connected to, so that no name, notation or rebinding leads past the rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use url::{Host, Url};

use broker_config::HostRule;

use super::client::Guard;

/// The rules for callback targets.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Called even where `deny` or the built-in rule forbids it.
    pub allow: Vec<HostRule>,
    /// Never called, besides what the built-in rule forbids.
    pub deny: Vec<HostRule>,
    /// Our own listeners.
    pub own: Vec<SocketAddr>,
}

/// What a callback URL is good for.
#[derive(Debug, PartialEq, Eq)]
pub enum Callback {
    /// It can be called, as far as can be said without a lookup.
    Callable(Url),
    /// It parses and cannot be called: relative, or not of HTTP. Its callback ends as a dead letter.
    NotCallable(Box<str>),
}

/// Why a callback URL is refused at once.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// It cannot be understood.
    Unparsable(Box<str>),
    /// It names an address that is not called.
    Denied(Box<str>),
}

impl Targets {
    /// Looks at a callback URL as it is submitted: what is certainly wrong is refused before anything is accepted.
    ///
    /// # Errors
    /// [`Refused`] for what no parser takes, and for literal addresses under the rule.
    pub fn check(&self, text: &str) -> Result<Callback, Refused> {
        let callback = parse(text).map_err(Refused::Unparsable)?;
        if let Callback::Callable(url) = &callback
            && let Some(address) = literal(url)
        {
            let guard = self.guard(url);
            guard
                .check(SocketAddr::new(address, url.port_or_known_default().unwrap_or(0)))
                .map_err(Refused::Denied)?;
        }
        Ok(callback)
    }

    /// The rule for one URL's connections.
    pub fn guard<'a>(&'a self, url: &'a Url) -> TargetGuard<'a> {
        TargetGuard { targets: self, url }
    }
}

/// The rule for one URL's connections.
#[derive(Debug)]
pub struct TargetGuard<'a> {
    targets: &'a Targets,
    url: &'a Url,
}

impl Guard for TargetGuard<'_> {
    fn check(&self, address: SocketAddr) -> Result<(), Box<str>> {
        let ip = address.ip().to_canonical();
        let host = self.url.host_str().unwrap_or_default();
        // Not even an allow list opens these: a network that holds us would open our own management.
        let to_front = self.url.path().starts_with("/async-function/");
        if !to_front && self.targets.own.iter().any(|own| is_own(*own, ip, address.port())) {
            return Err(format!("{ip} port {} is evoke itself", address.port()).into());
        }
        let covers = |rule: &HostRule| rule.names(host) || rule.contains(ip);
        if self.targets.allow.iter().any(covers) {
            return Ok(());
        }
        if let Some(rule) = self.targets.deny.iter().find(|rule| covers(rule)) {
            return Err(format!("{ip} is denied by {rule} (callbacks.deny)").into());
        }
        match forbidden(ip) {
            Some(kind) => Err(format!("{ip} is {kind}").into()),
            None => Ok(()),
        }
    }
}

/// Reads a callback URL as the gateway would: relative ones are URLs, too.
fn parse(text: &str) -> Result<Callback, Box<str>> {
    if text.bytes().any(|b| b.is_ascii_control()) {
        return Err("it holds control characters".into());
    }
    let bytes = text.as_bytes();
    let broken = |at: usize| {
        bytes[at] == b'%'
            && !bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    let before_fragment = text.find('#').unwrap_or(text.len());
    let before_query = text.find('?').unwrap_or(text.len()).min(before_fragment);
    if (0..before_query).any(broken) {
        return Err("it holds an incomplete percent-encoding".into());
    }
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(Callback::Callable(url)),
        Ok(url) => {
            Ok(Callback::NotCallable(format!("scheme {:?} is not http or https", url.scheme()).into()))
        }
        Err(url::ParseError::RelativeUrlWithoutBase) if text.starts_with(':') => {
            Err("it has no scheme".into())
        }
        Err(url::ParseError::RelativeUrlWithoutBase) => {
            Ok(Callback::NotCallable("it is a relative url".into()))
        }
        Err(error) => Err(error.to_string().into()),
    }
}

/// The address a URL's host is, whatever its notation; `None` for names.
fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(ip) => Some(ip.into()),
        Host::Ipv6(ip) => Some(ip.into()),
        Host::Domain(_) => None,
    }
}

fn is_own(own: SocketAddr, ip: IpAddr, port: u16) -> bool {
    own.port() == port
        && (own.ip().to_canonical() == ip
            || (own.ip().is_unspecified() && (ip.is_unspecified() || is_ours(ip))))
}

/// Whether an address is one of this machine: only such can be bound.
fn is_ours(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// The kind of an address that is never called.
fn forbidden(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => forbidden_v4(ip),
        IpAddr::V6(ip) => forbidden_v6(ip),
    }
}

fn forbidden_v4(ip: Ipv4Addr) -> Option<&'static str> {
    // Alibaba's, Oracle's and Azure's metadata services lie outside the link-local network.
    const METADATA: [[u8; 4]; 3] = [[100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]];
    match ip.octets() {
        [0, ..] => Some("unspecified"),
        [169, 254, ..] => Some("link-local or a metadata service"),
        [224..=239, ..] => Some("multicast"),
        [255, 255, 255, 255] => Some("broadcast"),
        octets if METADATA.contains(&octets) => Some("a metadata service"),
        _ => None,
    }
}

fn forbidden_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let segments = ip.segments();
    let last = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        forbidden_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        // Amazon's and Google's metadata services.
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] => {
            Some("a metadata service")
        }
        [0, 0, 0, 0, 0, 0, 0, 1] => None,
        // IPv4 in IPv6 clothes: compatible, translated (NAT64), 6to4.
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            last(high, low)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(url: &str) -> bool {
        matches!(Targets::default().check(url), Err(Refused::Denied(_)))
    }

    #[test]
    fn a4_what_no_parser_takes_is_refused_and_relative_urls_are_not() {
        let targets = Targets::default();
        for bad in [
            "http://a b/",
            "http://",
            "http://[::1",
            "http://x/%zz",
            ":foo",
            "http://x/\n",
            "http://h:99999/",
        ] {
            assert!(matches!(targets.check(bad), Err(Refused::Unparsable(_))), "{bad:?}");
        }
        for later in ["foo", "/path", "ftp://x/", "mailto:a@b"] {
            assert!(matches!(targets.check(later), Ok(Callback::NotCallable(_))), "{later:?}");
        }
        for good in
            ["http://gateway.openfaas:8080/function/cb", "https://u:p@cb.example.com:8443/a%2Fb/?x=1&y=2#f"]
        {
            assert!(matches!(targets.check(good), Ok(Callback::Callable(_))), "{good:?}");
        }
    }

    #[test]
    fn metadata_and_link_local_addresses_are_denied_in_every_notation() {
        for url in [
            "http://169.254.169.254/latest",
            "http://2852039166/",
            "http://0xA9FEA9FE/",
            "http://0251.0376.0251.0376/",
            "http://[::ffff:169.254.169.254]/",
            "http://[::169.254.169.254]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[2002:a9fe:a9fe::]/",
            "http://[fe80::1]/",
            "http://[fd00:ec2::254]/",
            "http://0.0.0.0/",
            "http://[::]/",
            "http://224.0.0.1/",
            "http://[ff02::1]/",
            "http://255.255.255.255/",
            "http://100.100.100.200/",
        ] {
            assert!(denied(url), "{url}");
        }
    }

    #[test]
    fn a_name_is_judged_by_the_address_it_leads_to() {
        let targets = Targets::default();
        let url = Url::parse("http://innocent.example/").unwrap();
        assert!(matches!(targets.check(url.as_str()), Ok(Callback::Callable(_))), "a name says nothing yet");

        let guard = targets.guard(&url);
        for denied in ["169.254.169.254:80", "[fe80::1]:80", "[::ffff:169.254.1.1]:80", "0.0.0.0:80"] {
            assert!(guard.check(denied.parse().unwrap()).is_err(), "{denied}");
        }
        assert!(guard.check("10.0.0.1:80".parse().unwrap()).is_ok());
    }

    #[test]
    fn private_and_loopback_addresses_are_called() {
        for url in [
            "http://127.0.0.1:8080/",
            "http://[::1]/",
            "http://10.1.2.3/",
            "http://192.168.0.1/",
            "http://[fd12::1]/",
        ] {
            assert!(!denied(url), "{url}");
        }
    }

    #[test]
    fn our_own_listeners_are_called_only_for_async_functions() {
        let targets = Targets { own: vec!["0.0.0.0:8090".parse().unwrap()], ..Targets::default() };
        let denied = |url: &str| matches!(targets.check(url), Err(Refused::Denied(_)));

        for url in [
            "http://127.0.0.1:8090/v1/info",
            "http://127.0.0.2:8090/",
            "http://[::ffff:127.0.0.1]:8090/v1/info",
            "http://127.0.0.1:8090/async-function/../v1/info",
            "http://127.0.0.1:8090/async-function/%2e%2e/v1/info",
        ] {
            assert!(denied(url), "{url}");
        }
        assert!(!denied("http://127.0.0.1:8090/async-function/x"));
        assert!(!denied("http://127.0.0.1:8080/v1/info"));
    }

    #[test]
    fn allow_goes_before_deny_and_the_built_in_rule_but_not_before_ourselves() {
        let rule = |text| HostRule::parse(text).unwrap();
        let targets = Targets {
            allow: vec![rule("169.254.7.0/24"), rule("127.0.0.0/8"), rule("good.example")],
            deny: vec![rule("10.0.0.0/8"), rule("*.evil.example")],
            own: vec!["127.0.0.1:8090".parse().unwrap()],
        };
        let check = |url: &str, address: &str| {
            targets.guard(&Url::parse(url).unwrap()).check(address.parse().unwrap()).is_ok()
        };

        assert!(check("http://169.254.7.7/", "169.254.7.7:80"));
        assert!(check("http://good.example/", "10.0.0.1:80"));
        assert!(!check("http://x.example/", "10.0.0.1:80"));
        assert!(!check("http://a.evil.example/", "1.2.3.4:80"));
        assert!(!check("http://127.0.0.1:8090/v1", "127.0.0.1:8090"));
    }
}
