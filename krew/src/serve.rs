//! The files of a folder over HTTP on a free port of loopback, and the client for just that.
//!
//! Krew fetches archives by address even when they are at hand; this is what the address leads to.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the other end may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens, and serves one request after the other.
    ///
    /// # Errors
    /// No port can be had.
    pub fn start(folder: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (folder, stopped) = (folder.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // A client that fails notices itself.
                drop(connection.and_then(|connection| answer(connection, &folder)));
            }
        });
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// What a file name is put behind.
    #[must_use]
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread; if that fails, it ends with the process.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}

fn answer(mut connection: TcpStream, folder: &Path) -> io::Result<()> {
    connection.set_read_timeout(Some(SILENCE))?;
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    match requested(&request, folder).and_then(|path| std::fs::read(path).ok()) {
        Some(content) => {
            let length = content.len();
            write!(
                connection,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            )?;
            connection.write_all(&content)
        }
        None => {
            connection.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        }
    }
}

/// The file that `GET /NAME HTTP/1.1` asks for; only plain names are known.
fn requested(request: &str, folder: &Path) -> Option<PathBuf> {
    let name = request.strip_prefix("GET /")?.split(' ').next()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_plain = !name.starts_with('.') && name.chars().all(plain);
    is_plain.then(|| folder.join(name))
}

/// Fetches from a [`Server`].
///
/// # Errors
/// Not an address of loopback, no such file, or the connection failed.
pub fn fetch(uri: &str) -> io::Result<Vec<u8>> {
    let wrong = |why: &str| io::Error::other(format!("{why}: {uri}"));
    let (address, path) = uri
        .strip_prefix("http://127.0.0.1:")
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(|| wrong("not an address of loopback"))?;
    let mut connection = TcpStream::connect(format!("127.0.0.1:{address}"))?;
    connection.set_read_timeout(Some(SILENCE))?;
    write!(
        connection,
        "GET /{path} HTTP/1.1\r\nHost: 127.0.0.1:{address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let body = end
        .filter(|_| answer.starts_with(b"HTTP/1.1 200 "))
        .ok_or_else(|| wrong("not found"))?;
    Ok(answer.split_off(body + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serves_the_files_of_its_folder_and_nothing_else() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("served");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a-1.0.zip"), b"bytes").unwrap();
        std::fs::write(above.path().join("secret"), b"no").unwrap();
        let server = Server::start(&folder).unwrap();
        let get = |name: &str| fetch(&format!("{}/{name}", server.base()));
        assert_eq!(get("a-1.0.zip").unwrap(), b"bytes");
        for name in ["b", "", "..", "../secret", "%2e%2e/secret"] {
            assert!(get(name).is_err(), "{name}");
        }
        assert!(fetch("http://example.com/a").is_err());
    }
}
