//! How queues are named: by their names, or by their URLs.

use url::Url;

/// The longest name of a queue, `.fifo` included.
const LONGEST: usize = 80;

/// A queue, as SQS is asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    /// Its URL.
    pub(crate) url: Box<str>,
    /// The path of the URL, account and name. All queues of a source are at one endpoint, so it tells them apart; the host
    /// does not, because an endpoint may have several names.
    pub(crate) path: Box<str>,
    /// The last part of the path.
    pub(crate) name: Box<str>,
    /// Whether it keeps the order within message groups.
    pub(crate) fifo: bool,
}

impl Queue {
    /// The queue behind a URL; `None` when the text is none.
    pub(crate) fn at(url: &str) -> Option<Queue> {
        let parsed = Url::parse(url).ok()?;
        let path = parsed.path().trim_end_matches('/');
        let name = path.rsplit('/').next()?;
        let is_one = matches!(parsed.scheme(), "http" | "https") && parsed.has_host() && is_name(name);
        is_one.then(|| Queue {
            url: url.into(),
            path: path.into(),
            name: name.into(),
            fifo: name.ends_with(".fifo"),
        })
    }
}

/// Why this cannot be a queue of SQS.
pub(crate) fn check(name: &str) -> Result<(), String> {
    if name.contains("://") {
        return match Queue::at(name) {
            Some(_) => Ok(()),
            None => Err(format!("{name:?} is no URL of a queue")),
        };
    }
    if is_name(name) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no queue of SQS: a name has up to {LONGEST} letters, digits, - and _, and may end in .fifo"
    ))
}

fn is_name(text: &str) -> bool {
    let name = text.strip_suffix(".fifo").unwrap_or(text);
    !name.is_empty()
        && text.len() <= LONGEST
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_urls_of_queues_are_told_from_others() {
        for good in [
            "orders",
            "Orders_2-new.fifo",
            "https://sqs.eu-west-1.amazonaws.com/123456789012/orders",
            "http://127.0.0.1:9324/000000000000/orders.fifo",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ".fifo",
            "orders.created",
            "orders.>",
            "orders-*",
            "two words",
            "photos:s3:ObjectCreated:Put",
            "https://example.com",
            "https://example.com/orders.created",
            "amqp://host/orders",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check(&"q".repeat(80)).is_ok());
        assert!(check(&"q".repeat(81)).is_err());
    }

    #[test]
    fn a_queue_is_told_by_the_path_of_its_url() {
        let one = Queue::at("http://localhost:9324/000000000000/orders.fifo").unwrap();
        let other = Queue::at("http://127.0.0.1:9324/000000000000/orders.fifo/").unwrap();

        assert_eq!((&*one.name, one.fifo), ("orders.fifo", true));
        assert_eq!(one.path, other.path);
        assert!(!Queue::at("http://h/0/orders").unwrap().fifo);
    }
}
