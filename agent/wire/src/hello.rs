//! The first bytes on every transport, both ways: who speaks which version, for which session.
//!
//! It proves the session's secret to the agent and tells both ends where the link's stream stands. It
//! does not frame anything that follows and keeps no state.
//!
//! ```text
//!   0  magic "KTUN"
//!   4  wire version u16
//!   6  length u16 of all that follows, checksum included
//!   8  sender u8: 1 plugin, 2 agent
//!   9  verdict u8: 0 accepted, 1 version, 2 secret, 3 session, 4 stale, 5 over, 6 replaced (a plugin sends 0)
//!  10  session id, 16 bytes, padded with NUL
//!  26  secret, 32 bytes (an agent sends zeros, and so does a plugin that came through the entrance)
//!  58  link u64: chosen at random by the plugin for each link; an agent repeats it
//!  66  transport number u32, counted by the plugin from 1 for each link
//!  70  position received u64: link bytes this end has so far
//!  78  entrance u16: port of the agent's loopback where transports are taken too, 0 for none (a plugin sends 0)
//!  80  software version: length u8, then at most 32 bytes
//!  ..  crc32c u32 of everything before
//! ```
//!
//! Magic, version and length keep their places in every version, so a mismatch can name both numbers.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::identity::ID_LENGTH;
pub use crate::identity::{InvalidDigest, InvalidSessionId, Secret, SecretDigest, SessionId};
use crate::version::{SOFTWARE_VERSION, WIRE_VERSION};

/// How long either end may take for its hello. A round trip through an API server takes milliseconds to
/// a second; the deadline is longer so that a slow line is not mistaken for a wrong program.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

const MAGIC: [u8; 4] = *b"KTUN";
/// Magic, version and length: what tells how long the rest is.
pub(crate) const FRONT: usize = 8;
/// Sender, verdict, id, secret, link, transport, position, entrance, version length, checksum.
const MIN_BODY: usize = 1 + 1 + ID_LENGTH + 32 + 8 + 4 + 8 + 2 + 1 + 4;
const MAX_SOFTWARE: usize = 32;

/// Who sent a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Sender {
    /// The program on the laptop.
    Plugin = 1,
    /// The program in the pod.
    Agent = 2,
}

/// What the agent thinks of the plugin's hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// The transport is this session's now.
    Accepted = 0,
    /// The plugin speaks another wire version.
    Version = 1,
    /// The secret is not this session's.
    Secret = 2,
    /// The hello is for another session.
    Session = 3,
    /// A newer transport of the same link has been attached already.
    Stale = 4,
    /// The link is closed at the agent: its streams are gone, there is nothing to resume.
    Over = 5,
    /// Another plugin has taken the agent over: its link is not this one.
    Replaced = 6,
}

/// One hello, sent or received.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The wire version of the sender.
    pub version: u16,
    /// Who sent it.
    pub sender: Sender,
    /// The agent's answer; a plugin sends [`Verdict::Accepted`].
    pub verdict: Verdict,
    /// The session.
    pub session: SessionId,
    /// The session's secret; an agent sends zeros.
    pub secret: Secret,
    /// Which link: a plugin that resumes names the one it had, a new plugin makes a new one.
    pub link: u64,
    /// Which transport of the link this is, from 1.
    pub transport: u32,
    /// Bytes of the link's stream the sender has received so far.
    pub received: u64,
    /// The port of the agent's loopback where it takes transports too; see [`crate::entrance`]. 0 is none.
    pub entrance: u16,
    /// The sender's software version, at most 32 bytes.
    pub software: String,
}

/// Why a hello failed.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The other end said nothing in time.
    #[error("no hello within {} s", HELLO_TIMEOUT.as_secs())]
    TimedOut,
    /// The transport ended inside the hello.
    #[error("the transport ended before the hello was complete")]
    Ended,
    /// The transport failed.
    #[error("read or write the hello")]
    Io(#[source] io::Error),
    /// The bytes are not ours: a shell's prompt, an error page, another program.
    #[error("the first bytes are not a hello: {0}")]
    NotAHello(String),
    /// The two programs are of different releases.
    #[error("wire version {theirs} at the other end, {} here", WIRE_VERSION)]
    Version {
        /// The other end's version.
        theirs: u16,
    },
    /// The bytes were altered on the way.
    #[error("the hello was altered on the way (bad {0})")]
    Altered(&'static str),
    /// The agent does not accept this plugin.
    #[error("{}", match .0 {
        Verdict::Secret => "the secret is not this session's",
        Verdict::Session => "the agent belongs to another session",
        Verdict::Version => "the agent speaks another wire version",
        Verdict::Stale => "the agent has a newer connection of this session already",
        Verdict::Over => "the agent has ended this session",
        Verdict::Replaced => "another process has taken this session over",
        Verdict::Accepted => "the agent accepted and refused at once",
    })]
    Refused(Verdict),
}

