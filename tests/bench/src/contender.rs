//! Who is measured. What each can do is decided by `probe.rs`.

use clap::ValueEnum;

/// One way from the laptop to a program in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub(crate) enum Contender {
    /// The exec subresource's WebSocket itself: what any tunnel over exec can reach at most.
    RawExec,
    /// The port-forward subresource's WebSocket itself.
    RawPortForward,
    /// `kubectl port-forward`.
    Kubectl,
    /// `kubectl tunnel`, as it is without flags.
    Tunnel,
    /// `kubectl tunnel --transport=exec`.
    TunnelExec,
    /// `kubectl tunnel --transport=port-forward`.
    TunnelPortForward,
    /// `kubectl tunnel --transport=auto`, once it has chosen.
    TunnelAuto,
}

impl Contender {
    /// As on the command line and in the JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RawExec => "raw-exec",
            Self::RawPortForward => "raw-port-forward",
            Self::Kubectl => "kubectl",
            Self::Tunnel => "tunnel",
            Self::TunnelExec => "tunnel-exec",
            Self::TunnelPortForward => "tunnel-port-forward",
            Self::TunnelAuto => "tunnel-auto",
        }
    }

    /// One WebSocket of the API without a program around it.
    pub(crate) fn is_raw(self) -> bool {
        matches!(self, Self::RawExec | Self::RawPortForward)
    }

    /// Our plugin.
    pub(crate) fn is_tunnel(self) -> bool {
        !self.is_raw() && self != Self::Kubectl
    }

    /// The value of the plugin's `--transport`, if it gets one.
    pub(crate) fn transport(self) -> Option<&'static str> {
        match self {
            Self::TunnelExec => Some("exec"),
            Self::TunnelPortForward => Some("port-forward"),
            Self::TunnelAuto => Some("auto"),
            Self::RawExec | Self::RawPortForward | Self::Kubectl | Self::Tunnel => None,
        }
    }

    /// All that run when nobody chooses; a plugin that does not know `--transport` is one contender.
    pub(crate) fn usual(knows_transport: bool) -> Vec<Self> {
        let mut all = vec![Self::RawExec, Self::RawPortForward, Self::Kubectl];
        if knows_transport {
            all.extend([Self::TunnelExec, Self::TunnelAuto]);
        } else {
            all.push(Self::Tunnel);
        }
        all
    }
}
