//! Which of the messages that come are ones we have already: a decision, without I/O.
//!
//! A packet identifier names one message from the moment the server sends it until it is acknowledged, over all connections of
//! a session: on the next connection the server sends it again, under the same identifier and marked as sent before. So what
//! we hold and have not acknowledged is known when it comes again. What *was* acknowledged is not: the acknowledgement may
//! have been lost, or have arrived and freed the identifier for another message. Then it is taken as another one, which may
//! run a function twice and never loses an event.
//!
//! With QoS 2 the identifier stays in use until the server confirms that it has the acknowledgement (PUBREL); until then a
//! message that comes again is known, whatever became of it.

use std::collections::HashMap;

use crate::message::Qos;

/// What to do with a message that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Take it; its acknowledgement goes by this.
    New(Receipt),
    /// It is on its way into the store already, and will be acknowledged here when it is there.
    Held,
    /// It is in the store already: acknowledge it now.
    Known,
}

/// Names a message that was taken, for its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// The packet identifier.
    pub(crate) packet: u16,
    /// How it came.
    pub(crate) qos: Qos,
    serial: u64,
}

/// The messages of the session that we have and the server does not know we have.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    /// Grows with each connection: an acknowledgement belongs to the one on which the message came last.
    epoch: u64,
    serials: u64,
    open: HashMap<u16, Open>,
}

#[derive(Debug)]
struct Open {
    serial: u64,
    epoch: u64,
    stored: bool,
}

impl Arrivals {
    /// A connection stands. `resumed`: with the session of the one before.
    pub(crate) fn connected(&mut self, resumed: bool) {
        self.epoch += 1;
        if !resumed {
            self.open.clear();
        }
    }

    /// The connection is gone: nothing can be acknowledged until it has come again.
    pub(crate) fn lost(&mut self) {
        self.epoch += 1;
    }

    /// A message came that wants to be acknowledged. `again`: it is marked as sent before.
    pub(crate) fn came(&mut self, packet: u16, qos: Qos, again: bool) -> Arrival {
        let epoch = self.epoch;
        if let Some(open) = self.open.get_mut(&packet)
            && again
        {
            open.epoch = epoch;
            return if open.stored { Arrival::Known } else { Arrival::Held };
        }
        self.serials += 1;
        let serial = self.serials;
        self.open.insert(packet, Open { serial, epoch, stored: false });
        Arrival::New(Receipt { packet, qos, serial })
    }

    /// A message is in the store. Whether to acknowledge it now: not when it has not come on this connection.
    pub(crate) fn stored(&mut self, receipt: Receipt) -> bool {
        match self.open.get_mut(&receipt.packet) {
            Some(open) if open.serial == receipt.serial => {
                open.stored = true;
                open.epoch == self.epoch
            }
            // Its session is gone, or the server has begun something else under this identifier.
            _ => false,
        }
    }

    /// A message was acknowledged on this connection. With QoS 1 its identifier is free.
    pub(crate) fn acknowledged(&mut self, packet: u16, qos: Qos) {
        if qos == Qos::AtLeastOnce {
            self.open.remove(&packet);
        }
    }

    /// The server confirms that it has the acknowledgement of QoS 2: the identifier is free.
    pub(crate) fn released(&mut self, packet: u16) {
        self.open.remove(&packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONCE: Qos = Qos::ExactlyOnce;
    const LEAST: Qos = Qos::AtLeastOnce;

    fn connected() -> Arrivals {
        let mut arrivals = Arrivals::default();
        arrivals.connected(false);
        arrivals
    }

    fn new(arrivals: &mut Arrivals, packet: u16, qos: Qos, again: bool) -> Receipt {
        match arrivals.came(packet, qos, again) {
            Arrival::New(receipt) => receipt,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_stored_on_the_connection_on_which_it_came_is_acknowledged() {
        let mut arrivals = connected();
        let receipt = new(&mut arrivals, 1, LEAST, false);

        assert!(arrivals.stored(receipt));
        arrivals.acknowledged(1, LEAST);
        assert!(arrivals.open.is_empty());
    }

    #[test]
    fn an_acknowledgement_waits_until_its_message_comes_again() {
        let mut arrivals = connected();
        let first = new(&mut arrivals, 1, LEAST, false);
        let second = new(&mut arrivals, 2, LEAST, false);
        arrivals.lost();

        assert!(!arrivals.stored(first), "there is no connection");
        arrivals.connected(true);
        assert_eq!(arrivals.came(1, LEAST, true), Arrival::Known);
        assert_eq!(arrivals.came(2, LEAST, true), Arrival::Held);
        assert!(arrivals.stored(second), "it has come by now");
    }

    #[test]
    fn what_was_acknowledged_is_not_recognised() {
        let mut arrivals = connected();
        let receipt = new(&mut arrivals, 1, LEAST, false);
        assert!(arrivals.stored(receipt));
        arrivals.acknowledged(1, LEAST);
        arrivals.connected(true);

        // Sent before, but not necessarily this one: the identifier may have been free again.
        new(&mut arrivals, 1, LEAST, true);
    }

    #[test]
    fn an_identifier_begun_anew_names_another_message() {
        let mut arrivals = connected();
        let old = new(&mut arrivals, 1, LEAST, false);
        arrivals.connected(true);
        let other = new(&mut arrivals, 1, LEAST, false);

        assert!(!arrivals.stored(old), "that would acknowledge what is not stored");
        assert!(arrivals.stored(other));
    }

    #[test]
    fn a_session_that_is_gone_takes_its_identifiers_with_it() {
        let mut arrivals = connected();
        let old = new(&mut arrivals, 1, LEAST, false);
        arrivals.connected(false);

        let other = new(&mut arrivals, 1, LEAST, true);
        assert!(!arrivals.stored(old));
        assert!(arrivals.stored(other));
    }

    #[test]
    fn with_qos_2_a_message_is_known_until_it_is_released() {
        let mut arrivals = connected();
        let receipt = new(&mut arrivals, 1, ONCE, false);
        assert!(arrivals.stored(receipt));
        arrivals.acknowledged(1, ONCE);
        arrivals.connected(true);

        assert_eq!(arrivals.came(1, ONCE, true), Arrival::Known);
        arrivals.acknowledged(1, ONCE);
        arrivals.released(1);
        new(&mut arrivals, 1, ONCE, false);
    }
}
