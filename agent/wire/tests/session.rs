//! Two ends of a session over an in-memory pipe: what each trap of yamux would break, and cuts at every byte.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinSet;
use tunnel_wire::error::{OpenError, Refusal, RefusalCode};
use tunnel_wire::link::{self, LinkHandle, TransportEnd};
use tunnel_wire::session::{Accepted, End, Incoming, MAX_STREAMS, Session};
use tunnel_wire::{Open, Protocol, Stream};

/// One end of a session whose tasks end with it.
struct Side {
    session: Session,
    incoming: Incoming,
    link: LinkHandle,
    tasks: JoinSet<()>,
}

/// One end that has no transport yet.
fn detached(end: End) -> Side {
    let (link, stream) = link::channel();
    let (session, incoming, driver) = tunnel_wire::session::start(end, link.clone(), stream);
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    Side {
        session,
        incoming,
        link,
        tasks,
    }
}

/// One end whose link lasts as long as this transport.
fn side(end: End, transport: DuplexStream) -> Side {
    let mut side = detached(end);
    let running = side.link.clone();
    side.tasks.spawn(async move {
        let (reader, writer) = tokio::io::split(transport);
        let end = running.run(reader, writer, 0).await;
        running.close(end);
    });
    side
}

/// Gives both ends a transport, for as long as what is returned lives.
fn attach(near: &LinkHandle, far: &LinkHandle) -> JoinSet<TransportEnd> {
    let (near_io, far_io) = tokio::io::duplex(64 * 1024);
    let received = [near, far].map(|link| link.progress().received);
    let mut running = JoinSet::new();
    for (link, io, received) in [(near, near_io, received[1]), (far, far_io, received[0])] {
        let link = link.clone();
        running.spawn(async move {
            let (reader, writer) = tokio::io::split(io);
            link.run(reader, writer, received).await
        });
    }
    running
}

/// Both ends, over a pipe that holds `buffer` bytes each way.
fn pair(buffer: usize) -> (Side, Side) {
    let (near, far) = tokio::io::duplex(buffer);
    (side(End::Plugin, near), side(End::Agent, far))
}

fn dial(host: &str) -> Open {
    Open::Dial {
        protocol: Protocol::Tcp,
        patience_ms: 0,
        host: host.to_owned(),
        port: 80,
    }
}

async fn connect(near: &Session, far: &mut Incoming) -> (Stream, Stream) {
    let open = dial("x");
    let (opened, accepted) = tokio::join!(near.open(&open), far.accept());
    let (mut near, mut far) = (opened.unwrap(), accepted.unwrap().stream);
    far.accept().await.unwrap();
    near.opened().await.unwrap();
    (near, far)
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|n| u8::try_from((n.wrapping_mul(31) + seed) % 251).unwrap())
        .collect()
}

#[tokio::test]
async fn half_close_delivers_the_reply() {
    let (near, mut far) = pair(64 * 1024);
    let (mut a, mut b) = connect(&near.session, &mut far.incoming).await;
    a.write_all(b"question").await.unwrap();
    a.shutdown().await.unwrap();
    let mut question = Vec::new();
    b.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    let reply = pattern(1 << 20, 1);
    let write = async {
        b.write_all(&reply).await.unwrap();
        b.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(a.read_to_end(&mut got), write);
    read.unwrap();
    assert!(got == reply);
}

#[tokio::test(start_paused = true)]
async fn a_session_without_a_transport_for_minutes_goes_on_with_the_next() {
    const OPENS: usize = 400;
    let (near, mut far) = (detached(End::Plugin), detached(End::Agent));
    let first = attach(&near.link, &far.link);
    let (mut a, mut b) = connect(&near.session, &mut far.incoming).await;
    drop(first);
    a.write_all(b"while there is none").await.unwrap();
    // More than yamux lets be unanswered: the rest wait.
    let opens = async {
        let all = (0..OPENS).map(|_| async { near.session.open(&dial("later")).await.unwrap() });
        futures::future::join_all(all).await
    };
    let accepts = async {
        let mut accepted = Vec::new();
        while accepted.len() < OPENS {
            accepted.push(far.incoming.accept().await.unwrap());
        }
        accepted
    };
    let (near_link, far_link) = (near.link.clone(), far.link.clone());
    let (opened, accepted, _second) = tokio::join!(opens, accepts, async {
        tokio::time::sleep(Duration::from_secs(10 * 60)).await;
        assert!(near_link.closed().is_none() && far_link.closed().is_none());
        attach(&near_link, &far_link)
    });
    assert_eq!((opened.len(), accepted.len()), (OPENS, OPENS));
    let mut text = [0; 19];
    b.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"while there is none");
}

