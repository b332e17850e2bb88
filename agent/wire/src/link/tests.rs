//! The link between two ends in memory, frame by frame.

use bytes::Bytes;

use super::*;
use crate::error::DecodeError;
use crate::frame::Fault;

/// Moves everything `from` has to say to `to`, in pieces of `chunk` bytes.
fn carry(from: &mut Link, to: &mut Link, chunk: usize, now: Instant) -> Result<usize, TransportEnd> {
    let mut out = BytesMut::new();
    from.take_frames(&mut out, usize::MAX, now);
    let total = out.len();
    while !out.is_empty() {
        let mut piece = out.split_to(chunk.min(out.len()));
        to.on_bytes(&mut piece, now)?;
    }
    Ok(total)
}

fn drain(link: &mut Link) -> Vec<u8> {
    let mut out = vec![0; 1 << 20];
    let length = link.read(&mut out);
    out.truncate(length);
    out
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_whatever_the_pieces() {
    let now = Instant::now();
    for chunk in [1, 7, 4096, 1 << 20] {
        let (mut near, mut far) = (Link::new(now), Link::new(now));
        let data: Vec<u8> = (0..100_000u32).map(|n| n.to_be_bytes()[3]).collect();
        assert_eq!(near.write(&data), data.len());
        carry(&mut near, &mut far, chunk, now).unwrap();
        assert_eq!(drain(&mut far), data);
        assert_eq!(far.progress().received, 100_000);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_frame_is_a_gap_that_is_told() {
    let now = Instant::now();
    let (mut near, mut far) = (Link::new(now), Link::new(now));
    near.write(b"one");
    let mut first = BytesMut::new();
    near.take_frames(&mut first, usize::MAX, now);
    near.write(b"two");
    let mut second = BytesMut::new();
    near.take_frames(&mut second, usize::MAX, now);
    let lost = far.on_bytes(&mut second.clone(), now);
    assert!(matches!(
        lost,
        Err(TransportEnd::Gap {
            position: 0,
            missing: 3
        })
    ));
    let told = carry(&mut far, &mut near, 64, now);
    assert!(matches!(
        told,
        Err(TransportEnd::PeerFault {
            fault: Fault::Missing,
            position: 0
        })
    ));
    assert!(far.farewell_sent());
}

#[tokio::test(start_paused = true)]
async fn bytes_that_come_again_are_taken_once() {
    let now = Instant::now();
    let (mut near, mut far) = (Link::new(now), Link::new(now));
    near.write(b"one");
    carry(&mut near, &mut far, 64, now).unwrap();
    near.write(b"two");
    // A position told before "one" had arrived.
    near.attach(0, now).unwrap();
    carry(&mut near, &mut far, 64, now).unwrap();
    assert_eq!(drain(&mut far), b"onetwo");
}

#[tokio::test(start_paused = true)]
async fn what_the_other_end_lacks_is_sent_again_on_the_next_transport() {
    let now = Instant::now();
    let (mut near, mut far) = (Link::new(now), Link::new(now));
    near.write(b"arrives");
    carry(&mut near, &mut far, 64, now).unwrap();
    near.write(b", is lost");
    near.take_frames(&mut BytesMut::new(), usize::MAX, now);
    let (received, back) = (far.progress().received, near.progress().received);
    far.attach(back, now).unwrap();
    near.attach(received, now).unwrap();
    near.write(b", comes later");
    carry(&mut near, &mut far, 5, now).unwrap();
    assert_eq!(drain(&mut far), b"arrives, is lost, comes later");
    carry(&mut far, &mut near, 5, now).unwrap();
    assert_eq!(near.progress().acknowledged, 29);
}

#[tokio::test(start_paused = true)]
async fn an_end_with_another_past_cannot_resume() {
    let now = Instant::now();
    let mut near = Link::new(now);
    near.write(b"one");
    assert!(matches!(near.attach(4, now), Err(TransportEnd::Unresumable)));
}

#[tokio::test(start_paused = true)]
async fn bytes_are_acknowledged_soon_or_at_once_or_with_data() {
    let now = Instant::now();
    let (mut near, mut far) = (Link::new(now), Link::new(now));
    far.attach(0, now).unwrap();
    far.take_frames(&mut BytesMut::new(), usize::MAX, now);
    near.write(b"few");
    carry(&mut near, &mut far, 64, now).unwrap();
    assert_eq!(carry(&mut far, &mut near, 64, now).unwrap(), 0);
    let later = now + ACK_DELAY;
    assert_eq!(far.next_tick(now), Some(later));
    carry(&mut far, &mut near, 64, later).unwrap();
    assert_eq!(near.progress().acknowledged, 3);

    near.write(b"more");
    carry(&mut near, &mut far, 64, later).unwrap();
    far.write(b"answer");
    carry(&mut far, &mut near, 64, later).unwrap();
    assert_eq!(near.progress().acknowledged, 7);

    near.write(&vec![0; 128 * 1024]);
    carry(&mut near, &mut far, 1 << 20, later).unwrap();
    carry(&mut far, &mut near, 64, later).unwrap();
    assert_eq!(near.progress().acknowledged, 7 + ACK_EVERY);
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_behind_lost_bytes_is_a_gap() {
    let now = Instant::now();
    let (mut near, mut far) = (Link::new(now), Link::new(now));
    near.write(b"lost");
    near.take_frames(&mut BytesMut::new(), usize::MAX, now);
    near.start_goodbye();
    let end = carry(&mut near, &mut far, 64, now);
    assert!(matches!(end, Err(TransportEnd::Gap { missing: 4, .. })));
    assert!(!far.goodbye_received());
}

#[tokio::test(start_paused = true)]
async fn an_eviction_is_the_last_thing_said() {
    let now = Instant::now();
    let (mut near, mut far) = (Link::new(now), Link::new(now));
    near.write(b"never sent here");
    near.start_eviction();
    let end = carry(&mut near, &mut far, 64, now);
    assert!(matches!(end, Err(TransportEnd::Evicted)));
    assert_eq!(carry(&mut near, &mut far, 64, now).unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_altered_byte_is_named_with_its_position() {
    let now = Instant::now();
    let (mut near, mut far) = (Link::new(now), Link::new(now));
    near.write(b"fine");
    carry(&mut near, &mut far, 64, now).unwrap();
    near.write(b"bad");
    let mut out = BytesMut::new();
    near.take_frames(&mut out, usize::MAX, now);
    let last = out.len() - 1;
    out[last] ^= 1;
    let end = far.on_bytes(&mut out, now);
    assert!(matches!(
        end,
        Err(TransportEnd::Altered {
            position: 4,
            error: DecodeError::BadChecksum
        })
    ));
    assert_eq!(drain(&mut far), b"fine");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_transport() {
    let start = Instant::now();
    let mut near = Link::new(start);
    near.attach(0, start).unwrap();
    near.on_tick(start).unwrap();
    assert!(!near.is_suspect(start) && near.is_suspect(start + SUSPECT_AFTER));
    near.on_tick(start + Duration::from_secs(14)).unwrap();
    assert!(matches!(
        near.on_tick(start + DEAD_AFTER),
        Err(TransportEnd::Silent)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_and_measures_the_round_trip() {
    let start = Instant::now();
    let (mut near, mut far) = (Link::new(start), Link::new(start));
    near.on_tick(start).unwrap();
    carry(&mut near, &mut far, 64, start).unwrap();
    carry(&mut far, &mut near, 64, start + Duration::from_millis(80)).unwrap();
    assert_eq!(near.rtt(), Duration::from_millis(80));
}

#[tokio::test(start_paused = true)]
async fn bytes_lost_at_the_end_are_noticed_by_the_next_heartbeat() {
    let now = Instant::now();
    let (mut near, mut far) = (Link::new(now), Link::new(now));
    near.attach(0, now).unwrap();
    near.write(b"a question");
    near.take_frames(&mut BytesMut::new(), usize::MAX, now);
    near.on_tick(now).unwrap();
    let end = carry(&mut near, &mut far, 64, now);
    assert!(matches!(
        end,
        Err(TransportEnd::Gap {
            position: 0,
            missing: 10
        })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_lost_acknowledgement_is_repeated_with_the_next_heartbeat() {
    let now = Instant::now();
    let (mut near, mut far) = (Link::with_limit(now, 4), Link::new(now));
    near.write(b"full");
    carry(&mut near, &mut far, 64, now).unwrap();
    far.take_frames(&mut BytesMut::new(), usize::MAX, now + ACK_DELAY);
    near.on_tick(now).unwrap();
    carry(&mut near, &mut far, 64, now).unwrap();
    carry(&mut far, &mut near, 64, now).unwrap();
    assert_eq!(near.write(b"more"), 4);
}

#[tokio::test(start_paused = true)]
async fn goodbye_goes_last_and_is_answered() {
    let now = Instant::now();
    let (mut near, mut far) = (Link::new(now), Link::new(now));
    near.write(b"last words");
    near.start_goodbye();
    assert_eq!(near.write(b"more"), 0);
    carry(&mut near, &mut far, 5, now).unwrap();
    assert!(far.goodbye_received() && !far.is_over());
    assert_eq!(drain(&mut far), b"last words");
    carry(&mut far, &mut near, 5, now).unwrap();
    assert!(far.is_over() && near.is_over());
}

#[tokio::test(start_paused = true)]
async fn the_probe_comes_back_or_names_the_altered_byte() {
    let now = Instant::now();
    let (mut near, mut far) = (Link::new(now), Link::new(now));
    near.start_probe();
    assert!(near.probe_unanswered());
    carry(&mut near, &mut far, 1000, now).unwrap();
    carry(&mut far, &mut near, 1000, now).unwrap();
    assert!(near.probe_passed() && !near.probe_unanswered());

    near.start_probe();
    near.take_frames(&mut BytesMut::new(), usize::MAX, now);
    let mut out = BytesMut::new();
    let mut bytes = probe::chunk(0).to_vec();
    bytes[3] = !bytes[3];
    Frame::ProbeEcho {
        offset: 0,
        bytes: bytes.into(),
    }
    .encode(&mut out);
    let end = near.on_bytes(&mut out, now);
    assert!(matches!(end, Err(TransportEnd::ProbeAltered { offset: 3 })));
}

#[tokio::test(start_paused = true)]
async fn an_echo_of_what_was_never_probed_is_refused() {
    let now = Instant::now();
    for (started, offset) in [(false, 0), (true, 1), (true, u32::MAX)] {
        let mut near = Link::new(now);
        if started {
            near.start_probe();
            near.take_frames(&mut BytesMut::new(), usize::MAX, now);
        }
        let mut out = BytesMut::new();
        let bytes = Bytes::from_static(b"xy");
        Frame::ProbeEcho { offset, bytes }.encode(&mut out);
        let end = near.on_bytes(&mut out, now);
        assert!(matches!(end, Err(TransportEnd::ProbeAltered { offset: 0 })));
    }
}
