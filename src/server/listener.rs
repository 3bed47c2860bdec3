//! The accept loop.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::connection;
use super::{Drain, HttpService, Observer, Params, Tls};

/// Connections that the kernel holds for us while we are busy.
const BACKLOG: i32 = 1024;

/// A pause after an accept that failed for want of file descriptors or memory: others may close meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection may be silent before the kernel asks whether the client is still there.
const PROBE_AFTER: Duration = Duration::from_secs(30);

/// An address on which nobody listened when it was bound. Whoever connects is refused until it is listened on. Another
/// program that is about to listen may have bound it as well; whoever listens first has it.
pub struct Bound {
    socket: StdListener,
    address: SocketAddr,
}

/// An address that is listened on.
pub struct Listener {
    listener: TcpListener,
    spawner: Spawner,
}

/// What new connections are held to, and whether they speak TLS. It can be changed while the listener serves; the
/// connections that are open go on as they began.
#[derive(Clone)]
pub struct Terms {
    current: Arc<ArcSwap<(Option<TlsAcceptor>, Params)>>,
}

/// Starts the tasks of connections.
struct Spawner {
    terms: Terms,
    name: &'static str,
}

impl Terms {
    /// Plain TCP without `tls`.
    pub fn new(tls: Option<&Tls>, params: Params) -> Self {
        let terms = (tls.map(Tls::acceptor), params);
        Self {
            current: Arc::new(ArcSwap::from_pointee(terms)),
        }
    }

    /// Changes the terms. How many connections may be open at once stays what it was when the listener began to serve.
    pub fn replace(&self, tls: Option<&Tls>, params: Params) {
        self.current
            .store(Arc::new((tls.map(Tls::acceptor), params)));
    }
}

impl Bound {
    /// Binds `address`; of port 0 a free one.
    ///
    /// # Errors
    /// The system's, such as an address on which somebody listens.
    pub fn new(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // A restart must not wait for the connections of the last run to be forgotten. On Unix this never lets two listen on
        // one address, though on Linux two that do not listen yet may have bound it.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let socket = StdListener::from(socket);
        Ok(Self {
            address: socket.local_addr()?,
            socket,
        })
    }

    /// Returns the address that is really bound, where port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets clients connect. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The system's, such as an address that another one that had it, too, began to listen on first.
    pub fn listen(self, terms: Terms) -> io::Result<Listener> {
        SockRef::from(&self.socket).listen(BACKLOG)?;
        Ok(Listener {
            listener: TcpListener::from_std(self.socket)?,
            spawner: Spawner {
                name: terms.current.load().1.name,
                terms,
            },
        })
    }
}

impl Listener {
    /// Serves until the drain begins; the connections' tasks are the drain's.
    pub async fn serve<S: HttpService>(self, service: S, drain: Drain) {
        let max_connections = self.spawner.terms.current.load().1.max_connections;
        let places = Arc::new(Semaphore::new(max_connections));
        loop {
            let accepted = tokio::select! {
                biased;
                () = drain.began().cancelled() => break,
                accepted = self.accept(&places) => accepted,
            };
            if let Some((stream, peer, place)) = accepted {
                self.spawner
                    .spawn(stream, peer, place, service.clone(), &drain);
            }
        }
        self.serve_backlog(&places, &service, &drain);
    }

    /// Connections that wait in the backlog may hold requests sent before the stop.
    fn serve_backlog<S: HttpService>(self, places: &Arc<Semaphore>, service: &S, drain: &Drain) {
        let Self { listener, spawner } = self;
        // Asked directly, the kernel knows of connections that tokio has not heard of yet.
        let Ok(backlog) = listener.into_std() else {
            return;
        };
        while let Ok(place) = Arc::clone(places).try_acquire_owned() {
            let Ok((stream, peer)) = backlog.accept() else {
                return;
            };
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                spawner.spawn(stream, peer, place, service.clone(), drain);
            }
        }
    }

    async fn accept(
        &self,
        places: &Arc<Semaphore>,
    ) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, peer)) => Some((stream, peer, place)),
            Err(error) => {
                if !matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) {
                    tracing::warn!(listener = self.spawner.name, %error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                None
            }
        }
    }
}

impl Spawner {
    fn spawn<S: HttpService>(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        service: S,
        drain: &Drain,
    ) {
        // Small writes are whole events: they must leave at once.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(listener = self.name, %error, "cannot set TCP_NODELAY");
        }
        // A client that has vanished without a word is found out.
        let keep_alive = TcpKeepalive::new()
            .with_time(PROBE_AFTER)
            .with_interval(PROBE_AFTER);
        if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keep_alive) {
            tracing::debug!(listener = self.name, %error, "cannot set SO_KEEPALIVE");
        }
        let (tls, params) = (**self.terms.current.load()).clone();
        let place = Arc::new(Place::take(&params.observer, permit));
        let stop = drain.clone();
        drain.tasks().spawn(async move {
            let abort = stop.abort().clone();
            tokio::select! {
                () = connection::serve(stream, peer, tls, service, params, stop, place) => {}
                () = abort.cancelled() => {}
            }
        });
    }
}

/// A connection's place among those that may be open at once, counted as long as it lives.
pub(super) struct Place {
    observer: Arc<dyn Observer>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(observer: &Arc<dyn Observer>, permit: OwnedSemaphorePermit) -> Self {
        observer.opened();
        Self {
            observer: Arc::clone(observer),
            _permit: permit,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.observer.closed();
    }
}
