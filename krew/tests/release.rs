//! A release of small stand-ins, packed, served, and installed by the same code as a real one; by Krew too where it is
//! present. `make dist-test` does the same with the real archives.
#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};

use tunnel_dist::platform::{Platform, RELEASED};
use tunnel_dist::{Error, release, sums};

/// A folder with an archive for each platform, whose program prints its arguments.
fn packed(folder: &Path) -> PathBuf {
    let binary = folder.join("program");
    std::fs::write(&binary, "#!/bin/sh\necho stand-in \"$@\"\n").unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let documents = [root.join("README.md"), root.join("LICENSE")];
    let dist = folder.join("dist");
    for platform in RELEASED {
        release::pack(platform, &binary, &documents, 1_700_000_000, &dist).unwrap();
    }
    sums::write_for(&dist, &release::prefix()).unwrap();
    dist
}

fn check(dist: &Path, into: &Path) -> Result<(Option<PathBuf>, Vec<String>), Error> {
    let mut said = Vec::new();
    let any = |_: Platform, _: &[u8]| Ok(());
    let program = release::check(dist, "burrow", into, any, &mut |line| said.push(line.to_owned()))?;
    Ok((program, said))
}

#[test]
fn a_packed_release_installs_on_every_platform() {
    let folder = tempfile::tempdir().unwrap();
    let dist = packed(folder.path());
    let (program, said) = check(&dist, &folder.path().join("into")).unwrap();
    for platform in RELEASED {
        let files = format!("{platform}: LICENSE, README.md, {}", platform.binary());
        assert!(said.contains(&files), "{files}: {said:?}");
    }
    if Platform::of_this_machine().is_some() {
        assert!(program.unwrap().ends_with("bin/kubectl-burrow"));
        assert!(said.contains(&"stand-in version --client".to_owned()), "{said:?}");
    }
}

#[test]
fn what_is_installed_leads_there_from_wherever_it_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let dist = packed(folder.path());
    let (into, moved) = (folder.path().join("into"), folder.path().join("moved"));
    check(&dist, &into).unwrap();
    // As for a root that was given relative to some other folder.
    std::fs::rename(&into, &moved).unwrap();
    let program = moved.join("linux-amd64/bin/kubectl-burrow");
    assert!(program.exists(), "{:?}", std::fs::read_link(&program));
}

#[test]
fn an_archive_changed_after_packing_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let dist = packed(folder.path());
    let name = RELEASED[2].archive(&release::tag());
    std::fs::write(dist.join(&name), b"PK\x03\x04 something else").unwrap();
    let error = check(&dist, &folder.path().join("into")).unwrap_err().to_string();
    assert!(
        error.contains(&format!("SHA256SUMS tells another sum of {name}")),
        "{error}"
    );
    assert!(error.contains("darwin-amd64: it cannot be read"), "{error}");
}

#[test]
fn the_manifest_is_written_for_a_release_and_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let dist = packed(folder.path());
    let path = release::write_krew(&dist, "burrow", &dist.join("krew")).unwrap();
    let manifest = std::fs::read_to_string(&path).unwrap();
    assert!(manifest.contains("  name: burrow\n"), "{manifest}");
    let index = dist.join("krew/index/plugins/burrow.yaml");
    assert_eq!(std::fs::read_to_string(index).unwrap(), manifest);

    std::fs::remove_file(dist.join(RELEASED[4].archive(&release::tag()))).unwrap();
    assert!(release::write_krew(&dist, "burrow", &dist.join("krew")).is_err());
    assert!(release::write_krew(&dist, "svc-burrow", &dist.join("krew")).is_err());
}
