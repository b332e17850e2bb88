//! The laptop's programs that `expose` leads to: an echo, and a port whose connections are handed out.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tunnel_test_target as ports;

use crate::failure::Failure;

/// Two listening ports, until dropped.
pub(crate) struct Laptop {
    handed_out: TcpListener,
    echo: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Laptop {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let handed_out = TcpListener::bind("127.0.0.1:0").await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let echo = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.spawn(answer(connection));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            handed_out,
            echo,
            _tasks: tasks,
        })
    }

    /// What `expose` leads to: by the number of the echo, and by that of blocks for the connections handed out.
    pub(crate) fn ports(&self) -> Result<Vec<(u16, SocketAddr)>, Failure> {
        Ok(vec![
            (ports::ECHO, self.echo),
            (ports::BLOCKS, self.handed_out.local_addr()?),
        ])
    }

    /// The next connection that is handed out.
    pub(crate) async fn accept(&self) -> Result<TcpStream, Failure> {
        let (connection, _) = self.handed_out.accept().await?;
        connection.set_nodelay(true)?;
        Ok(connection)
    }
}

async fn answer(mut connection: TcpStream) {
    let mut block = vec![0; 4096];
    // A caller that leaves is its own affair.
    drop(connection.set_nodelay(true));
    while let Ok(count @ 1..) = connection.read(&mut block).await {
        if connection.write_all(&block[..count]).await.is_err() {
            return;
        }
    }
}
