//! An amount that several share: what one takes the others do not have until it is given back.
//!
//! Of what it is an amount is each owner's business: bytes that wait in queues, bytes of windows, flows of sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is left of the amount. Cheap to clone; all clones are one budget.
#[derive(Debug, Clone)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// A budget of so many, whatever they are.
    #[must_use]
    pub fn of(amount: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(amount)))
    }

    /// Takes so many, or none if there are not as many left.
    pub(crate) fn take(&self, amount: usize) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(amount)
            })
            .is_ok()
    }

    pub(crate) fn give_back(&self, amount: usize) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
