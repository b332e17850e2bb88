//! The options that no layer sets, each for a reason. All others take part.

/// Which file: asked before there is one.
pub(super) const CONFIG: &str = "config";
/// Which of its profiles. The file may say so itself, at its top.
pub(super) const PROFILE: &str = "profile";

/// Why an option takes no part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It asks for something to be printed, and sets nothing.
    Action,
    /// It chooses the layer.
    Choice,
    /// A secret: files and environments are read by others, by backups and by bug reports.
    Secret,
}

const LIST: [(&str, Reason); 5] = [
    ("help", Reason::Action),
    ("version", Reason::Action),
    (CONFIG, Reason::Choice),
    (PROFILE, Reason::Choice),
    ("token", Reason::Secret),
];

/// `None` for an option that takes part.
pub(super) fn reason(option: &str) -> Option<Reason> {
    LIST.iter()
        .find(|(name, _)| *name == option)
        .map(|(_, reason)| *reason)
}

impl Reason {
    /// For who tries, after the name of the key or variable.
    pub(super) fn answer(self) -> &'static str {
        match self {
            Self::Action => "is for the command line alone",
            Self::Choice => "cannot be chosen here: type the flag or set the variable",
            Self::Secret => "is a secret, which is taken from the kubeconfig or the command line alone",
        }
    }
}
