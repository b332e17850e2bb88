//! The end of a session in the cluster, and in words.

use std::time::Duration;

use super::Tunnel;
use crate::cluster::end::{self, END_WAIT, LOST_WAIT};
use crate::error::Error;
use crate::program;

impl Tunnel<'_> {
    /// Deletes what was made and tells what is left. Keeps the error the session ended with.
    pub(super) async fn remove(&self, result: Result<(), Error>) -> Result<(), Error> {
        let wait = if matches!(result, Err(Error::Lost { .. })) {
            LOST_WAIT
        } else {
            END_WAIT
        };
        match result {
            Err(Error::SecondSignal) => Err(self.remove_fast().await),
            // Everything is another process's now.
            Err(Error::TakenOver) => Err(Error::TakenOver),
            result => {
                let ending = self.delete(wait).await?;
                self.told(result, &ending)
            }
        }
    }

    /// Deletes what was made, and waits for at most `wait` until it is gone; fails when the user does not wait.
    pub(super) async fn delete(&self, wait: Duration) -> Result<end::Ending, Error> {
        let printer = &self.stage.context.printer;
        if !self.footprint.is_empty() && !self.footprint.keep() {
            printer.step(&format!("removing session {}", self.footprint.session()));
        }
        tokio::select! {
            ending = end::end(self.stage.server, &self.footprint, wait) => {
                printer.steps_done();
                Ok(ending)
            }
            () = self.stage.context.shutdown.at_once().cancelled() => Err(self.remove_fast().await),
        }
    }

    /// What a second signal leaves time for.
    pub(super) async fn remove_fast(&self) -> Error {
        let printer = &self.stage.context.printer;
        printer.steps_done();
        if let Err(error) = end::end_fast(self.stage.server, &self.footprint).await {
            printer.warn(&format!("the job was not deleted: {error}"));
            self.stage.context.last_words.left(self.jobs());
        }
        Error::SecondSignal
    }

    fn told(&self, result: Result<(), Error>, ending: &end::Ending) -> Result<(), Error> {
        let mut leftovers: Vec<String> = ending.leftovers.iter().map(ToString::to_string).collect();
        if self.footprint.keep() {
            leftovers.extend(self.jobs());
            if let Some(kept) = leftovers.first() {
                self.stage.context.printer.note(&format!(
                    "kept for an hour: {kept}, with its pod's log; remove it with `{}`",
                    ending.removal_command()
                ));
            }
        }
        if !ending.is_clean() {
            let why = ending
                .error
                .as_ref()
                .map(|error| format!(" ({error})"))
                .unwrap_or_default();
            let text = format!(
                "{ending}{why}; it goes by itself, or with `{} cleanup` or `{}`",
                program::name(),
                ending.removal_command()
            );
            self.stage.context.printer.warn(&text);
        }
        self.stage.context.last_words.left(leftovers);
        result
    }

    /// The Jobs that were made, as `job/name`.
    pub(super) fn jobs(&self) -> Vec<String> {
        let jobs = self.footprint.jobs();
        jobs.iter().map(|job| format!("job/{}", job.name)).collect()
    }
}
