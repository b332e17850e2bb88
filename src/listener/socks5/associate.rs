//! UDP ASSOCIATE (RFC 1928, section 7): datagrams of one program to any target, for as long as its TCP connection lives.
//!
//! ```text
//! program --> UDP socket, one for each association --> owner? header? --> flow of the target --> stream
//!         <-- header of the target in front <---------------------------------'
//! ```
//!
//! Owns the socket and the table of flows; none outlives the association. A flow itself is `flow`, the header `header`.
//!
//! The socket is bound to the address the TCP connection came to, so what is loopback stays loopback. It belongs to the
//! program that asked for it: only datagrams from that connection's address are taken, and only from one port: the one
//! named in the request, else the one of the first datagram that can be read. A password, where one is needed, was
//! given on the TCP connection.
//!
//! When there is no room for another flow, the flow of this association that was idle longest makes room, if it was
//! idle for [`LEAST_SILENCE`]; else the datagram is dropped. So a program that calls thousands of targets once each is
//! served at the pace of its flows, opens no stream for each datagram, and takes nothing from other programs.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tunnel_wire::datagram::{MAX_DATAGRAM, Queue};
use tunnel_wire::flow::LEAST_SILENCE;

use super::Reply;
use super::flow::{self, Counts, NewFlow, Program};
use super::header::{self, HeaderError, Parts};
use crate::listener::Connect;
use crate::listener::access::Report;
use crate::listener::connection::{Ended, Shared, answer};
use crate::listener::local::Local;

/// Datagrams taken from the socket before other tasks get their turn.
const TURN: usize = 64;

/// Serves a program that asked for an association, and will send from `port` if that is not 0.
pub(super) async fn serve<C: Connect>(
    mut local: Local,
    port: u16,
    shared: &Shared<C>,
    report: &mut Report,
) -> Ended {
    report.begin("ASSOCIATE");
    let (own, peer) = match (local.own, local.peer()) {
        (Some(own), Ok(Some(peer))) => (own, peer),
        (_, Err(error)) => return Ended::Local(error),
        (None, _) | (_, Ok(None)) => {
            let reason = "UDP ASSOCIATE needs a TCP port to come to; this is a unix socket".to_owned();
            let reply = Reply::CommandNotSupported.bytes();
            return answer(local, &reply, report, shared, Ended::Rejected(reason)).await;
        }
    };
    let (socket, address) = match bind(own).await {
        Ok(bound) => bound,
        Err(error) => {
            let reason = format!("no UDP socket at {}: {error}", own.ip());
            let reply = Reply::GeneralFailure.bytes();
            return answer(local, &reply, report, shared, Ended::Rejected(reason)).await;
        }
    };
    if let Err(error) = local.write_all(&Reply::Succeeded.bound_to(address)).await {
        return Ended::Local(error);
    }
    report.connected();
    let mut association = Association {
        shared,
        socket: Arc::new(socket),
        owner: Owner {
            ip: peer.ip().to_canonical(),
            port: (port != 0).then_some(port),
        },
        flows: HashMap::new(),
        tasks: JoinSet::new(),
        over: CancellationToken::new(),
        dropped: Dropped::default(),
    };
    let ended = association.run(&mut local).await;
    let dropped = association.finish().await;
    report.count(&local);
    report.dropped(dropped.log());
    if matches!(ended, Ended::Eof | Ended::Drained) {
        local.close();
    }
    ended
}

/// A free port of the address that the TCP connection came to.
async fn bind(own: SocketAddr) -> io::Result<(UdpSocket, SocketAddr)> {
    let mut at = own;
    at.set_port(0);
    if let IpAddr::V4(ip) = own.ip().to_canonical() {
        at = SocketAddr::from((ip, 0));
    }
    let socket = UdpSocket::bind(at).await?;
    tunnel_edge::udp::enlarge(&socket);
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// Who may use an association.
#[derive(Debug)]
struct Owner {
    ip: IpAddr,
    /// Not known before the first datagram, unless the request named it.
    port: Option<u16>,
}

impl Owner {
    fn is(&self, from: SocketAddr) -> bool {
        from.ip().to_canonical() == self.ip && self.port.is_none_or(|port| port == from.port())
    }
}

/// Datagrams that came into no flow, by why.
#[derive(Debug, Default)]
struct Dropped {
    /// From somebody else.
    strangers: u64,
    fragments: u64,
    malformed: u64,
    /// There was no room for another flow.
    no_room: u64,
    /// Their target had just not been reached, or their flow ended before it took them.
    swallowed: u64,
}

impl Dropped {
    /// Logs them, if there are any; how many.
    fn log(&self) -> u64 {
        let Self {
            strangers,
            fragments,
            malformed,
            no_room,
            swallowed,
        } = self;
        let all = strangers + fragments + malformed + no_room + swallowed;
        if all > 0 {
            tracing::info!(
                strangers,
                fragments,
                malformed,
                no_room,
                swallowed,
                "datagrams dropped"
            );
        }
        all
    }
}

/// A flow, as its association sees it.
struct Flow {
    queue: Queue,
    counts: Arc<Counts>,
    /// One of all flows of the listener. Here and not in the task, so that it passes on at once.
    permit: OwnedSemaphorePermit,
    task: Id,
}

struct Association<'a, C> {
    shared: &'a Shared<C>,
    socket: Arc<UdpSocket>,
    owner: Owner,
    /// By the header of their datagrams.
    flows: HashMap<Box<[u8]>, Flow>,
    /// Each returns how many datagrams it swallowed.
    tasks: JoinSet<u64>,
    /// Ends all flows.
    over: CancellationToken,
    dropped: Dropped,
}

