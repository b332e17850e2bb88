//! What both ends of a paced exchange must agree on; the far end is the target's, the near end the tests'.

/// The near end's first bytes: how fast the far end sends, and what the exchange is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Bytes a second from the far end; 0: one byte for each [`ACKNOWLEDGED`] received, so that the near end sees
    /// that its bytes arrive.
    pub rate: u64,
    /// The number under which the far end keeps how it went.
    pub number: u64,
}

/// Received bytes for each byte that acknowledges.
pub const ACKNOWLEDGED: u64 = 4096;
/// Length of the last bytes from the far end: `sent COUNT SHA256 received COUNT SHA256`, filled up with spaces.
pub const TRAILER: usize = 256;

impl Order {
    /// Bytes of an order.
    pub const LENGTH: usize = 16;

    /// As it is sent: both numbers big-endian.
    pub fn encode(self) -> [u8; Self::LENGTH] {
        (u128::from(self.rate) << 64 | u128::from(self.number)).to_be_bytes()
    }

    /// The order in these bytes.
    pub fn decode(bytes: [u8; Self::LENGTH]) -> Self {
        let [rate, number] = [0, 8].map(|from| {
            bytes[from..from + 8]
                .iter()
                .fold(0, |value, byte| value << 8 | u64::from(*byte))
        });
        Self { rate, number }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_was_written() {
        let order = Order {
            rate: 1 << 40,
            number: 0x0102_0304_0506_0708,
        };
        assert_eq!(Order::decode(order.encode()), order);
    }
}
