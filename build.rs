//! Embeds the agent for each architecture that `make agent` has built, and what the plugin was built for.
//!
//! A plugin built without them compiles and says so when it needs one (`cluster/agents.rs`), so
//! `cargo check` and most tests need no cross-compiled agent.

use std::{env, fs, path::Path};

/// (cfg that `cluster/agents.rs` tests, variable that holds the path, file name)
const AGENTS: [(&str, &str, &str); 2] = [
    ("agent_amd64", "TUNNEL_AGENT_AMD64", "tunnel-agent-x86_64"),
    ("agent_arm64", "TUNNEL_AGENT_ARM64", "tunnel-agent-aarch64"),
];

fn main() -> std::io::Result<()> {
    let root = env::var("CARGO_MANIFEST_DIR").map_err(std::io::Error::other)?;
    let agents = Path::new(&root).join("target/agents");
    // A watched path that is missing would rebuild the crate every time, so the folder is made here.
    fs::create_dir_all(&agents)?;
    emit("rerun-if-changed=target/agents");
    for (cfg, variable, file) in AGENTS {
        emit(&format!("rustc-check-cfg=cfg({cfg})"));
        let path = agents.join(file);
        if path.is_file() {
            emit(&format!("rustc-cfg={cfg}"));
            emit(&format!("rustc-env={variable}={}", path.display()));
        }
    }
    emit(&format!(
        "rustc-env=TUNNEL_TARGET={}",
        env::var("TARGET").map_err(std::io::Error::other)?
    ));
    // Only `make dist` tells the commit: else each one would build the plugin anew.
    emit("rerun-if-env-changed=TUNNEL_COMMIT");
    Ok(())
}

fn emit(instruction: &str) {
    println!("cargo::{instruction}");
}
