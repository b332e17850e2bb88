//! What a check found, and how a list of them is printed: as text or as one JSON object.
//!
//! Pure; what is checked is the business of the files beside it.

use serde::Serialize;

use crate::error::Error;

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    /// Sessions work, but not everything does, or not as well as it should.
    Warning,
    /// No session can start, or one is of no use.
    Failure,
    /// It could not be told: something before it failed, or the user may not see it.
    Unknown,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
            Self::Unknown => "unknown",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) state: State,
    pub(super) message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<String>,
    /// Something to give to `kubectl apply -f -`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<String>,
    /// The message's numbers, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) measured: Option<serde_json::Value>,
}

impl Check {
    fn new(name: &'static str, state: State, message: impl Into<String>) -> Self {
        Self {
            name,
            state,
            message: message.into(),
            hint: None,
            manifest: None,
            measured: None,
        }
    }

    pub(super) fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(name, State::Ok, message)
    }

    pub(super) fn warning(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(name, State::Warning, message)
    }

    pub(super) fn failure(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(name, State::Failure, message)
    }

    /// Because of `reason`, which another check tells more about.
    pub(super) fn not_checked(name: &'static str, reason: &str) -> Self {
        Self::new(name, State::Unknown, format!("not checked: {reason}"))
    }

    pub(super) fn not_allowed(name: &'static str, what: &str) -> Self {
        Self::new(name, State::Unknown, format!("not allowed to see {what}"))
    }

    /// What the error would say if it ended a command in `namespace`.
    pub(super) fn failed(name: &'static str, error: &Error, namespace: &str) -> Self {
        Self::failure(name, "").because(error, namespace)
    }

    /// The error's words and hint for this check's own.
    pub(super) fn because(mut self, error: &Error, namespace: &str) -> Self {
        let report = error.report(namespace);
        let said = std::iter::once(report.summary).chain(report.causes);
        self.message = said.collect::<Vec<_>>().join(": ");
        self.hint = report.hint;
        self
    }

    pub(super) fn measured(mut self, numbers: serde_json::Value) -> Self {
        self.measured = Some(numbers);
        self
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// How many of them failed.
pub(super) fn failures(checks: &[Check]) -> usize {
    let failed = |check: &&Check| check.state == State::Failure;
    checks.iter().filter(failed).count()
}

pub(super) fn json(checks: &[Check]) -> serde_json::Value {
    serde_json::json!({"checks": checks, "ok": failures(checks) == 0})
}

/// A line each, hints below them, manifests at the end where they can be copied.
pub(super) fn text(checks: &[Check]) -> String {
    let width = checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or_default();
    let mut lines = Vec::new();
    for check in checks {
        let Check {
            name,
            state,
            message,
            hint,
            ..
        } = check;
        lines.push(format!("{:<7}  {name:<width$}  {message}", state.word()));
        if let Some(hint) = hint {
            lines.push(format!("{:<7}  {:<width$}  -> {hint}", "", ""));
        }
    }
    for manifest in checks.iter().filter_map(|check| check.manifest.as_deref()) {
        lines.push(format!("\n{}", manifest.trim_end()));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        let mut rights = Check::failure("rights", "missing in namespace dev: create jobs.batch")
            .with_hint("have an administrator apply the Role below");
        rights.manifest = Some("kind: Role\n".to_owned());
        vec![
            Check::ok("server", "example:6443 answers, without a proxy"),
            Check::warning("clock", "this machine is 2m behind"),
            rights,
            Check::not_allowed("namespace", "namespace dev"),
            Check::not_checked("pod", "the server does not answer"),
        ]
    }

    #[test]
    fn a_line_each_and_what_to_do_below() {
        let expected = "\
ok       server     example:6443 answers, without a proxy
warning  clock      this machine is 2m behind
failure  rights     missing in namespace dev: create jobs.batch
                    -> have an administrator apply the Role below
unknown  namespace  not allowed to see namespace dev
unknown  pod        not checked: the server does not answer

kind: Role";
        assert_eq!(text(&checks()), expected);
    }

    #[test]
    fn json_has_the_same_and_whether_all_is_well() {
        let mut checks = checks();
        let printed = json(&checks);
        assert_eq!(printed["ok"], false);
        assert_eq!(
            printed["checks"][0],
            serde_json::json!({
                "name": "server", "state": "ok", "message": "example:6443 answers, without a proxy",
            })
        );
        assert_eq!(printed["checks"][2]["manifest"], "kind: Role\n");
        assert_eq!(printed["checks"][4]["state"], "unknown");
        checks.remove(2);
        assert_eq!(json(&checks)["ok"], true);
        assert_eq!(failures(&checks), 0);
    }
}
