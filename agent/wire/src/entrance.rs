//! The proofs at the entrance: what comes before the hello on a transport that no exec carries.
//!
//! A port of the agent's loopback is open to whoever may port-forward into the pod and to every container in it. So
//! nothing answers there but to a plugin that knows the secret, and the plugin learns whether what answers does. The
//! secret itself never travels here. Both halves are in this file; it opens no socket and decides nothing about links.
//!
//! ```text
//!   plugin                                                  agent
//!     | magic "KTEN", wire version u16, nonce  --------->     |  closes unless both are its own and there is a key
//!     |      <---------                      nonce            |
//!     | proof, sender 1                        --------->     |  closes if it is wrong
//!     |      <---------            proof, sender 2            |
//!     |  gives up if it is wrong                              |
//!     | 'E' and the bytes of the probe         --------->     |  at most 8 times, to measure the path
//!     |      <---------         the same bytes                |
//!     | hello with a secret of zeros           --------->     |  from here on a transport like others
//! ```
//!
//! Nonces are 32 random bytes. A proof is HMAC-SHA256 over these 114 bytes:
//!
//! ```text
//!   0  "kubectl tunnel entrance"
//!  23  sender u8: 1 plugin, 2 agent
//!  24  wire version u16
//!  26  session id, 16 bytes, padded with NUL
//!  42  link u64
//!  50  the plugin's nonce, 32 bytes
//!  82  the agent's nonce, 32 bytes
//! ```
//!
//! Its key is the secret, which an agent knows only once a plugin has proven it over exec: the pod's environment holds
//! the digest alone, and whoever may read pods sees that. "Closes" is without another byte, whatever is wrong.

use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use crate::hello::{self, HELLO_TIMEOUT, Hello, HelloError, Secret, Sender, SessionId};
use crate::identity;
use crate::probe;
use crate::version::WIRE_VERSION;

/// How often the agent echoes before it wants a hello: three rounds decide, and some may be lost to a busy moment.
pub const MAX_ECHOES: u32 = 8;

/// How long each echo may take. A line that carries 80 KiB both ways in no less is not better than another one.
pub const ECHO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long everything from the proofs to the hello may take: three echoes, and as many measurements of another path
/// between them.
pub const MEASURE_TIMEOUT: Duration = Duration::from_secs(60);

const MAGIC: [u8; 4] = *b"KTEN";
const FRONT: usize = MAGIC.len() + 2;
const LABEL: [u8; 23] = *b"kubectl tunnel entrance";
const ECHO: u8 = b'E';

/// Random bytes that no proof before was made for.
pub type Nonce = [u8; 32];

/// What both ends of a session know.
#[derive(Debug, Clone)]
pub struct Key {
    /// The session.
    pub session: SessionId,
    /// The link that a transport is brought to.
    pub link: u64,
    /// What is proven.
    pub secret: Secret,
}

/// Why nothing came of a transport at the entrance.
#[derive(Debug, thiserror::Error)]
pub enum EntranceError {
    /// The other end said nothing in time.
    #[error("no answer at the agent's entrance in time")]
    TimedOut,
    /// The other end closed, which is all that a refusal looks like.
    #[error("the agent's entrance was closed")]
    Closed,
    /// The transport failed.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// The other end does not know the secret.
    #[error("what answers at the agent's entrance does not know the session's secret")]
    Unproven,
    /// The path alters what passes.
    #[error("bytes were altered on the way, first at byte {0} of a probe")]
    Altered(u32),
    /// The proofs were right, and what followed was not.
    #[error(transparent)]
    Hello(#[from] HelloError),
}

impl Key {
    fn prove(&self, sender: Sender, plugin: &Nonce, agent: &Nonce) -> [u8; 32] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(&LABEL);
        mac.update(&[sender as u8]);
        mac.update(&WIRE_VERSION.to_be_bytes());
        mac.update(&self.session.padded());
        mac.update(&self.link.to_be_bytes());
        mac.update(plugin);
        mac.update(agent);
        mac.finalize().into_bytes().into()
    }

