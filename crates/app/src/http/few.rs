//! A listener that anybody on the machine can reach and nobody can wear out: a few connections at a
//! time, each for a short time. Who comes beyond that waits in the kernel's queue, which costs the
//! daemon no descriptor.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// A scraper and a few people.
const AT_ONCE: usize = 16;

/// A page takes a second at most.
const LIFE: Duration = Duration::from_secs(10);

pub(super) struct Few {
    listener: TcpListener,
    places: Arc<Semaphore>,
    life: Duration,
}

impl Few {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            life: LIFE,
        }
    }
}

impl Listener for Few {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let guest = Guest {
            stream,
            end: Box::pin(tokio::time::sleep(self.life)),
            _place: place,
        };
        (guest, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when its time is over.
pub(super) struct Guest {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Guest {
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    async fn served(life: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let few = Few {
            life,
            ..Few::new(listener)
        };
        let router = Router::new().route("/", get(|| async { "page" }));
        tokio::spawn(async move { axum::serve(few, router).await });
        address
    }

    async fn page(stream: &mut TcpStream) -> String {
        let mut answer = String::new();
        let ask = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn connections_beyond_a_few_wait_for_a_place() {
        let address = served(Duration::from_secs(600)).await;
        let mut idle = Vec::new();
        for _ in 0..AT_ONCE {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        let soon = Duration::from_millis(300);
        assert!(timeout(soon, page(&mut late)).await.is_err());
        drop(idle.pop());
        let answer = timeout(Duration::from_secs(30), late.read_u8()).await;
        assert_eq!(answer.unwrap().unwrap(), b'H');
    }

    #[tokio::test]
    async fn a_connection_ends_when_its_time_is_over() {
        let address = served(Duration::from_millis(200)).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        let ended = timeout(Duration::from_secs(30), idle.read(&mut [0])).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
        let mut next = TcpStream::connect(address).await.unwrap();
        assert!(page(&mut next).await.ends_with("page"));
    }
}