impl Hello {
    /// The plugin's hello on a new transport.
    #[must_use]
    pub fn plugin(session: SessionId, secret: Secret, link: u64, transport: u32, received: u64) -> Self {
        Self {
            version: WIRE_VERSION,
            sender: Sender::Plugin,
            verdict: Verdict::Accepted,
            session,
            secret,
            link,
            transport,
            received,
            entrance: 0,
            software: SOFTWARE_VERSION.to_owned(),
        }
    }

    /// The agent's answer to this plugin's hello; `received` is final, no older transport is read any more.
    #[must_use]
    pub fn answer(&self, session: SessionId, verdict: Verdict, received: u64) -> Self {
        Self {
            sender: Sender::Agent,
            verdict,
            ..Self::plugin(session, Secret::new([0; 32]), self.link, self.transport, received)
        }
    }

    /// The agent's answer to a hello that could not be read.
    fn refusal(session: SessionId, verdict: Verdict) -> Self {
        Self::plugin(session.clone(), Secret::new([0; 32]), 0, 0, 0).answer(session, verdict, 0)
    }

    /// What an agent of `session` has to say about this plugin's hello.
    #[must_use]
    pub fn judge(&self, session: &SessionId, digest: &SecretDigest) -> Verdict {
        if self.session != *session {
            Verdict::Session
        } else if digest.proves(&self.secret) {
            Verdict::Accepted
        } else {
            Verdict::Secret
        }
    }

    /// The bytes that go first on a transport.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let software = &self.software.as_bytes()[..self.software.len().min(MAX_SOFTWARE)];
        let mut out = BytesMut::with_capacity(FRONT + MIN_BODY + MAX_SOFTWARE);
        out.put_slice(&MAGIC);
        out.put_u16(self.version);
        out.put_u16(u16::try_from(MIN_BODY + software.len()).expect("bounded by MAX_SOFTWARE"));
        out.put_u8(self.sender as u8);
        out.put_u8(self.verdict as u8);
        out.put_slice(&self.session.padded());
        out.put_slice(self.secret.as_bytes());
        out.put_u64(self.link);
        out.put_u32(self.transport);
        out.put_u64(self.received);
        out.put_u16(self.entrance);
        out.put_u8(u8::try_from(software.len()).expect("bounded by MAX_SOFTWARE"));
        out.put_slice(software);
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        out
    }

    /// Length of the whole hello, from its first eight bytes.
    pub(crate) fn length(front: [u8; FRONT]) -> Result<usize, HelloError> {
        if front[..4] != MAGIC {
            return Err(HelloError::NotAHello(front.escape_ascii().to_string()));
        }
        let theirs = u16::from_be_bytes([front[4], front[5]]);
        if theirs != WIRE_VERSION {
            return Err(HelloError::Version { theirs });
        }
        let length = usize::from(u16::from_be_bytes([front[6], front[7]]));
        if !(MIN_BODY..=MIN_BODY + MAX_SOFTWARE).contains(&length) {
            return Err(HelloError::Altered("length"));
        }
        Ok(FRONT + length)
    }

    /// Decodes a whole hello.
    ///
    /// # Errors
    /// The bytes are no hello, of another version, or were altered.
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let front = bytes.first_chunk().ok_or(HelloError::Ended)?;
        if bytes.len() != Self::length(*front)? {
            return Err(HelloError::Altered("length"));
        }
        let (mut rest, crc) = bytes.split_at(bytes.len() - 4);
        if crc32c::crc32c(rest).to_be_bytes() != crc {
            return Err(HelloError::Altered("checksum"));
        }
        rest.advance(FRONT);
        let sender = match rest.get_u8() {
            1 => Sender::Plugin,
            2 => Sender::Agent,
            _ => return Err(HelloError::Altered("sender")),
        };
        let verdict = match rest.get_u8() {
            0 => Verdict::Accepted,
            1 => Verdict::Version,
            2 => Verdict::Secret,
            3 => Verdict::Session,
            4 => Verdict::Stale,
            5 => Verdict::Over,
            6 => Verdict::Replaced,
            _ => return Err(HelloError::Altered("verdict")),
        };
        let mut id = [0; ID_LENGTH];
        rest.copy_to_slice(&mut id);
        let session = std::str::from_utf8(&id)
            .ok()
            .and_then(|text| text.trim_end_matches('\0').parse().ok())
            .ok_or(HelloError::Altered("session id"))?;
        let mut secret = [0; 32];
        rest.copy_to_slice(&mut secret);
        let link = rest.get_u64();
        let transport = rest.get_u32();
        let received = rest.get_u64();
        let entrance = rest.get_u16();
        if usize::from(rest.get_u8()) != rest.len() {
            return Err(HelloError::Altered("software version"));
        }
        let software = String::from_utf8_lossy(rest).into_owned();
        Ok(Self {
            version: WIRE_VERSION,
            sender,
            verdict,
            session,
            secret: Secret::new(secret),
            link,
            transport,
            received,
            entrance,
            software,
        })
    }

    /// Reads one hello and not a byte more. Has no deadline of its own.
    ///
    /// # Errors
    /// The transport ended or failed, or the bytes are no hello of this version.
    pub async fn read(reader: &mut (impl AsyncRead + Unpin)) -> Result<Self, HelloError> {
        let mut front = [0; FRONT];
        reader.read_exact(&mut front).await.map_err(read_error)?;
        let mut whole = vec![0; Self::length(front)?];
        whole[..FRONT].copy_from_slice(&front);
        reader.read_exact(&mut whole[FRONT..]).await.map_err(read_error)?;
        Self::decode(&whole)
    }

    /// Writes and flushes this hello.
    ///
    /// # Errors
    /// The transport failed.
    pub async fn write(&self, writer: &mut (impl AsyncWrite + Unpin)) -> Result<(), HelloError> {
        writer.write_all(&self.encode()).await.map_err(HelloError::Io)?;
        writer.flush().await.map_err(HelloError::Io)
    }
}

