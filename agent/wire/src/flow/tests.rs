//! Two ends of a flow over a pipe in memory, with sockets made of channels.

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

use super::*;
use crate::error::RefusalCode;

/// More than any test sends at once.
const QUEUE: usize = 1024;

type Sent = Result<Vec<u8>, Refusal>;

/// A socket: what the network brings, and what was given to the network.
struct Socket {
    arriving_rx: mpsc::Receiver<Sent>,
    leaving_tx: mpsc::Sender<Vec<u8>>,
}

/// The network's side of it.
struct Network {
    arriving_tx: mpsc::Sender<Sent>,
    leaving_rx: mpsc::Receiver<Vec<u8>>,
}

fn socket() -> (Socket, Network) {
    let (arriving_tx, arriving_rx) = mpsc::channel(QUEUE);
    let (leaving_tx, leaving_rx) = mpsc::channel(QUEUE);
    (
        Socket {
            arriving_rx,
            leaving_tx,
        },
        Network {
            arriving_tx,
            leaving_rx,
        },
    )
}

impl Datagrams for Socket {
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<(), Refusal>> {
        match self.arriving_rx.poll_recv(cx) {
            Poll::Ready(Some(sent)) => Poll::Ready(sent.map(|datagram| buf.put_slice(&datagram))),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn poll_send(&mut self, _: &mut Context<'_>, datagram: &[u8]) -> Poll<Result<(), Refusal>> {
        self.leaving_tx.try_send(datagram.to_vec()).unwrap();
        Poll::Ready(Ok(()))
    }
}

/// Runs one end to its end, with what it noticed.
async fn end(mut stream: DuplexStream, mut socket: Socket, idle: Option<Duration>) -> (FlowEnd, Vec<Notice>) {
    let queue = Queue::new(Budget::default());
    let mut notices = Vec::new();
    let end = relay(&mut stream, &mut socket, &queue, idle, |notice| {
        notices.push(notice);
    })
    .await;
    (end, notices)
}

const IDLE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn datagrams_cross_whole_both_ways_and_idleness_ends_the_flow() {
    let (near_stream, far_stream) = duplex(1000);
    let (near_socket, mut near) = socket();
    let (far_socket, mut far) = socket();
    let sizes = [0, 1, 64, 1_200, 9_000, 27_000, datagram::MAX_DATAGRAM];
    let began = Instant::now();
    let traffic = async {
        for size in sizes {
            let datagram: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
            near.arriving_tx.try_send(Ok(datagram.clone())).unwrap();
            assert_eq!(far.leaving_rx.recv().await.unwrap(), datagram);
            far.arriving_tx.try_send(Ok(datagram.clone())).unwrap();
            assert_eq!(near.leaving_rx.recv().await.unwrap(), datagram);
        }
    };
    let (near_end, far_end, ()) = tokio::join!(
        end(near_stream, near_socket, Some(IDLE)),
        end(far_stream, far_socket, None),
        traffic
    );
    let bytes = sizes.iter().sum::<usize>() as u64;
    assert!(matches!(near_end.0.reason, Reason::Idle));
    assert!(matches!(far_end.0.reason, Reason::Ended));
    assert_eq!(
        (near_end.0.sent, near_end.0.received, near_end.0.dropped),
        (bytes, bytes, 0)
    );
    assert!(began.elapsed() >= IDLE);
}

#[tokio::test(start_paused = true)]
async fn traffic_keeps_a_flow_alive() {
    let (near_stream, far_stream) = duplex(1000);
    let (near_socket, near) = socket();
    let (far_socket, mut far) = socket();
    let began = Instant::now();
    let traffic = async {
        for _ in 0..5 {
            tokio::time::sleep(IDLE * 3 / 4).await;
            near.arriving_tx.try_send(Ok(vec![1])).unwrap();
            far.leaving_rx.recv().await.unwrap();
        }
    };
    tokio::join!(
        end(near_stream, near_socket, Some(IDLE)),
        end(far_stream, far_socket, None),
        traffic
    );
    assert!(began.elapsed() >= IDLE * 15 / 4 + IDLE);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_once_at_both_ends_and_the_flow_goes_on() {
    let (near_stream, far_stream) = duplex(1000);
    let (near_socket, mut near) = socket();
    let (far_socket, far) = socket();
    let refusal = Refusal::new(RefusalCode::ConnectionRefused, "10.0.0.7:53: connection refused");
    let traffic = async {
        for _ in 0..3 {
            far.arriving_tx.try_send(Err(refusal.clone())).unwrap();
        }
        far.arriving_tx.try_send(Ok(b"here again".to_vec())).unwrap();
        assert_eq!(near.leaving_rx.recv().await.unwrap(), b"here again");
    };
    let (near_end, far_end, ()) = tokio::join!(
        end(near_stream, near_socket, Some(IDLE)),
        end(far_stream, far_socket, None),
        traffic
    );
    assert_eq!(near_end.1, [Notice::There(refusal.clone())]);
    assert_eq!(far_end.1, [Notice::Here(refusal)]);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_stream_drops_the_oldest_and_never_stops_the_socket() {
    let (mut near_stream, far_stream) = duplex(1000);
    let (mut near_socket, near) = socket();
    let (far_socket, mut far) = socket();
    let count = 3 * datagram::QUEUE_LIMIT / 10_000;
    for number in 0..count {
        let mut datagram = vec![0; 10_000];
        datagram[..8].copy_from_slice(&(number as u64).to_be_bytes());
        near.arriving_tx.try_send(Ok(datagram)).unwrap();
    }
    let queue = Queue::new(Budget::default());
    let mut near_relay = std::pin::pin!(relay(
        &mut near_stream,
        &mut near_socket,
        &queue,
        Some(IDLE),
        |_| ()
    ));
    // Nobody reads the stream: with a paused clock the time is over once nothing moves any more.
    let stalled = timeout(Duration::from_secs(1), near_relay.as_mut()).await;
    assert!(stalled.is_err());
    let dropped = usize::try_from(queue.dropped()).unwrap();
    assert!(dropped > count / 2, "{dropped}");
    let traffic = async {
        let mut numbers = Vec::new();
        while numbers.last() != Some(&(count as u64 - 1)) {
            let datagram = far.leaving_rx.recv().await.unwrap();
            numbers.push(u64::from_be_bytes(datagram[..8].try_into().unwrap()));
        }
        assert_eq!(numbers.len() + dropped, count);
        assert!(numbers.is_sorted());
    };
    let (near_end, _, ()) = tokio::join!(near_relay, end(far_stream, far_socket, None), traffic);
    assert_eq!(near_end.dropped, dropped as u64);
}

#[tokio::test(start_paused = true)]
async fn notices_do_not_pile_up_while_the_stream_takes_nothing() {
    let (near_stream, far_stream) = duplex(1000);
    let (near_socket, near) = socket();
    let (far_socket, _far) = socket();
    let refusals = ["refused", "too long"].map(|detail| Refusal::new(RefusalCode::Other, detail.repeat(40)));
    let traffic = async {
        for refusal in refusals.iter().cycle().take(QUEUE * 4) {
            near.arriving_tx.send(Err(refusal.clone())).await.unwrap();
        }
        // Only now the stream is read.
        end(far_stream, far_socket, None).await
    };
    let (near_end, (_, told)) = tokio::join!(end(near_stream, near_socket, Some(IDLE)), traffic);
    assert_eq!(near_end.1.len(), QUEUE * 4, "this end misses none");
    assert!(told.len() < 100, "{}", told.len());
}

#[tokio::test]
async fn a_cut_stream_and_nonsense_are_failures() {
    let (near_stream, far_stream) = duplex(1000);
    let (near_socket, _near) = socket();
    let mut far_stream = far_stream;
    far_stream.write_all(&[0xff, 0xfe]).await.unwrap();
    let (near_end, _) = end(near_stream, near_socket, None).await;
    assert!(matches!(near_end.reason, Reason::Failed(error) if error.kind() == io::ErrorKind::InvalidData));
}

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[tokio::test(start_paused = true)]
async fn a_table_tells_peers_apart_and_has_a_limit() {
    let now = Instant::now();
    let places = Budget::of(2);
    let mut table = Table::new(places.clone(), Budget::default());
    let first = table.deliver(peer(1), b"a", now).unwrap();
    let second = table.deliver(peer(2), b"b", now).unwrap();
    assert!(table.deliver(peer(1), b"c", now).is_none());
    assert!(table.deliver(peer(3), b"d", now).is_none());
    assert_eq!(table.refused(), 1);
    assert_eq!(first.pop().unwrap(), "a");
    assert_eq!(first.pop().unwrap(), "c");
    assert_eq!(second.pop().unwrap(), "b");
    table.end(peer(1), &first);
    assert!(table.deliver(peer(3), b"e", now).is_some());
    drop(table);
    assert!(places.take(2), "all places are free again");
}

#[tokio::test(start_paused = true)]
async fn the_flow_that_was_silent_for_longest_makes_room() {
    let began = Instant::now();
    let places = Budget::of(2);
    let mut table = Table::new(places.clone(), Budget::default());
    let first = table.deliver(peer(1), b"a", began).unwrap();
    let second = table.deliver(peer(2), b"b", began).unwrap();
    let later = began + LEAST_SILENCE;
    assert!(table.deliver(peer(1), b"c", later).is_none());
    let third = table.deliver(peer(3), b"d", later).unwrap();
    assert!(second.is_closed() && !first.is_closed() && !third.is_closed());
    // One that only receives is in use as well; and what made room ends nobody else's flow later.
    first.touch(later + LEAST_SILENCE);
    let fourth = table.deliver(peer(2), b"e", later + LEAST_SILENCE).unwrap();
    assert!(third.is_closed() && !first.is_closed());
    table.end(peer(2), &second);
    assert!(table.deliver(peer(2), b"f", later).is_none());
    assert_eq!(fourth.pop().unwrap(), "e");
    assert_eq!(fourth.pop().unwrap(), "f");
    drop(table);
    assert!(places.take(2) && !places.take(1));
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_makes_room_ends_both_ends() {
    let (mut near_stream, far_stream) = duplex(1000);
    let (mut near_socket, _near) = socket();
    let (far_socket, _far) = socket();
    let queue = Queue::new(Budget::default());
    let near = relay(&mut near_stream, &mut near_socket, &queue, None, |_| ());
    let closes = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        queue.close();
    };
    let (near_end, far_end, ()) = tokio::join!(near, end(far_stream, far_socket, None), closes);
    assert!(matches!(near_end.reason, Reason::MadeRoom));
    assert!(matches!(far_end.0.reason, Reason::Ended));
}
