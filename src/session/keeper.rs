//! Keeps one link on transports: notices when one is lost, old or doubtful, and makes the next.
//!
//! A transport that may still work is not given up for one that is only hoped for: the next one is dialled
//! beside it, and the link moves over when its hello is answered. What is known lives in [`super::care`], the
//! search for the next one in [`super::search`], when the second way is worth an attempt in [`super::second`].

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tunnel_wire::entrance::EntranceError;
use tunnel_wire::hello::HelloError;
use tunnel_wire::link::TransportEnd;

use super::care::{Attached, Care, Cause};
use super::dial::{DialError, Dialled, dial, dial_prepared};
use super::search::{Happened, Paused, Search};
use super::second::attempt::{Prepared, SecondError, Setback, prepare, say_moved};
use super::standing::Phase;
use super::{ConnectError, Over, Transports, Way};

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
    /// It was the second way's.
    SecondFailed(HelloError),
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
            let due = self.care.second_due(&attached);
            let cause = self.care.guard(&mut attached, due).await;
            tracing::debug!(?cause, "another transport is wanted");
            let next = if matches!(cause, Cause::Second) {
                self.try_second(attached).await
            } else {
                self.replace(attached, cause, None).await
            };
            match next {
                Ok(next) => attached = next,
                Err(over) => return over,
            }
        }
    }

    /// Tries the second way beside a transport that is well, and moves over if it is worth it. Whatever happens to
    /// that transport meanwhile comes first.
    async fn try_second(&mut self, mut attached: Attached) -> Result<Attached, Over<T::Error>> {
        let Self { transports, care } = self;
        let (link, name) = (care.link.clone(), care.name.clone());
        let (port, compare) = (care.second.port(), care.second.is_compared());
        let preparing = prepare(transports, &link, &name, port, compare, care.patience());
        let prepared = tokio::select! {
            biased;
            cause = care.guard(&mut attached, None) => Err(cause),
            prepared = preparing => Ok(prepared),
        };
        match prepared {
            Ok(Ok(prepared)) => {
                self.care.second.undisturbed();
                self.replace(attached, Cause::Second, Some(prepared)).await
            }
            Ok(Err(setback)) => {
                self.care.second.undisturbed();
                self.care.note(&setback);
                Ok(attached)
            }
            Err(cause) => {
                self.care.second.disturbed(Instant::now());
                self.replace(attached, cause, None).await
            }
        }
    }

    /// Moves a session that nobody uses yet over to the second way, or tells why that is not possible.
    pub(super) async fn move_at_once(
        &mut self,
        mut attached: Attached,
        patience: Duration,
    ) -> Result<Attached, ConnectError<T::Error>> {
        let Self { transports, care } = self;
        let port = care.second.port();
        if port == 0 {
            return Err(ConnectError::Second(SecondError::NoEntrance));
        }
        let prepared = tokio::select! {
            biased;
            end = attached.ended() => return Err(ConnectError::Second(SecondError::Lost(end))),
            prepared = prepare(transports, &care.link, &care.name, port, false, patience) => prepared,
        };
        let prepared = prepared.map_err(|setback| match setback {
            Setback::Transport(error) => ConnectError::Transport(error),
            Setback::Entrance(error) => ConnectError::Second(error.into()),
            Setback::Worse(_) => unreachable!("nothing was compared"),
        })?;
        let dialled = dial_prepared(prepared, &care.link, &care.name, patience, &|| ()).await;
        let dialled = dialled.map_err(ConnectError::Hello)?;
        say_moved(attached.begin.way, dialled.way, None);
        attached.stop().await;
        let attached = Attached::start(&care.link, dialled);
        care.standing_tx.set_phase(Phase::Ready {
            transport: attached.number,
            way: attached.begin.way,
            after: Duration::ZERO,
        });
        Ok(attached)
    }

    /// Makes the next transport, and moves the link over to it. Gives the old one back when that turned out to
    /// be good enough. The first attempt goes over what is prepared of the second way, if anything is.
    async fn replace(
        &mut self,
        attached: Attached,
        cause: Cause,
        mut prepared: Option<Prepared>,
    ) -> Result<Attached, Over<T::Error>> {
        let before = attached.begin.way;
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
            let times = prepared.as_ref().and_then(|prepared| prepared.times);
            let reason = match self.attempt(&mut search, prepared.take()).await? {
                Attempt::Connected(dialled) => {
                    say_moved(before, dialled.way, times);
                    if dialled.way == Way::Exec {
                        self.care.usual = began.elapsed();
                    }
                    return search.move_over(&mut self.care, *dialled).await;
                }
                Attempt::Slept => continue,
                Attempt::Recovered => {
                    if let Some(attached) = search.keep_old(&self.care) {
                        return Ok(attached);
                    }
                    continue;
                }
                Attempt::Failed(error) => self.care.judge_failure(error)?,
                Attempt::SecondFailed(error) => {
                    self.care
                        .note(&Setback::<T::Error>::Entrance(EntranceError::Hello(error)));
                    if let Some(attached) = search.keep_old(&self.care) {
                        return Ok(attached);
                    }
                    // Exec has not been tried yet.
                    search.doubt();
                    continue;
                }
            };
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

    /// One attempt, beside whatever there still is.
    async fn attempt(
        &mut self,
        search: &mut Search,
        prepared: Option<Prepared>,
    ) -> Result<Attempt<T::Error>, Over<T::Error>> {
        let attempt = self.dial_beside(search, prepared).await?;
        if let (Attempt::Failed(_) | Attempt::SecondFailed(_), Some(end)) = (&attempt, search.let_go.take()) {
            search.lose(&mut self.care, &end)?;
        }
        Ok(attempt)
    }

    async fn dial_beside(
        &mut self,
        search: &mut Search,
        prepared: Option<Prepared>,
    ) -> Result<Attempt<T::Error>, Over<T::Error>> {
        let Self { transports, care } = self;
        let greeting = AtomicBool::new(false);
        let greet = || greeting.store(true, Ordering::Relaxed);
        let (link, name) = (care.link.clone(), care.name.clone());
        let patience = care.patience();
        let dialling = async {
            match prepared {
                None => match dial(transports, &link, &name, patience, &greet).await {
                    Ok(dialled) => Attempt::Connected(Box::new(dialled)),
                    Err(error) => Attempt::Failed(error),
                },
                Some(prepared) => match dial_prepared(prepared, &link, &name, patience, &greet).await {
                    Ok(dialled) => Attempt::Connected(Box::new(dialled)),
                    Err(error) => Attempt::SecondFailed(error),
                },
            }
        };
        let mut dialling = pin!(dialling);
        loop {
            tokio::select! {
                biased;
                attempt = &mut dialling => return Ok(attempt),
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