/// The plugin's half: says hello and waits for the agent's, at most [`HELLO_TIMEOUT`].
///
/// # Errors
/// Every way in which the other end is not this session's agent.
pub async fn connect(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    hello: &Hello,
) -> Result<Hello, HelloError> {
    // An agent of another version answers without reading all of ours: the answer must not wait for the write.
    let written = async {
        match hello.write(writer).await {
            Ok(()) => std::future::pending().await,
            Err(error) => Err(error),
        }
    };
    let exchange = async {
        tokio::select! {
            answer = Hello::read(reader) => answer,
            failed = written => failed,
        }
    };
    let answer = tokio::time::timeout(HELLO_TIMEOUT, exchange)
        .await
        .map_err(|_| HelloError::TimedOut)??;
    if answer.verdict != Verdict::Accepted {
        Err(HelloError::Refused(answer.verdict))
    } else if answer.sender != Sender::Agent {
        Err(HelloError::Altered("sender"))
    } else if answer.session != hello.session {
        Err(HelloError::Refused(Verdict::Session))
    } else if answer.link != hello.link || answer.transport != hello.transport {
        Err(HelloError::Altered("link"))
    } else {
        Ok(answer)
    }
}

/// The agent's half of reading: waits for a plugin's hello, at most [`HELLO_TIMEOUT`], and judges it.
///
/// The agent answers a refusal here; after `Ok` it first retires the transport it had, then answers with
/// [`Hello::answer`] itself, since the position in that answer is final only then.
///
/// # Errors
/// The hello did not come, is of another version, or does not prove the session's secret.
pub async fn accept(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    session: &SessionId,
    digest: &SecretDigest,
) -> Result<Hello, HelloError> {
    let exchange = async {
        let (verdict, failure) = match Hello::read(reader).await {
            Ok(hello) if hello.sender == Sender::Plugin => {
                let verdict = hello.judge(session, digest);
                if verdict == Verdict::Accepted {
                    return Ok(hello);
                }
                (verdict, HelloError::Refused(verdict))
            }
            Ok(_) => return Err(HelloError::Altered("sender")),
            Err(failure @ HelloError::Version { .. }) => (Verdict::Version, failure),
            Err(failure) => return Err(failure),
        };
        Hello::refusal(session.clone(), verdict).write(writer).await?;
        Err(failure)
    };
    tokio::time::timeout(HELLO_TIMEOUT, exchange)
        .await
        .map_err(|_| HelloError::TimedOut)?
}