#[tokio::test]
async fn data_may_be_sent_before_the_answer() {
    let (near, mut far) = pair(64 * 1024);
    let mut a = near.session.open(&dial("early")).await.unwrap();
    a.write_all(b"early").await.unwrap();
    let Accepted { open, mut stream } = far.incoming.accept().await.unwrap();
    assert_eq!(open, dial("early"));
    let mut early = [0; 5];
    stream.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
}

#[tokio::test]
async fn a_refusal_arrives_with_code_and_words_also_as_an_io_error() {
    let (near, mut far) = pair(64 * 1024);
    let mut a = near.session.open(&dial("nowhere")).await.unwrap();
    let accepted = far.incoming.accept().await.unwrap();
    accepted
        .stream
        .refuse(Refusal::new(RefusalCode::NoSuchHost, "no such host: nowhere"))
        .await;
    let error = a.read_u8().await.unwrap_err();
    assert_eq!(
        OpenError::from_io(&error).unwrap().code(),
        RefusalCode::NoSuchHost
    );
    assert!(matches!(a.opened().await, Err(OpenError::Refused(r)) if r.detail == "no such host: nowhere"));
    assert!(a.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn an_abort_a_drop_and_a_lost_session_are_never_a_clean_end() {
    for case in 0..3 {
        let (near, mut far) = pair(64 * 1024);
        let (mut a, mut b) = connect(&near.session, &mut far.incoming).await;
        b.write_all(b"part").await.unwrap();
        b.flush().await.unwrap();
        let mut part = [0; 4];
        a.read_exact(&mut part).await.unwrap();
        match case {
            0 => b.abort("upstream was reset"),
            1 => drop(b),
            _ => far.link.close(TransportEnd::Closed),
        }
        let error = a.read_u8().await.unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "case {case}: {error}"
        );
        if case == 0 {
            assert!(error.to_string().contains("upstream was reset"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_writer_learns_of_a_reader_that_left() {
    let (near, mut far) = pair(64 * 1024);
    let (mut a, mut b) = connect(&near.session, &mut far.incoming).await;
    // The reader has said all it had to say, and then goes away without reading.
    b.shutdown().await.unwrap();
    drop(b);
    let data = pattern(1 << 20, 0);
    assert!(
        a.write_all(&data).await.is_err(),
        "a megabyte cannot be written to nobody"
    );
}

#[tokio::test]
async fn a_stalled_reader_stops_only_its_own_stream() {
    let (near, mut far) = pair(64 * 1024);
    let (mut stalled, _unread) = connect(&near.session, &mut far.incoming).await;
    let mut sent = 0;
    let endless = pattern(64 * 1024, 0);
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), stalled.write(&endless)).await {
        sent += written.unwrap();
    }
    assert_eq!(sent, 64 * 1024, "held back at the initial window");
    for round in 0..50 {
        let (mut a, mut b) = connect(&near.session, &mut far.incoming).await;
        let data = pattern(200_000, round);
        let write = async {
            a.write_all(&data).await.unwrap();
            a.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(b.read_to_end(&mut got), write);
        read.unwrap();
        assert!(got == data);
    }
}

#[tokio::test]
async fn one_stream_past_the_limit_is_refused_alone() {
    let (near, mut far) = pair(64 * 1024);
    let mut held = Vec::new();
    for _ in 0..MAX_STREAMS {
        held.push(connect(&near.session, &mut far.incoming).await);
    }
    let refused = near.session.open(&dial("one too many")).await;
    assert!(matches!(
        refused,
        Err(OpenError::TooManyStreams { limit: MAX_STREAMS })
    ));
    let refused = far.session.open(&dial("the other way")).await;
    assert!(matches!(refused, Err(OpenError::TooManyStreams { .. })));
    let (mut a, mut b) = held.pop().unwrap();
    a.write_all(b"alive").await.unwrap();
    let mut alive = [0; 5];
    b.read_exact(&mut alive).await.unwrap();
    drop((a, b));
    connect(&near.session, &mut far.incoming).await;
}

#[tokio::test]
async fn opens_of_both_ends_that_meet_at_the_limit_are_refused_alone() {
    let (mut near, mut far) = pair(64 * 1024);
    let mut held = Vec::new();
    for _ in 0..MAX_STREAMS - 1 {
        held.push(connect(&near.session, &mut far.incoming).await);
    }
    // Each end has room for one more, but not for the other's as well.
    let mut a = near.session.open(&dial("left")).await.unwrap();
    let mut b = far.session.open(&dial("right")).await.unwrap();
    let mut accepting = JoinSet::new();
    accepting.spawn(async move { while near.incoming.accept().await.is_some() {} });
    accepting.spawn(async move { while far.incoming.accept().await.is_some() {} });
    for stream in [&mut a, &mut b] {
        let refused = stream.opened().await.unwrap_err();
        assert_eq!(refused.code(), RefusalCode::TooManyStreams, "{refused}");
    }
    let (a, b) = held.first_mut().unwrap();
    a.write_all(b"alive").await.unwrap();
    let mut alive = [0; 5];
    b.read_exact(&mut alive).await.unwrap();
}

#[tokio::test]
async fn more_opens_than_yamux_leaves_unanswered() {
    let (near, mut far) = pair(64 * 1024);
    let mut opened = Vec::new();
    let mut accepted = Vec::new();
    // Nobody answers `opened` in between; `seen` alone must keep yamux going beyond its 256.
    let open = async {
        for _ in 0..600 {
            opened.push(near.session.open(&dial("x")).await.unwrap());
        }
    };
    let accept = async {
        for _ in 0..600 {
            accepted.push(far.incoming.accept().await.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(open, accept) })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_thousand_stalled_streams_stay_within_their_windows() {
    let (near, mut far) = pair(64 * 1024);
    let mut stalled = Vec::new();
    let data = pattern(64 * 1024, 0);
    for _ in 0..1000 {
        let (mut a, b) = connect(&near.session, &mut far.incoming).await;
        a.write_all(&data).await.unwrap();
        a.flush().await.unwrap();
        let more = tokio::time::timeout(Duration::ZERO, a.write(&data)).await;
        assert!(more.is_err(), "not a byte above the window");
        stalled.push((a, b));
    }
    let (mut a, mut b) = connect(&near.session, &mut far.incoming).await;
    a.write_all(b"still works").await.unwrap();
    let mut got = [0; 11];
    b.read_exact(&mut got).await.unwrap();
}

#[tokio::test]
async fn goodbye_ends_both_links_after_the_last_byte() {
    let (near, mut far) = pair(4096);
    let (mut a, mut b) = connect(&near.session, &mut far.incoming).await;
    let data = pattern(50_000, 3);
    let write = async {
        a.write_all(&data).await.unwrap();
        a.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let ((), read) = tokio::join!(write, b.read_to_end(&mut got));
    read.unwrap();
    near.link.goodbye();
    near.session.closed().await;
    far.session.closed().await;
    assert!(matches!(near.link.closed(), Some(TransportEnd::Goodbye)));
    assert!(matches!(far.link.closed(), Some(TransportEnd::Goodbye)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_declared_dead_in_time() {
    // The other end takes what it is sent and says nothing, as behind a black hole.
    let (near, _silent) = tokio::io::duplex(64 * 1024);
    let near = side(End::Plugin, near);
    let start = tokio::time::Instant::now();
    let mut stream = near.session.open(&dial("x")).await.unwrap();
    assert!(stream.opened().await.is_err());
    assert!(matches!(near.link.closed(), Some(TransportEnd::Silent)));
    assert_eq!(start.elapsed().as_secs(), 15);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_lives_for_hours() {
    let (near, mut far) = pair(64 * 1024);
    let (mut a, mut b) = connect(&near.session, &mut far.incoming).await;
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    a.write_all(b"still here").await.unwrap();
    let mut got = [0; 10];
    b.read_exact(&mut got).await.unwrap();
}

/// Wherever the transport is cut, the reader gets all bytes and a clean end, or an error: never a short success.
#[tokio::test]
async fn truncated_download_is_reset_not_eof() {
    let data = pattern(3000, 9);
    let mut complete = 0;
    for cut in (0..4200).step_by(7) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (relay_near, relay_far) = tokio::io::duplex(64 * 1024);
        let near = side(End::Plugin, near);
        let mut far_side = side(End::Agent, relay_far);
        let mut cutter = JoinSet::new();
        cutter.spawn(async move {
            let (mut from_plugin, mut to_plugin) = tokio::io::split(far);
            let (from_agent, mut to_agent) = tokio::io::split(relay_near);
            let mut limited = from_agent.take(cut);
            tokio::select! {
                _ = tokio::io::copy(&mut from_plugin, &mut to_agent) => {}
                _ = tokio::io::copy(&mut limited, &mut to_plugin) => {}
            }
        });
        let serve = async {
            while let Some(mut accepted) = far_side.incoming.accept().await {
                drop(accepted.stream.accept().await);
                drop(accepted.stream.write_all(&data).await);
                drop(accepted.stream.shutdown().await);
                accepted.stream.ended().await;
            }
        };
        let fetch = async {
            let mut stream = near.session.open(&dial("x")).await?;
            let mut got = Vec::new();
            stream
                .read_to_end(&mut got)
                .await
                .map_err(|_| OpenError::SessionClosed)?;
            stream.shutdown().await.map_err(|_| OpenError::SessionClosed)?;
            Ok::<_, OpenError>(got)
        };
        let result = tokio::select! {
            result = fetch => result,
            () = serve => Err(OpenError::SessionClosed),
        };
        if let Ok(got) = result {
            assert!(got == data, "cut at {cut}: {} bytes and a clean end", got.len());
            complete += 1;
        }
    }
    assert!(complete > 0, "the last cuts are behind the transfer");
}

/// yamux's two-way deadlock needs both directions full when its pings cross, every ten seconds.
/// Longer than a minute, under CPU contention: run by `make e2e`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 75 s: run by make e2e"]
async fn saturated_both_ways_never_stalls() {
    saturate(Duration::from_secs(75), 4).await;
}

/// The same for as long as a quick test may take: two ping ticks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saturated_both_ways_across_ping_ticks() {
    saturate(Duration::from_secs(22), 2).await;
}

async fn saturate(length: Duration, sessions: usize) {
    let mut all = JoinSet::new();
    for _ in 0..sessions {
        all.spawn(saturate_one(length));
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

async fn saturate_one(length: Duration) {
    let (near, mut far) = pair(64 * 1024);
    let stop = tokio::time::Instant::now() + length;
    let mut pumps = JoinSet::new();
    for _ in 0..16 {
        let (a, b) = connect(&near.session, &mut far.incoming).await;
        for stream in [a, b] {
            pumps.spawn(saturate_stream(stream, stop));
        }
    }
    while let Some(done) = pumps.join_next().await {
        done.unwrap();
    }
}

async fn saturate_stream(stream: Stream, stop: tokio::time::Instant) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        let block = vec![1; 64 * 1024];
        while tokio::time::Instant::now() < stop {
            writer.write_all(&block).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let read = async {
        let mut block = vec![0; 64 * 1024];
        loop {
            let read = tokio::time::timeout(Duration::from_secs(20), reader.read(&mut block));
            if read.await.expect("no stall").unwrap() == 0 {
                break;
            }
        }
    };
    tokio::join!(write, read);
}
