//! A whole release: a folder of archives, the manifest for them, and all rules applied to both.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::manifest::{self, Base, Manifest};
use crate::pack::{self, Entry};
use crate::platform::{Platform, RELEASED};
use crate::serve::{Server, fetch};
use crate::{Error, VERSION, install, read, rules, sums, write};

/// The tag of the release: its version with a `v`.
#[must_use]
pub fn tag() -> String {
    format!("v{VERSION}")
}

/// What the file names of this release start with.
#[must_use]
pub fn prefix() -> String {
    format!("kubectl-tunnel-{}-", tag())
}

/// Packs one platform's archive: the program, and documents under their own file names. Returns its path.
///
/// # Errors
/// A file cannot be read or written, or does not fit into the archive.
pub fn pack(
    platform: Platform,
    binary: &Path,
    documents: &[PathBuf],
    time: u32,
    folder: &Path,
) -> Result<PathBuf, Error> {
    let mut entries = vec![Entry {
        name: platform.binary().to_owned(),
        executable: true,
        content: read(binary)?,
    }];
    for document in documents {
        let name = document.file_name().unwrap_or_default().to_string_lossy();
        entries.push(Entry {
            name: name.into_owned(),
            executable: false,
            content: read(document)?,
        });
    }
    let name = platform.archive(&tag());
    let archive = pack::archive(platform, entries, time).map_err(|source| Error::Pack {
        name: name.clone(),
        source,
    })?;
    let path = folder.join(name);
    write(&path, &archive)?;
    Ok(path)
}

/// The manifest for the archives of a folder.
///
/// # Errors
/// One of them is missing.
pub fn manifest(folder: &Path, name: &str, base: Base<'_>) -> Result<String, Error> {
    manifest::render(name, &tag(), base, |file| {
        read(&folder.join(file)).map(|bytes| sums::sha256(&bytes))
    })
}

/// Writes the manifest, to be put among a release's files, and the index that `kubectl krew index add` takes, to be
/// pushed to a repository of its own. Returns the manifest's path.
///
/// # Errors
/// An archive is missing, or the manifest breaks a rule.
pub fn write_krew(folder: &Path, name: &str, out: &Path) -> Result<PathBuf, Error> {
    let text = manifest(folder, name, Base::Release)?;
    let file = format!("{name}.yaml");
    let broken = rules::broken(&file, &Manifest::parse(&text)?);
    if !broken.is_empty() {
        return Err(Error::Rules(broken));
    }
    write(&out.join("index/plugins").join(&file), text.as_bytes())?;
    let path = out.join(file);
    write(&path, text.as_bytes())?;
    Ok(path)
}

/// Serves the folder and installs every platform's archive below `root` by the manifest's rules; then by Krew itself and
/// its index's own check, where they are on this machine; then runs the program if there is one for this machine.
/// `suits` says what is wrong with a platform's program. Says what it does. Returns the link to this machine's program.
///
/// # Errors
/// All broken rules, or what could not be done at all.
pub fn check(
    folder: &Path,
    name: &str,
    root: &Path,
    suits: impl Fn(Platform, &[u8]) -> Result<(), String>,
    say: &mut dyn FnMut(&str),
) -> Result<Option<PathBuf>, Error> {
    let server = Server::start(folder).map_err(|source| Error::File {
        doing: "serve",
        path: folder.to_owned(),
        source,
    })?;
    let text = manifest(folder, name, Base::Server(&server.base()))?;
    let file = format!("{name}.yaml");
    let path = root.join(&file);
    write(&path, text.as_bytes())?;
    let manifest = Manifest::parse(&text)?;
    let mut broken = rules::broken(&file, &manifest);
    broken.extend(not_listed(folder)?);

    let mut program = None;
    for platform in RELEASED {
        let Some(spec) = manifest
            .spec
            .platforms
            .iter()
            .find(|spec| rules::selects(spec, platform))
        else {
            broken.push(format!("no archive for {platform}"));
            continue;
        };
        let planned = fetch(&spec.uri)
            .map_err(|error| error.to_string())
            .and_then(|archive| install::plan(spec, &archive))
            .and_then(|files| {
                let program = files.get(&spec.bin).map(|file| file.content.as_slice());
                suits(platform, program.unwrap_or_default()).map(|()| files)
            });
        match planned {
            Ok(files) => {
                let names: Vec<&str> = files.keys().map(String::as_str).collect();
                say(&format!("{platform}: {}", names.join(", ")));
                let link = install::install(&manifest, spec, &files, &root.join(platform.to_string()))?;
                if Platform::of_this_machine() == Some(platform) {
                    program = Some(link);
                }
            }
            Err(why) => broken.push(format!("{platform}: {why}")),
        }
        if broken.is_empty() {
            broken.extend(by_krew(platform, &path, root, say));
        }
    }
    if let Some(program) = &program {
        let version = run(Command::new(program).args(["version", "--client"]));
        match version {
            Ok(version) => say(version.trim_end()),
            Err(why) => broken.push(why),
        }
    }
    if broken.is_empty() {
        Ok(program)
    } else {
        Err(Error::Rules(broken))
    }
}

/// Archives whose line is missing in `SHA256SUMS`, or says something else.
fn not_listed(folder: &Path) -> Result<Vec<String>, Error> {
    let listed = String::from_utf8_lossy(&read(&folder.join(sums::FILE))?).into_owned();
    let mut wrong = Vec::new();
    for platform in RELEASED {
        let name = platform.archive(&tag());
        let line = format!("{}  {name}", sums::sha256(&read(&folder.join(&name))?));
        if !listed.lines().any(|listed| listed == line) {
            wrong.push(format!("{} tells another sum of {name}", sums::FILE));
        }
    }
    Ok(wrong)
}

/// Krew's own word on one platform, where it is installed.
fn by_krew(platform: Platform, manifest: &Path, root: &Path, say: &mut dyn FnMut(&str)) -> Option<String> {
    let krew = on_path("kubectl-krew").or_else(|| on_path("krew"))?;
    let krew_root = root.join(format!("krew-{platform}"));
    let installed = run(Command::new(krew)
        .args(["install", "--manifest"])
        .arg(manifest)
        .env("KREW_ROOT", &krew_root)
        .env("KREW_OS", platform.os)
        .env("KREW_ARCH", platform.arch));
    match installed {
        Ok(_) => say(&format!("{platform}: installed by krew too")),
        Err(why) => return Some(why),
    }
    // Once is enough: it looks at all platforms of the manifest.
    if platform == RELEASED[0]
        && let Some(validate) = on_path("validate-krew-manifest")
    {
        let validated = run(Command::new(validate)
            .args(["-skip-install", "-manifest"])
            .arg(manifest));
        match validated {
            Ok(_) => say("the manifest is good by validate-krew-manifest"),
            Err(why) => return Some(why),
        }
    }
    None
}

fn on_path(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// What the program printed, or why it failed.
fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(format!(
            "{name} ended with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => Err(format!("{name} does not run: {error}")),
    }
}