fn read_error(error: io::Error) -> HelloError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        HelloError::Ended
    } else {
        HelloError::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SessionId {
        text.parse().unwrap()
    }

    fn secret() -> Secret {
        Secret::new([7; 32])
    }

    #[test]
    fn fixed_vector() {
        let mut hello = Hello::plugin(id("x7k2p9"), secret(), 0x0a0b, 3, 0x0102);
        hello.entrance = 0x1f90;
        hello.software = "0.1.0".to_owned();
        let text = crate::hex(&hello.encode());
        assert_eq!(
            text,
            concat!(
                "4b54554e",
                "0004",
                "0052",
                "01",
                "00",
                "78376b32703900000000000000000000"
            )
            .to_owned()
                + &"07".repeat(32)
                + concat!(
                    "0000000000000a0b",
                    "00000003",
                    "0000000000000102",
                    "1f90",
                    "05",
                    "302e312e30",
                    "0676ac2e"
                )
        );
    }

    #[test]
    fn what_is_encoded_is_decoded_and_every_flipped_bit_is_seen() {
        let hello = Hello::plugin(id("abc"), secret(), 4, 1, 99);
        let bytes = hello.encode();
        let back = Hello::decode(&bytes).unwrap();
        assert_eq!((back.session, back.transport, back.received), (id("abc"), 1, 99));
        assert!(secret().digest().proves(&back.secret));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Hello::decode(&bad).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(Hello::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    async fn shake(
        plugin: Hello,
        session: &str,
        digest: SecretDigest,
    ) -> (Result<Hello, HelloError>, Result<Hello, HelloError>) {
        let (mut near, mut far) = tokio::io::duplex(64);
        let (mut near_reader, mut near_writer) = tokio::io::split(&mut near);
        let (mut far_reader, mut far_writer) = tokio::io::split(&mut far);
        let session = id(session);
        let agent = async {
            let hello = accept(&mut far_reader, &mut far_writer, &session, &digest).await?;
            hello
                .answer(session.clone(), Verdict::Accepted, 5)
                .write(&mut far_writer)
                .await?;
            Ok(hello)
        };
        tokio::join!(connect(&mut near_reader, &mut near_writer, &plugin), agent)
    }

    #[tokio::test(start_paused = true)]
    async fn the_right_secret_is_accepted() {
        let plugin = Hello::plugin(id("abc"), secret(), 4, 2, 0);
        let (near, far) = shake(plugin, "abc", secret().digest()).await;
        assert_eq!(near.unwrap().received, 5);
        assert_eq!(far.unwrap().transport, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_secret_a_wrong_session_and_a_wrong_version_are_told() {
        let wrong = Hello::plugin(id("abc"), Secret::new([1; 32]), 4, 1, 0);
        let (near, far) = shake(wrong, "abc", secret().digest()).await;
        assert!(matches!(near, Err(HelloError::Refused(Verdict::Secret))));
        assert!(matches!(far, Err(HelloError::Refused(Verdict::Secret))));

        let other = Hello::plugin(id("abd"), secret(), 4, 1, 0);
        let (near, _) = shake(other, "abc", secret().digest()).await;
        assert!(matches!(near, Err(HelloError::Refused(Verdict::Session))));

        let mut newer = Hello::plugin(id("abc"), secret(), 4, 1, 0);
        newer.version = 9;
        let (near, far) = shake(newer, "abc", secret().digest()).await;
        assert!(matches!(near, Err(HelloError::Refused(Verdict::Version))));
        assert!(matches!(far, Err(HelloError::Version { theirs: 9 })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shell_a_silence_and_an_end_are_told_apart() {
        let hello = Hello::plugin(id("abc"), secret(), 4, 1, 0);
        let mut sink = tokio::io::sink();
        let prompt = connect(&mut &b"sh: tunnel-agent: not found\n"[..], &mut sink, &hello).await;
        assert!(matches!(prompt, Err(HelloError::NotAHello(text)) if text == "sh: tunn"));
        let ended = connect(&mut &b"KT"[..], &mut sink, &hello).await;
        assert!(matches!(ended, Err(HelloError::Ended)));
        let (mut silent, _other) = tokio::io::duplex(8);
        assert!(matches!(
            connect(&mut silent, &mut sink, &hello).await,
            Err(HelloError::TimedOut)
        ));
    }
}
