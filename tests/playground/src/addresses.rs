//! Loopback addresses: one block 127.8.x.0/24 per playground, one address per pod and per Service.
//!
//! Linux answers on all of 127.0.0.0/8 without configuration, which is what makes pods with
//! addresses of their own possible on one machine. The block is held by a bound port, so two
//! playgrounds on one machine never share one.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use tokio::net::TcpListener;

/// Bound on the first address of the block for the playground's life. Nothing is served there; the
/// number is only unlikely to be bound on all addresses by something else.
const GUARD_PORT: u16 = 44_380;

/// The loopback of the pod with this address, which its port-forward reaches and no other pod dials.
pub(crate) fn loopback_of(address: Ipv4Addr) -> Ipv4Addr {
    let [net, _, block, host] = address.octets();
    Ipv4Addr::new(net, 9, block, host)
}

/// The block and what of it is in use.
#[derive(Debug)]
pub(crate) struct Addresses {
    block: u8,
    taken: Mutex<Taken>,
    _guard: TcpListener,
}

#[derive(Debug)]
struct Taken {
    in_use: BTreeSet<u8>,
    /// Addresses go round, so that one just given back is not met by late connections to its last owner.
    last: u8,
}

impl Addresses {
    /// Finds a free block, starting at a random one.
    pub(crate) async fn reserve() -> io::Result<Self> {
        let start: u8 = rand::random();
        let mut last = None;
        for block in (0..=u8::MAX).map(|offset| start.wrapping_add(offset)) {
            match TcpListener::bind((Ipv4Addr::new(127, 8, block, 1), GUARD_PORT)).await {
                Ok(guard) => {
                    let taken = Mutex::new(Taken {
                        in_use: BTreeSet::from([1]),
                        last: 1,
                    });
                    return Ok(Self {
                        block,
                        taken,
                        _guard: guard,
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }

    /// A free address; `None` when all 253 are in use.
    pub(crate) fn take(&self) -> Option<Ipv4Addr> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let after = (1..=u8::MAX).map(|step| taken.last.wrapping_add(step));
        let host = after
            .into_iter()
            .find(|host| (2..255).contains(host) && !taken.in_use.contains(host))?;
        taken.in_use.insert(host);
        taken.last = host;
        Some(Ipv4Addr::new(127, 8, self.block, host))
    }

    pub(crate) fn give_back(&self, address: Ipv4Addr) {
        let [_, _, _, host] = address.octets();
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .in_use
            .remove(&host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_playgrounds_have_different_blocks_and_an_address_is_given_once() {
        let (one, two) = (
            Addresses::reserve().await.unwrap(),
            Addresses::reserve().await.unwrap(),
        );
        assert_ne!(one.block, two.block);
        let all: BTreeSet<_> = std::iter::from_fn(|| one.take()).collect();
        assert_eq!(all.len(), 253);
        let again = *all.first().unwrap();
        one.give_back(again);
        assert_eq!(one.take(), Some(again));
    }
}
