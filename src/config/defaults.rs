//! The default of every field, with its reason. What a field means stands with the types.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// Loopback, so that a first try opens nothing to the network; 8080 since it needs no privilege.
pub const LISTEN: SocketAddr = loopback(8080);
/// Beside the data plane; 9090 would be Prometheus's own.
pub const ADMIN_LISTEN: SocketAddr = loopback(8081);
/// One per core: the work between two awaits is short, and more threads would only trade places.
pub const WORKERS: usize = 0;
/// At the documented bounds of a connection this stays well within a common machine's memory and descriptors.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Room for a full context window and a few inline images.
pub const MAX_BODY: u64 = 25 << 20;
/// The largest file that the OpenAI API takes in one piece is half of it.
pub const MAX_UPLOAD: u64 = 1 << 30;
/// Several thousand embeddings of the largest size.
pub const MAX_ANSWER: u64 = 64 << 20;
/// Room for long tokens and tracing baggage; the same as HTTP/2's header list.
pub const MAX_HEAD: usize = 64 << 10;
/// Four times what the SDKs and two proxies send.
pub const MAX_HEADERS: usize = 100;
/// What other servers take; no path of the API comes near.
pub const MAX_URI: usize = 8 << 10;
/// Deeper than any tool schema, and far from the end of a stack.
pub const MAX_JSON_DEPTH: usize = 128;
/// A head is one packet or a few; who needs longer holds a slot hostage.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Outlives a few lost packets.
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A full `max_body` at 7 Mbit/s.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes nothing for so long will not come back.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than the 60 s after which load balancers close, so that they close first.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// What Kubernetes waits between SIGTERM and SIGKILL.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Three handshakes across the world and a lost packet.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A long prompt on a busy server; plain answers of slow models need it whole.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest pause that models make between tokens, with room.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The SDKs' own.
pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(600);
/// A minute or so of short answers; who is behind them has a client that gave up.
pub const LOCAL_QUEUE: usize = 64;

/// The model that is part of the program.
pub const BUNDLED_MODEL: &str = "poet";
/// Names that old examples use; with no config they lead to the bundled model.
pub const BUNDLED_ALIASES: [&str; 2] = ["text-davinci-003", "gpt-3.5-turbo-instruct"];
/// Where OPENAI_API_KEY is good for.
pub const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}
