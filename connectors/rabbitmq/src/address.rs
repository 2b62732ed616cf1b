//! Where a server is: `amqp://user:password@host:port/virtual%20host`.

use url::{Host, Url};

use connectors_sdk::Reader;

/// One server, without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Nothing may be sent in the clear.
    pub(crate) secure: bool,
}

/// What an address says besides where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) virtual_host: String,
    pub(crate) login: Option<(String, String)>,
}

const REMEDY: &str = "write amqp://host:5672/vhost or amqps://host:5671/vhost";

/// Reads one address. What is wrong never repeats the text, which may hold a password.
pub(crate) fn read(at: &mut Reader, text: &str, secure: bool) -> Option<(Address, Said)> {
    let (what, remedy) = match parse(text, secure) {
        Ok(parsed) => return Some(parsed),
        Err(wrong) => wrong,
    };
    at.refuse("url", what, remedy);
    None
}

fn parse(text: &str, secure: bool) -> Result<(Address, Said), (String, &'static str)> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("amqp://{text}") };
    let url = Url::parse(&with_scheme).map_err(|error| (format!("an address is no URL: {error}"), REMEDY))?;
    let secure = match url.scheme() {
        "amqp" => secure,
        "amqps" => true,
        other => return Err((format!("there is no way to speak {other}"), REMEDY)),
    };
    let host = match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => decoded(name),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        _ => return Err(("an address names no host".to_owned(), REMEDY)),
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Err((
            "an address holds parameters".to_owned(),
            "write them as settings: heartbeat, connect_timeout, tls",
        ));
    }
    let path = url.path().strip_prefix('/').unwrap_or_default();
    // Strictly, a path of `/` is the virtual host without a name. Nobody has one, and everybody writes it for the default.
    let virtual_host = if path.is_empty() { "/".to_owned() } else { decoded(path) };
    let login = match (url.username(), url.password()) {
        ("", None) => None,
        (name, Some(password)) => Some((decoded(name), decoded(password))),
        (_, None) => {
            return Err((
                "an address names a user without a password".to_owned(),
                "write both under credentials, the password best as password_file",
            ));
        }
    };
    let port = url.port().unwrap_or(if secure { 5671 } else { 5672 });
    Ok((Address { host, port, secure }, Said { virtual_host, login }))
}

/// Undoes `%2f` and the like.
fn decoded(text: &str) -> String {
    url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(text: &str) -> (Address, Said) {
        parse(text, false).unwrap()
    }

    #[test]
    fn an_address_may_be_short_or_whole() {
        let (address, said) = good("rabbitmq");
        assert_eq!(address, Address { host: "rabbitmq".into(), port: 5672, secure: false });
        assert_eq!(said, Said { virtual_host: "/".into(), login: None });

        let (address, said) = good("amqps://joe:p%40ss+x@[::1]:5673/%2fsales%2feu");
        assert_eq!(address, Address { host: "::1".into(), port: 5673, secure: true });
        assert_eq!(said.virtual_host, "/sales/eu");
        assert_eq!(said.login, Some(("joe".into(), "p@ss+x".into())));
    }

    #[test]
    fn the_default_virtual_host_may_be_written_in_three_ways() {
        for text in ["amqp://h", "amqp://h/", "amqp://h/%2f"] {
            assert_eq!(good(text).1.virtual_host, "/", "{text}");
        }
        assert_eq!(good("amqp://h/sales").1.virtual_host, "sales");
    }

    #[test]
    fn tls_changes_the_port() {
        assert_eq!(good("amqps://h").0.port, 5671);
        assert_eq!(
            parse("amqp://h", true).unwrap().0,
            Address { host: "h".into(), port: 5671, secure: true }
        );
    }

    #[test]
    fn what_cannot_be_an_address_is_said_without_repeating_it() {
        for (text, word) in [
            ("http://u:s3cret@h", "speak http"),
            ("amqp://", "no host"),
            ("amqp://u:s3cret@h:port", "no URL"),
            ("amqp://u:s3cret@h?heartbeat=5", "parameters"),
            ("amqp://s3cret@h", "without a password"),
        ] {
            let (what, _) = parse(text, false).unwrap_err();
            assert!(what.contains(word) && !what.contains("s3cret"), "{text}: {what}");
        }
    }
}
