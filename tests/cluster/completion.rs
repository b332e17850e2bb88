//! Completion as people have it: bash in a terminal, kubectl's own completion, and names of the cluster.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::harness::namespace::Namespace;
use crate::harness::settings::{Settings, on_path};
use crate::harness::{notice, poll, run};

/// The library that kubectl's script for bash is written for.
const BASH_COMPLETION: &str = "/usr/share/bash-completion/bash_completion";

/// A key, and all of the answer on the screen: three processes one after the other, and the cluster.
const SEEN: Duration = Duration::from_secs(15);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn bash_completes_targets_and_ports_through_kubectl() {
    if on_path("bash").is_none() || !Path::new(BASH_COMPLETION).exists() {
        return notice("not tried: kubectl's completion needs bash and the package bash-completion");
    }
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let folder = namespace.folder().join("bin");
        std::fs::create_dir(&folder).unwrap();
        symlink(&Settings::get().plugin, folder.join("kubectl-burrow")).unwrap();
        let mut terminal = Terminal::bash(&folder, &namespace.kubeconfig());

        terminal.type_in("kubectl burrow completion install && echo inst''alled\r");
        terminal.wait_for("installed").await;
        terminal.type_in(&format!(
            "source {BASH_COMPLETION}; source <(kubectl completion bash); echo re''ady\r"
        ));
        terminal.wait_for("ready").await;

        // What all have in common first, and a list of all then.
        terminal.type_in("kubectl burrow forward svc/\t");
        terminal.wait_for("svc/web").await;
        terminal.type_in("\t\t");
        terminal.wait_for("svc/web-headless").await;
        // Ctrl-U, for the next line.
        terminal.type_in("\u{15}kubectl burrow forward svc/web 8080:79\t");
        terminal.wait_for("8080:7999 ").await;
        terminal.type_in("\u{15}kubectl burrow exp\t");
        terminal.wait_for("burrow expose ").await;
        terminal.type_in("\u{15}exit\r");
    });
}

/// A shell in a terminal.
struct Terminal {
    shell: Child,
    keys: File,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// bash without anybody's start files, with `folder` first on PATH.
    fn bash(folder: &Path, kubeconfig: &Path) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a terminal with a shell");
        grantpt(&keys).expect("a terminal with a shell");
        unlockpt(&keys).expect("a terminal with a shell");
        let name = ptsname(&keys, Vec::new()).expect("a terminal with a shell");
        let inside = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().expect("a terminal with a shell"))
            .expect("a terminal with a shell");
        let side = || Stdio::from(inside.try_clone().expect("a terminal with a shell"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
        let shell = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .arg("-i")
            .env(
                "PATH",
                std::env::join_paths(folders).expect("a terminal with a shell"),
            )
            .env("KUBECONFIG", kubeconfig)
            .env("TERM", "dumb")
            .env("PS1", "$ ")
            .env_remove("HISTFILE")
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("a terminal with a shell");
        let keys = File::from(keys);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut output, written) = (
            keys.try_clone().expect("a terminal with a shell"),
            Arc::clone(&screen),
        );
        // Ends with the terminal, which the shell is the last to hold.
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                let text = String::from_utf8_lossy(&piece[..length]);
                // A bell may ring in the middle of a word.
                let seen = text.chars().filter(|c| !c.is_control() || *c == '\n');
                written
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(seen);
            }
        });
        Self { shell, keys, screen }
    }

    /// What is on the screen from here on counts.
    fn type_in(&mut self, keys: &str) {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.keys
            .write_all(keys.as_bytes())
            .expect("a terminal with a shell");
    }

    async fn wait_for(&self, text: &str) {
        let seen = async || {
            let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            screen.contains(text).then_some(())
        };
        poll(SEEN, &format!("`{text}` on the screen"), seen).await;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.shell.kill());
        drop(self.shell.wait());
        if std::thread::panicking() {
            let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            crate::harness::say(&format!("the screen:\n{screen}"));
        }
    }
}
