//! What `krew/dist.mk` calls: one command for each step between binaries and a release.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a build tool talks to its terminal"
)]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tunnel_dist::platform::Platform;
use tunnel_dist::{Error, manifest, program, release, sbom, sums};

/// Packs a release of kubectl tunnel, and renders and checks its Krew manifest.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pack one platform's archive
    Pack {
        #[arg(long)]
        platform: Platform,
        /// The program
        #[arg(long)]
        binary: PathBuf,
        /// The time of all entries, in seconds since 1970
        #[arg(long, env = "SOURCE_DATE_EPOCH")]
        time: u32,
        /// The folder for the archive
        #[arg(long)]
        out: PathBuf,
        /// What else is packed
        #[arg(required = true)]
        documents: Vec<PathBuf>,
    },
    /// Write the bill of materials from the output of `cargo metadata` on stdin
    Sbom {
        /// Its time, in seconds since 1970
        #[arg(long, env = "SOURCE_DATE_EPOCH")]
        time: u32,
        /// The folder for it
        #[arg(long)]
        out: PathBuf,
    },
    /// Write SHA256SUMS for the release's files in a folder
    Sums { folder: PathBuf },
    /// Write the Krew manifest and the index for the archives of a folder
    Krew {
        /// The plugin's name
        #[arg(long)]
        name: String,
        /// The folder for them
        #[arg(long)]
        out: PathBuf,
        folder: PathBuf,
    },
    /// Print .krew.yaml, which krew-release-bot renders
    Bot {
        /// The plugin's name
        #[arg(long)]
        name: String,
    },
    /// Install the archives of a folder by the manifest's rules, and run the program for this machine
    Check {
        /// The plugin's name
        #[arg(long)]
        name: String,
        /// Where to install; must not exist [default: somewhere, and removed at the end]
        #[arg(long)]
        into: Option<PathBuf>,
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                eprintln!("  caused by: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Pack {
            platform,
            binary,
            time,
            out,
            documents,
        } => {
            let path = release::pack(platform, &binary, &documents, time, &out)?;
            println!("{}", path.display());
        }
        Command::Sbom { time, out } => {
            let mut metadata = String::new();
            std::io::stdin()
                .read_to_string(&mut metadata)
                .map_err(|source| file("read", Path::new("stdin"), source))?;
            let path = out.join(format!("{}sbom.cdx.json", release::prefix()));
            let document = sbom::cyclone_dx(&metadata, time)?;
            std::fs::create_dir_all(&out)
                .and_then(|()| std::fs::write(&path, document))
                .map_err(|source| file("write", &path, source))?;
            println!("{}", path.display());
        }
        Command::Sums { folder } => sums::write_for(&folder, &release::prefix())?,
        Command::Krew { name, out, folder } => {
            println!("{}", release::write_krew(&folder, &name, &out)?.display());
        }
        Command::Bot { name } => print!("{}", manifest::for_bot(&name)),
        Command::Check { name, into, folder } => {
            let temporary =
                tempfile::tempdir().map_err(|source| file("make", &std::env::temp_dir(), source))?;
            let root = into.unwrap_or_else(|| temporary.path().to_owned());
            let mut say = |line: &str| println!("{line}");
            let link = release::check(&folder, &name, &root, program::suits, &mut say)?;
            if let Some(link) = link {
                println!("installed: {}", link.display());
            }
        }
    }
    Ok(())
}

fn file(doing: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File {
        doing,
        path: path.to_owned(),
        source,
    }
}