    /// Takes the same time for every wrong proof.
    fn check(
        &self,
        sender: Sender,
        plugin: &Nonce,
        agent: &Nonce,
        proof: &[u8],
    ) -> Result<(), EntranceError> {
        let right = self.prove(sender, plugin, agent);
        if identity::equal(&right, proof) {
            Ok(())
        } else {
            Err(EntranceError::Unproven)
        }
    }
}

/// The plugin's half of the proofs, at most [`HELLO_TIMEOUT`]. After it come [`echo`]es, if any, and
/// [`crate::hello::connect`].
///
/// # Errors
/// The other end does not answer, or does not know the secret.
pub async fn knock(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    key: &Key,
    nonce: &Nonce,
) -> Result<(), EntranceError> {
    in_time(HELLO_TIMEOUT, async {
        let mut front = Vec::with_capacity(FRONT + nonce.len());
        front.extend(MAGIC);
        front.extend(WIRE_VERSION.to_be_bytes());
        front.extend(nonce);
        send(writer, &front).await?;
        let theirs = receive(reader).await?;
        send(writer, &key.prove(Sender::Plugin, nonce, &theirs)).await?;
        let proof: [u8; 32] = receive(reader).await?;
        key.check(Sender::Agent, nonce, &theirs, &proof)
    })
    .await
}

