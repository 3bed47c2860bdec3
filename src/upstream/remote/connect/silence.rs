//! Addresses that answer nothing, for tests.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// A listener that takes nobody in, and answers no further connection: its queue is full.
pub(super) fn silent(at: &str) -> (Socket, SocketAddr, Vec<TcpStream>) {
    let address: SocketAddr = at.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    let moment = Duration::from_millis(50);
    while let Ok(stream) = TcpStream::connect_timeout(&address, moment) {
        waiting.push(stream);
    }
    (socket, address, waiting)
}
