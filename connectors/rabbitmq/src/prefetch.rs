//! How many messages to ask of a queue at once.
//!
//! RabbitMQ sends as many as the prefetch allows, whatever their size, and the client takes them all. So that memory stays
//! within the bound on bytes, the prefetch follows the size of the messages that come.

use connectors_sdk::WindowLimits;

/// What a message is taken to weigh while none was seen.
const UNKNOWN: u64 = 256 * 1024;

/// What each queue may have on its way however many share the window, so that none is slow.
const FEWEST: usize = 32;

/// The size of a queue's messages, the latest counting most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(u64);

impl Size {
    /// None was seen yet.
    pub(crate) fn unknown() -> Self {
        Size(UNKNOWN)
    }

    /// A message of so many bytes came.
    pub(crate) fn saw(&mut self, bytes: usize) {
        self.0 = (self.0.saturating_mul(15).saturating_add(bytes as u64)) / 16;
    }
}

/// The prefetch of one of `queues` queues that share a window.
pub(crate) fn prefetch(limits: WindowLimits, queues: usize, size: Size) -> u16 {
    let (queues, messages) = (queues.max(1), limits.messages.get());
    let share = (messages / queues).max(FEWEST.min(messages));
    let fitting = limits.bytes.bytes() / queues as u64 / size.0.max(1);
    let prefetch = usize::try_from(fitting).map_or(share, |fitting| fitting.clamp(1, share));
    u16::try_from(prefetch).unwrap_or(u16::MAX)
}

/// Whether to ask anew with `wanted` instead of `current`: at once for much less, and for much more once `received` shows
/// that the queue has it.
pub(crate) fn is_worth_a_change(current: u16, wanted: u16, received: u64) -> bool {
    let (current, wanted) = (u64::from(current), u64::from(wanted));
    wanted * 2 <= current || (wanted >= current * 2 && received >= current)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use connectors_sdk::ByteSize;
    use proptest::prelude::*;

    use super::*;

    fn limits(messages: usize, mebibytes: u64) -> WindowLimits {
        WindowLimits {
            messages: NonZeroUsize::new(messages).unwrap(),
            bytes: ByteSize::from_mebibytes(mebibytes),
        }
    }

    fn after(sizes: impl IntoIterator<Item = usize>) -> Size {
        sizes.into_iter().fold(Size::unknown(), |mut size, bytes| {
            size.saw(bytes);
            size
        })
    }

    #[test]
    fn small_messages_fill_the_window_and_large_ones_its_bytes() {
        let limits = limits(1024, 16);

        assert_eq!(prefetch(limits, 1, Size::unknown()), 64);
        assert_eq!(prefetch(limits, 1, after([100; 64])), 1024);
        assert_eq!(prefetch(limits, 1, after([4 << 20; 100])), 4);
        assert_eq!(prefetch(limits, 1, after([64 << 20; 100])), 1, "one always goes");
    }

    #[test]
    fn queues_share_the_window_down_to_a_few_each() {
        let small = after([100; 200]);

        assert_eq!(prefetch(limits(1024, 16), 4, small), 256);
        assert_eq!(prefetch(limits(1024, 16), 1000, small), 32);
        assert_eq!(prefetch(limits(8, 16), 3, small), 8);
        assert_eq!(prefetch(limits(1_000_000, 1_000), 1, small), u16::MAX, "AMQP's most");
    }

    #[test]
    fn a_change_is_worth_its_round_trips_when_it_is_a_large_one() {
        assert!(is_worth_a_change(64, 32, 0), "less at once");
        assert!(!is_worth_a_change(64, 33, 1_000) && !is_worth_a_change(64, 127, 1_000));
        assert!(is_worth_a_change(64, 128, 64));
        assert!(!is_worth_a_change(64, 1024, 63), "not before the queue has shown that it has so many");
    }

    proptest! {
        #[test]
        fn what_was_asked_for_fits_once_the_sizes_are_known(
            messages in 1_usize..5_000, mebibytes in 1_u64..64, queues in 1_usize..32, bytes in 1_usize..1_000_000,
        ) {
            let limits = limits(messages, mebibytes);
            let asked = u64::from(prefetch(limits, queues, after([bytes; 400])));

            prop_assert!(asked >= 1);
            prop_assert!(asked <= messages as u64);
            prop_assert!(asked == 1 || asked * bytes as u64 * queues as u64 <= limits.bytes.bytes() * 11 / 10 + 400 * queues as u64 * asked);
        }
    }
}
