//! What a stream shares with whoever wakes it or watches it while its halves are borrowed: wakers, and whether the
//! answer has come. It reads and writes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use futures::task::AtomicWaker;

/// yamux keeps one waker for reading and one for writing, but either half of a stream may need both
/// (a writer waits for a grant, a reader sends one): each wake-up reaches both halves.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    pub(super) reader: AtomicWaker,
    pub(super) writer: AtomicWaker,
    answered: AtomicBool,
}

impl Wakers {
    /// The other end has accepted the stream.
    pub(super) fn set_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
    }
}

/// Tells whether a stream was accepted, also while something else reads and writes it.
#[derive(Debug)]
pub struct Answer(Arc<Wakers>);

impl Answer {
    pub(super) fn of(wakers: &Arc<Wakers>) -> Self {
        Self(Arc::clone(wakers))
    }

    /// Whether it was, as far as the stream has been read.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.0.answered.load(Ordering::Relaxed)
    }
}