impl<C: Connect> Association<'_, C> {
    /// Serves datagrams until the TCP connection ends or the listener drains. Nothing is expected on the connection:
    /// what comes is read and thrown away.
    async fn run(&mut self, local: &mut Local) -> Ended {
        loop {
            tokio::select! {
                read = local.fill() => {
                    local.buf.clear();
                    match read {
                        Ok(0) => return Ended::Eof,
                        Ok(_) => {}
                        Err(error) => return Ended::Local(error),
                    }
                }
                () = self.shared.drain.cancelled() => return Ended::Drained,
                ready = self.socket.readable() => match ready {
                    Ok(()) => self.receive(),
                    Err(error) => return Ended::Local(error),
                },
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
            }
        }
    }

    /// Ends all flows.
    async fn finish(mut self) -> Dropped {
        self.over.cancel();
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.ended(ended);
        }
        self.dropped
    }

    /// Takes the datagrams that wait in the socket. An error is about one that was sent before.
    fn receive(&mut self) {
        // Only here, since an association that waits holds no buffer.
        let mut room = Vec::with_capacity(MAX_DATAGRAM + 1);
        for _ in 0..TURN {
            room.clear();
            match self.socket.try_recv_buf_from(&mut room) {
                Ok((_, from)) => self.take(&room, from),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => tracing::trace!(%error, "an earlier datagram was not delivered"),
            }
        }
    }

    fn take(&mut self, datagram: &[u8], from: SocketAddr) {
        if !self.owner.is(from) {
            self.dropped.strangers += 1;
            return;
        }
        let parts = match header::parse(datagram) {
            Ok(parts) => parts,
            Err(HeaderError::Fragment) => {
                self.dropped.fragments += 1;
                return;
            }
            Err(error) => {
                tracing::trace!(%error, "malformed datagram");
                self.dropped.malformed += 1;
                return;
            }
        };
        self.owner.port = Some(from.port());
        if let Some(flow) = self.flows.get(parts.header) {
            flow.take(parts.data);
        } else {
            self.begin(&parts, from);
        }
    }

    /// The first datagram to a target.
    fn begin(&mut self, parts: &Parts<'_>, from: SocketAddr) {
        let Ok(target) = parts.address.target() else {
            self.dropped.malformed += 1;
            return;
        };
        let Some(permit) = self.room() else {
            self.dropped.no_room += 1;
            return;
        };
        let header = Box::<[u8]>::from(parts.header);
        let counts = Arc::new(Counts::default());
        let queue = Queue::new(self.shared.datagrams.clone());
        let served = flow::serve(NewFlow {
            connector: self.shared.connector.clone(),
            limits: self.shared.options.limits.clone(),
            target,
            program: Program::new(
                Arc::clone(&self.socket),
                from,
                header.clone(),
                Arc::clone(&counts),
            ),
            queue: queue.clone(),
            counts: Arc::clone(&counts),
            over: self.over.clone(),
        });
        let task = self.tasks.spawn(served.in_current_span()).id();
        let flow = Flow {
            queue,
            counts,
            permit,
            task,
        };
        flow.take(parts.data);
        self.flows.insert(header, flow);
    }

    /// A permit for another flow, if there is room or one of this association can make it.
    fn room(&mut self) -> Option<OwnedSemaphorePermit> {
        if self.flows.len() < self.shared.options.limits.flows_each
            && let Ok(permit) = Arc::clone(&self.shared.flows).try_acquire_owned()
        {
            return Some(permit);
        }
        let now = Instant::now();
        let (header, idle) = self
            .flows
            .iter()
            .map(|(header, flow)| (header, flow.queue.silence(now)))
            .max_by_key(|(_, idle)| *idle)?;
        if idle < LEAST_SILENCE {
            return None;
        }
        let header = header.clone();
        let flow = self.flows.remove(&header)?;
        flow.queue.close();
        Some(flow.permit)
    }

    /// A flow's task is over.
    fn ended(&mut self, ended: Result<(Id, u64), JoinError>) {
        let task = match ended {
            Ok((task, swallowed)) => {
                self.dropped.swallowed += swallowed;
                task
            }
            Err(error) => {
                tracing::error!(%error, "a flow's task failed");
                error.id()
            }
        };
        if let Some((_, flow)) = self.flows.extract_if(|_, flow| flow.task == task).next() {
            while flow.queue.pop().is_some() {
                self.dropped.swallowed += 1;
            }
        }
    }
}

impl Flow {
    fn take(&self, data: &[u8]) {
        self.counts.received(data.len());
        self.queue.touch(Instant::now());
        self.queue.push(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_where_the_connection_came_to_on_a_port_of_its_own() {
        for (own, ip) in [
            ("127.0.0.1:6080", "127.0.0.1"),
            ("[::ffff:127.0.0.1]:6080", "127.0.0.1"),
        ] {
            let (socket, address) = bind(own.parse().unwrap()).await.unwrap();
            assert_eq!(address, socket.local_addr().unwrap());
            assert_eq!(address.ip().to_string(), ip);
            assert!(![0, 6080].contains(&address.port()));
        }
        let reply = Reply::Succeeded.bound_to("[::1]:258".parse().unwrap());
        assert_eq!(
            reply,
            [5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2]
        );
    }

    #[test]
    fn the_owner_is_an_address_and_one_port() {
        let mut owner = Owner {
            ip: "127.0.0.1".parse().unwrap(),
            port: None,
        };
        let is = |owner: &Owner, from: &str| owner.is(from.parse().unwrap());
        assert!(is(&owner, "127.0.0.1:1") && is(&owner, "[::ffff:127.0.0.1]:2"));
        assert!(!is(&owner, "127.0.0.2:1") && !is(&owner, "[::1]:1"));
        owner.port = Some(2);
        assert!(is(&owner, "127.0.0.1:2") && !is(&owner, "127.0.0.1:1"));
    }
}
