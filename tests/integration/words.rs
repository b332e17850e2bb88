//! The program as it is called and configured: its name, its configuration file, and the questions of shells.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::support::DEADLINE;

/// What a program said, and how it ended.
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
    after: Duration,
}

/// Runs a program with these variables and no others.
async fn run(first: &str, program: &Path, words: &[&str], vars: &[(&str, &str)]) -> Said {
    let mut command = Command::new(program);
    command.arg0(first).args(words).env_clear().kill_on_drop(true);
    command.env("HOME", "/nonexistent").envs(vars.iter().copied());
    let started = Instant::now();
    let output = timeout(DEADLINE, command.output()).await.unwrap().unwrap();
    Said {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        after: started.elapsed(),
    }
}

/// The plugin under another name.
fn renamed(folder: &TempDir, name: &str) -> PathBuf {
    let path = folder.path().join(name);
    symlink(env!("CARGO_BIN_EXE_kubectl-tunnel"), &path).unwrap();
    path
}

#[tokio::test]
async fn the_program_answers_to_the_name_it_was_called_by() {
    let folder = tempfile::tempdir().unwrap();
    for (file, bare, name) in [
        ("kubectl-tunnel", false, "kubectl tunnel"),
        ("kubectl-tunnel", true, "kubectl-tunnel"),
        ("kubectl-burrow", false, "kubectl burrow"),
        ("burrow", false, "burrow"),
    ] {
        let path = folder.path().join(file);
        let path = if path.exists() {
            path
        } else {
            renamed(&folder, file)
        };
        let first = if bare { file } else { path.to_str().unwrap() };
        let help = run(first, &path, &["expose", "--help"], &[]).await;
        assert_eq!(help.code, 0, "{}", help.stderr);
        for text in [
            format!("Usage: {name} expose [OPTIONS]"),
            format!("\n  {name} expose 1234\n"),
        ] {
            assert!(help.stdout.contains(&text), "{first}: {}", help.stdout);
        }
        let wrong = run(first, &path, &["expose", "api"], &[]).await;
        assert_eq!(wrong.code, 2);
        let text = format!("type `{name} expose api PORT`");
        assert!(wrong.stderr.contains(&text), "{first}: {}", wrong.stderr);
    }
}

#[tokio::test]
async fn the_configuration_is_read_checked_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = renamed(&folder, "kubectl-tunnel");
    let file = folder.path().join("c.yaml");
    let place = file.to_str().unwrap();
    let view = ["config", "view", "--show-origin", "-o", "json"];
    let vars = [
        ("KUBECTL_TUNNEL_CONFIG", place),
        ("KUBECTL_TUNNEL_CONTEXT", "here"),
    ];

    fs::write(&file, "namespace: dev\nproxy:\n  grace: 1m\n").unwrap();
    let said = run("kubectl-tunnel", &plugin, &view, &vars).await;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let shown: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(shown["namespace"]["value"], "dev");
    assert_eq!(shown["context"]["variable"], "KUBECTL_TUNNEL_CONTEXT");
    let grace = serde_json::json!({"value": "1m", "origin": "file", "file": place, "line": 3});
    assert_eq!(shown["proxy"]["grace"], grace);
    assert_eq!(shown["forward"]["grace"]["origin"], "default");

    fs::write(&file, "namespace: dev\ngrase: 1m\n").unwrap();
    for words in [&view[..], &["version", "--client"]] {
        let said = run("kubectl-tunnel", &plugin, words, &vars).await;
        assert_eq!(said.code, 2);
        let text = format!("error: {place}:2: unknown key `grase`; did you mean `grace`?\n");
        assert_eq!((said.stdout.as_str(), said.stderr), ("", text));
    }
}

#[tokio::test]
async fn an_option_of_the_file_is_not_taken_for_a_flag() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = renamed(&folder, "kubectl-tunnel");
    let file = folder.path().join("c.yaml");
    fs::write(&file, "listen: 127.0.0.1:0\nidle-timeout: 5m\n").unwrap();
    let config = [
        "--config",
        file.to_str().unwrap(),
        "--kubeconfig",
        "/nonexistent/k",
    ];
    for (words, code) in [
        (&["expose", "80"][..], 3),
        (&["expose", "80", "--listen", "127.0.0.1:0"], 2),
        (&["forward", "svc/web", "80"], 3),
        (&["forward", "svc/web", "80", "--idle-timeout", "5m"], 2),
    ] {
        let said = run("kubectl-tunnel", &plugin, &[words, &config].concat(), &[]).await;
        assert_eq!(said.code, code, "{words:?}: {}", said.stderr);
    }
}

/// A kubeconfig whose server is at `address`, and whose user comes from `user`.
fn kubeconfig(folder: &TempDir, address: &str, user: &str) -> String {
    let path = folder.path().join("kubeconfig");
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
         clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}], users: [{{name: u, user: {user}}}]}}"
    );
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_shell_is_answered_in_time_and_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = renamed(&folder, "kubectl-tunnel");
    // Connections wait here for ever.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let login = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, interactiveMode: IfAvailable, \
                 args: ['-c', 'echo who are you >&2; read answer; sleep 6']}}";
    for user in ["{token: x}", login] {
        let config = kubeconfig(&folder, &address, user);
        let vars = [("KUBECONFIG", config.as_str()), ("PATH", "/usr/bin:/bin")];
        let words = ["__complete", "forward", "svc/"];
        let said = run("kubectl-tunnel", &plugin, &words, &vars).await;
        assert_eq!(
            (said.code, said.stdout.as_str(), said.stderr.as_str()),
            (0, ":4\n", ""),
            "{user}"
        );
        // Two seconds, and what a busy machine adds to the start of a process.
        assert!(said.after < Duration::from_secs(4), "{user}: {:?}", said.after);

        let said = run(
            "kubectl-tunnel",
            &plugin,
            &["__complete", "proxy", "--context="],
            &vars,
        )
        .await;
        assert_eq!(said.stdout, "c\n:4\n");
    }
}

#[tokio::test]
async fn kubectls_door_is_beside_the_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = renamed(&folder, "kubectl-burrow");
    let path = plugin.to_str().unwrap();
    let vars = [("PATH", folder.path().to_str().unwrap())];
    let install = ["completion", "install"];
    let shim = folder.path().join("kubectl_complete-burrow");
    for _ in ["new", "again"] {
        let said = run(path, &plugin, &install, &vars).await;
        assert_eq!(said.code, 0, "{}", said.stderr);
        assert_eq!(said.stdout, format!("{}\n", shim.display()));
    }
    assert_eq!(fs::metadata(&shim).unwrap().permissions().mode() & 0o777, 0o755);
    let said = run("kubectl_complete-burrow", &shim, &["pro"], &[]).await;
    assert!(
        said.stdout.starts_with("proxy\t") && said.stdout.ends_with("\n:4\n"),
        "{}",
        said.stdout
    );

    fs::write(&shim, "#!/bin/sh\n# somebody's\n").unwrap();
    let said = run(path, &plugin, &install, &vars).await;
    assert_eq!(said.code, 2);
    assert!(said.stderr.contains("is there, and not ours"), "{}", said.stderr);
    assert!(fs::read_to_string(&shim).unwrap().contains("somebody"));

    let said = run(path, &plugin, &install, &[("PATH", "/nonexistent")]).await;
    assert!(
        said.code == 2 && said.stderr.contains("is not on PATH"),
        "{}",
        said.stderr
    );
}
