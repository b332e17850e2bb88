//! Archives that are the same, byte for byte, whoever packs the same files.
//!
//! Entries are sorted, belong to nobody (0), carry one given time and given modes; there are neither folders nor links.

use std::io::{self, Cursor, Write as _};

use flate2::{Compression, GzBuilder};
use zip::write::SimpleFileOptions;

use crate::platform::Platform;

/// One file of an archive.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name in the archive.
    pub name: String,
    /// Whether it may be executed (0755), or just read (0644).
    pub executable: bool,
    /// Its bytes.
    pub content: Vec<u8>,
}

impl Entry {
    fn mode(&self) -> u32 {
        if self.executable { 0o755 } else { 0o644 }
    }
}

/// The archive of a platform: zip for Windows, else a gzipped tar. `time` is in seconds since 1970.
///
/// # Errors
/// A name or a time that the format cannot hold; a zip knows no time before 1980.
pub fn archive(platform: Platform, mut entries: Vec<Entry>, time: u32) -> io::Result<Vec<u8>> {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    if platform.is_windows() {
        zip(&entries, time)
    } else {
        tar_gz(&entries, time)
    }
}

fn tar_gz(entries: &[Entry], time: u32) -> io::Result<Vec<u8>> {
    // 255 is "unknown system": what else flate2 would write depends on where it runs.
    let gzip = GzBuilder::new()
        .mtime(time)
        .operating_system(255)
        .write(Vec::new(), Compression::best());
    let mut tar = tar::Builder::new(gzip);
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(entry.mode());
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(time.into());
        header.set_size(entry.content.len() as u64);
        tar.append_data(&mut header, &entry.name, entry.content.as_slice())?;
    }
    tar.into_inner()?.finish()
}

fn zip(entries: &[Entry], time: u32) -> io::Result<Vec<u8>> {
    let moment = jiff::Timestamp::from_second(time.into()).map_err(io::Error::other)?;
    let civil = moment.to_zoned(jiff::tz::TimeZone::UTC).datetime();
    let part = |part: i8| u8::try_from(part).map_err(io::Error::other);
    let modified = zip::DateTime::from_date_and_time(
        u16::try_from(civil.year()).map_err(io::Error::other)?,
        part(civil.month())?,
        part(civil.day())?,
        part(civil.hour())?,
        part(civil.minute())?,
        part(civil.second())?,
    )
    .map_err(io::Error::other)?;
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for entry in entries {
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .compression_level(Some(9))
            .last_modified_time(modified)
            .unix_permissions(entry.mode());
        zip.start_file(&entry.name, options).map_err(io::Error::other)?;
        zip.write_all(&entry.content)?;
    }
    Ok(zip.finish().map_err(io::Error::other)?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::RELEASED;

    fn entries() -> Vec<Entry> {
        let entry = |name: &str, executable, content: &[u8]| Entry {
            name: name.to_owned(),
            executable,
            content: content.to_vec(),
        };
        vec![
            entry("kubectl-tunnel", true, &[7; 10_000]),
            entry("LICENSE", false, b"free"),
        ]
    }

    #[test]
    fn the_order_of_entries_and_the_clock_change_nothing() {
        for platform in RELEASED {
            let mut turned = entries();
            turned.reverse();
            let one = archive(platform, entries(), 1_700_000_000).unwrap();
            assert_eq!(
                one,
                archive(platform, turned, 1_700_000_000).unwrap(),
                "{platform}"
            );
            let later = archive(platform, entries(), 1_700_000_002).unwrap();
            assert_ne!(one, later, "the given time is in it");
        }
    }

    #[test]
    fn tar_entries_are_plain_files_of_nobody() {
        let bytes = archive(RELEASED[0], entries(), 1_700_000_000).unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let mut seen = Vec::new();
        for entry in tar.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.entry_type(), tar::EntryType::Regular);
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert_eq!(
                (header.username(), header.groupname()),
                (Ok(Some("")), Ok(Some("")))
            );
            assert_eq!(header.mtime().unwrap(), 1_700_000_000);
            seen.push((
                entry.path().unwrap().display().to_string(),
                header.mode().unwrap(),
            ));
        }
        let expected = [
            ("LICENSE".to_owned(), 0o644),
            ("kubectl-tunnel".to_owned(), 0o755),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_zip_knows_no_time_before_1980() {
        assert!(archive(RELEASED[4], entries(), 0).is_err());
    }
}
