//! Keeps one link on transports: notices when one is lost, old or doubtful, and makes the next.
//!
//! A transport that may still work is not given up for one that is only hoped for: the next one is dialled
//! beside it, and the link moves over when its hello is answered. What is known lives in [`super::care`], the
//! search for the next one in [`super::search`].

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tunnel_wire::link::TransportEnd;

use super::care::{Attached, Care, Cause};
use super::dial::{DialError, Dialled, dial};
use super::search::{Happened, Paused, Search};
use super::{Over, Transports};

/// When a planned renewal that failed is tried again.
const RENEW_PAUSE: Duration = Duration::from_secs(30);

/// A link with its transports.
pub(super) struct Keeper<T> {
    pub(super) transports: T,
    pub(super) care: Care,
}

/// How one attempt went.
enum Attempt<E> {
    Connected(Box<Dialled>),
    /// The transport in doubt has answered meanwhile.
    Recovered,
    /// We slept: what it had begun is of the past.
    Slept,
    Failed(DialError<E>),
}

impl<T: Transports> Keeper<T> {
    /// Runs until there is nothing to keep. The link is closed then.
    pub(super) async fn keep(mut self, first: Attached) -> Over<T::Error> {
        let over = self.keep_on(first).await;
        self.care.link.close(match &over {
            Over::Link(end) => end.clone(),
            Over::Evicted => TransportEnd::Evicted,
            Over::Goodbye
            | Over::Refused(_)
            | Over::BadPath(_)
            | Over::GaveUp { .. }
            | Over::Transport(_) => TransportEnd::Closed,
        });
        over
    }

    async fn keep_on(&mut self, mut attached: Attached) -> Over<T::Error> {
        loop {
            let cause = self.care.guard(&mut attached).await;
            tracing::debug!(?cause, "another transport is wanted");
            match self.replace(attached, cause).await {
                Ok(next) => attached = next,
                Err(over) => return over,
            }
        }
    }

    /// Makes the next transport, and moves the link over to it. Gives the old one back when that turned out to
    /// be good enough.
    async fn replace(&mut self, attached: Attached, cause: Cause) -> Result<Attached, Over<T::Error>> {
        let mut search = Search::new(attached, &cause);
        // Whether it is slow or dead, an answer tells.
        self.care.link.ask();
        if let Cause::Ended(end) = &cause {
            let since = search.lose(&mut self.care, end)?;
            // One that ended without having moved a byte is a failed attempt like others.
            if let Some(since) = since.filter(|_| self.care.backoff.is_some()) {
                search.check_budget(&mut self.care)?;
                search.pause(&mut self.care, &end.to_string(), since).await?;
            }
        }
        loop {
            search.check_budget(&mut self.care)?;
            let began = Instant::now();
            match self.attempt(&mut search).await? {
                Attempt::Connected(dialled) => {
                    self.care.usual = began.elapsed();
                    return search.move_over(&mut self.care, *dialled).await;
                }
                Attempt::Slept => {}
                Attempt::Recovered => {
                    if let Some(attached) = search.keep_old(&self.care) {
                        return Ok(attached);
                    }
                }
                Attempt::Failed(error) => {
                    let reason = self.care.judge_failure(error)?;
                    if search.planned
                        && let Some(mut attached) = search.keep_old(&self.care)
                    {
                        tracing::debug!(reason, "the next transport was not needed yet");
                        attached.renew_not_before = Some(Instant::now() + RENEW_PAUSE);
                        return Ok(attached);
                    }
                    let paused = search.pause(&mut self.care, &reason, began).await?;
                    if paused == Paused::Recovered
                        && let Some(attached) = search.keep_old(&self.care)
                    {
                        return Ok(attached);
                    }
                }
            }
        }
    }

    /// One attempt, beside whatever there still is.
    async fn attempt(&mut self, search: &mut Search) -> Result<Attempt<T::Error>, Over<T::Error>> {
        let attempt = self.dial_beside(search).await?;
        if let (Attempt::Failed(_), Some(end)) = (&attempt, search.let_go.take()) {
            search.lose(&mut self.care, &end)?;
        }
        Ok(attempt)
    }

    async fn dial_beside(&mut self, search: &mut Search) -> Result<Attempt<T::Error>, Over<T::Error>> {
        let Self { transports, care } = self;
        let greeting = AtomicBool::new(false);
        let greet = || greeting.store(true, Ordering::Relaxed);
        let (link, name) = (care.link.clone(), care.name.clone());
        let dialling = dial(transports, &link, &name, care.patience(), &greet);
        let mut dialling = pin!(dialling);
        loop {
            tokio::select! {
                biased;
                dialled = &mut dialling => return Ok(match dialled {
                    Ok(connected) => Attempt::Connected(Box::new(connected)),
                    Err(error) => Attempt::Failed(error),
                }),
                happened = search.happens(care) => match happened {
                    // Once the hello is out the agent may have moved over, and let go of the old transport.
                    Happened::Recovered if greeting.load(Ordering::Relaxed) => search.in_doubt = false,
                    Happened::Recovered => return Ok(Attempt::Recovered),
                    Happened::Ended(end)
                        if greeting.load(Ordering::Relaxed) && !end.is_final() && !end.blames_path() =>
                    {
                        search.let_go = Some(end);
                    }
                    Happened::Ended(end) => drop(search.lose(care, &end)?),
                    Happened::Looked => {
                        if search.check_budget(care)? && !greeting.load(Ordering::Relaxed) {
                            return Ok(Attempt::Slept);
                        }
                    }
                },
            }
        }
    }
}