/// Sends the bytes of the probe and waits until all are back, at most [`ECHO_TIMEOUT`].
///
/// # Errors
/// They do not come back, or not as they were.
pub async fn echo(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<(), EntranceError> {
    let sending = async {
        let mut bytes = BytesMut::with_capacity(1 + probe::PROBE_LENGTH as usize);
        bytes.put_u8(ECHO);
        for offset in (0..probe::PROBE_LENGTH).step_by(probe::PROBE_CHUNK as usize) {
            bytes.put(probe::chunk(offset));
        }
        send(writer, &bytes).await
    };
    let receiving = async {
        let mut buffer = vec![0; probe::PROBE_CHUNK as usize];
        let mut offset = 0;
        while offset < probe::PROBE_LENGTH {
            let taken = take(reader, &mut buffer, probe::PROBE_LENGTH - offset).await?;
            if let Some(altered) = probe::first_difference(offset, taken) {
                return Err(EntranceError::Altered(altered));
            }
            offset += length(taken);
        }
        Ok(())
    };
    in_time(ECHO_TIMEOUT, async {
        tokio::try_join!(sending, receiving).map(|((), ())| ())
    })
    .await
}

/// The agent's half: everything up to the plugin's hello, which it judges as far as the key goes. Without a key the
/// entrance is closed.
///
/// # Errors
/// Nobody who knows the secret came, or not for this link. There is nothing to answer.
pub async fn admit(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    nonce: Nonce,
    key: Option<Key>,
) -> Result<Hello, EntranceError> {
    let mut porter = Porter::new(nonce, key.ok_or(EntranceError::Closed)?);
    let mut deadline = Instant::now() + HELLO_TIMEOUT;
    let mut buffer = Vec::new();
    // One place that reads and one that writes: in the agent each costs a kilobyte.
    loop {
        let is_proven = porter.is_proven();
        buffer.resize(porter.wants(), 0);
        let step = async {
            reader.read_exact(&mut buffer).await.map_err(failed)?;
            let hello = porter.take(&mut buffer)?;
            writer.write_all(&buffer).await.map_err(failed)?;
            writer.flush().await.map_err(failed)?;
            Ok(hello)
        };
        let hello = timeout_at(deadline, step)
            .await
            .unwrap_or(Err(EntranceError::TimedOut))?;
        if let Some(hello) = hello {
            return Ok(hello);
        }
        if porter.is_proven() && !is_proven {
            deadline = Instant::now() + MEASURE_TIMEOUT;
        }
    }
}

/// Who stands at the agent's entrance: bytes in, bytes out.
struct Porter {
    nonce: Nonce,
    key: Key,
    theirs: Nonce,
    waits_for: Waits,
    echoes: u32,
    hello: Vec<u8>,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Waits {
    Front,
    Proof,
    /// The first bytes of a hello, or an echo's tag with its first bytes.
    Next,
    /// So much of an echo is left.
    Echo(u32),
    /// So much of a hello is left.
    Hello(usize),
}

impl Porter {
    fn new(nonce: Nonce, key: Key) -> Self {
        Self {
            nonce,
            key,
            theirs: [0; 32],
            waits_for: Waits::Front,
            echoes: 0,
            hello: Vec::new(),
        }
    }

    fn is_proven(&self) -> bool {
        !matches!(self.waits_for, Waits::Front | Waits::Proof)
    }

    /// How many bytes to read.
    fn wants(&self) -> usize {
        match self.waits_for {
            Waits::Front => FRONT + self.nonce.len(),
            Waits::Proof => 32,
            Waits::Next => hello::FRONT,
            Waits::Echo(left) => left.min(probe::PROBE_CHUNK) as usize,
            Waits::Hello(left) => left,
        }
    }

    /// Takes so many bytes and leaves what is to be answered in their place.
    fn take(&mut self, bytes: &mut Vec<u8>) -> Result<Option<Hello>, EntranceError> {
        match self.waits_for {
            Waits::Front => {
                let (front, theirs) = bytes.split_at(FRONT);
                if front[..MAGIC.len()] != MAGIC || front[MAGIC.len()..] != WIRE_VERSION.to_be_bytes() {
                    return Err(EntranceError::Unproven);
                }
                self.theirs.copy_from_slice(theirs);
                bytes.clear();
                bytes.extend(self.nonce);
                self.waits_for = Waits::Proof;
            }
            Waits::Proof => {
                self.key.check(Sender::Plugin, &self.theirs, &self.nonce, bytes)?;
                let proof = self.key.prove(Sender::Agent, &self.theirs, &self.nonce);
                bytes.clear();
                bytes.extend(proof);
                self.waits_for = Waits::Next;
            }
            Waits::Next if bytes[0] == ECHO => {
                self.echoes += 1;
                if self.echoes > MAX_ECHOES {
                    return Err(EntranceError::Closed);
                }
                bytes.remove(0);
                self.waits_for = Waits::Echo(probe::PROBE_LENGTH - length(bytes));
            }
            Waits::Echo(left) => {
                self.waits_for = match left - length(bytes) {
                    0 => Waits::Next,
                    left => Waits::Echo(left),
                };
            }
            Waits::Next => {
                let whole = Hello::length(bytes.as_slice().try_into().map_err(|_| HelloError::Ended)?)?;
                self.waits_for = Waits::Hello(whole - bytes.len());
                self.hello.append(bytes);
            }
            Waits::Hello(_) => {
                self.hello.append(bytes);
                let hello = Hello::decode(&self.hello)?;
                let fits = hello.sender == Sender::Plugin
                    && hello.session == self.key.session
                    && hello.link == self.key.link;
                return if fits {
                    Ok(Some(hello))
                } else {
                    Err(EntranceError::Unproven)
                };
            }
        }
        Ok(None)
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

async fn in_time<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, EntranceError>>,
) -> Result<T, EntranceError> {
    timeout(limit, step).await.unwrap_or(Err(EntranceError::TimedOut))
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), EntranceError> {
    writer.write_all(bytes).await.map_err(failed)?;
    writer.flush().await.map_err(failed)
}

async fn receive<const N: usize>(reader: &mut (impl AsyncRead + Unpin)) -> Result<[u8; N], EntranceError> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).await.map_err(failed)?;
    Ok(bytes)
}

/// What there is, at most `left` bytes.
async fn take<'a>(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &'a mut [u8],
    left: u32,
) -> Result<&'a [u8], EntranceError> {
    let most = buffer.len().min(left as usize);
    match reader.read(&mut buffer[..most]).await.map_err(failed)? {
        0 => Err(EntranceError::Closed),
        length => Ok(&buffer[..length]),
    }
}

fn failed(error: io::Error) -> EntranceError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        EntranceError::Closed
    } else {
        EntranceError::Io(error)
    }
}

#[cfg(test)]
mod tests;
