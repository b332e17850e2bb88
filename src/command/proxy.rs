//! `kubectl tunnel proxy`: one local port, any target. The port itself is `listener`; this joins it to a session.

use std::net::SocketAddr;

use super::Context;
use super::tunnel::{self, Plan, ProxyPlan};
use crate::cli::ProxyArgs;
use crate::cluster::client::ApiServer;
use crate::error::Error;
use crate::listener::{Shell, environment};

/// Runs until the user or the session ends it.
pub(super) async fn run(arguments: &ProxyArgs, context: &Context) -> Result<(), Error> {
    arguments.proxy.check().map_err(Error::Usage)?;
    let plan = Plan {
        verb: "proxy",
        proxy: Some(ProxyPlan::new(&arguments.proxy)),
        expose: None,
        forward: None,
        session: &arguments.session,
        on_demand: None,
    };
    tunnel::run(plan, context).await
}

/// The lines of `--print-env`, ending with the process to signal when done.
pub(super) fn environment_lines(
    shell: Shell,
    address: SocketAddr,
    server: &ApiServer,
    context: &Context,
) -> String {
    let existing = context.env.any_var(&["no_proxy", "NO_PROXY"]);
    let proxy = environment(shell, address, Some(&server.host()), existing);
    let pid = shell.assign("KUBECTL_TUNNEL_PID", &std::process::id().to_string());
    proxy + &pid
}
