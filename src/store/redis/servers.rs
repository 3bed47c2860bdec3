//! Where Redis is.

use std::fmt;

use futures_util::future::select_ok;
use percent_encoding::percent_decode_str;
use redis::cluster::ClusterClientBuilder;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, TlsCertificates, TlsMode,
};

use super::NODE_TIMEOUT;
use super::link::{Link, OpenError};
use crate::secret::Secret;

/// Where Sentinels listen unless they are told otherwise.
const SENTINEL_PORT: u16 = 26_379;

/// Where Redis is, and how it is spoken to. Neither [`fmt::Debug`] nor [`fmt::Display`] shows a password.
#[derive(Clone)]
pub struct Servers {
    kind: Kind,
    tls: Option<TlsCertificates>,
}

/// What a Sentinel is shown, which need not be what the servers are that it watches.
#[derive(Clone)]
pub struct SentinelCredentials {
    /// The user; `None`: the default one.
    pub user: Option<String>,
    /// The password.
    pub password: Secret,
}

#[derive(Clone)]
enum Kind {
    One(Box<ConnectionInfo>),
    Cluster(Vec<ConnectionInfo>),
    Sentinel(Box<Sentinels>),
}

#[derive(Clone)]
struct Sentinels {
    at: Vec<ConnectionInfo>,
    service: String,
    tls: bool,
    redis: RedisConnectionInfo,
    credentials: Option<SentinelCredentials>,
}

/// Why an address is none. No message holds the address, in which there may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServersError {
    /// There is no address at all.
    #[error("names no server; write such as \"redis://127.0.0.1:6379\"")]
    Nothing,
    /// It is no URL, or of another scheme.
    #[error(
        "is no address of a Redis; write such as \"redis://127.0.0.1:6379\", \"rediss://user:password@host:6379/0\", \"redis+unix:///run/redis.sock\" or \"redis+sentinel://host-1:26379,host-2:26379/mymaster\""
    )]
    Unreadable,
    /// Sentinels are asked for a service by its name.
    #[error(
        "names no service; write it behind the servers, as in \"redis+sentinel://host:26379/mymaster\""
    )]
    NoService,
    /// Only a cluster has several.
    #[error(
        "several addresses are those of a cluster; write `cluster = true` beside them, or leave one"
    )]
    Several,
    /// Sentinels watch no cluster.
    #[error(
        "Sentinels are not asked for a cluster; leave `cluster` out, or write the addresses of its servers"
    )]
    SentinelCluster,
    /// A cluster has one database.
    #[error("a cluster has no databases but 0; leave the number out")]
    Database,
}

impl Servers {
    /// Reads one address, or several of a cluster.
    ///
    /// # Errors
    /// [`ServersError`].
    pub fn parse(urls: &[&str], is_cluster: bool) -> Result<Self, ServersError> {
        let [first, others @ ..] = urls else {
            return Err(ServersError::Nothing);
        };
        let is_sentinel = |url: &str| scheme(url).is_some_and(|(_, kind, _)| kind == "sentinel");
        if is_cluster {
            if urls.iter().any(|url| is_sentinel(url)) {
                return Err(ServersError::SentinelCluster);
            }
            let nodes: Result<Vec<_>, _> = urls.iter().map(|url| server(url)).collect();
            let nodes = nodes?;
            if nodes.iter().any(|node| node.redis_settings().db() != 0) {
                return Err(ServersError::Database);
            }
            return Ok(Kind::Cluster(nodes).into());
        }
        if !others.is_empty() {
            return Err(ServersError::Several);
        }
        if is_sentinel(first) {
            return Ok(Kind::Sentinel(Box::new(sentinels(first)?)).into());
        }
        Ok(Kind::One(Box::new(server(first)?)).into())
    }

    /// Trusts these authorities instead of the system's, or shows this certificate, or both.
    #[must_use]
    pub fn with_tls(mut self, certificates: TlsCertificates) -> Self {
        self.tls = Some(certificates);
        self
    }

    /// Shows these to Sentinels, where there are any.
    #[must_use]
    pub fn with_sentinel_credentials(mut self, credentials: SentinelCredentials) -> Self {
        if let Kind::Sentinel(sentinels) = &mut self.kind {
            sentinels.credentials = Some(credentials);
        }
        self
    }

    /// Returns whether all of it is spoken over TLS.
    pub fn is_secure(&self) -> bool {
        let is_secure =
            |server: &ConnectionInfo| matches!(server.addr(), ConnectionAddr::TcpTls { .. });
        match &self.kind {
            Kind::One(server) => is_secure(server),
            Kind::Cluster(nodes) => nodes.iter().all(is_secure),
            Kind::Sentinel(sentinels) => sentinels.tls,
        }
    }

    /// Returns whether Sentinels are asked where it is.
    pub fn has_sentinels(&self) -> bool {
        matches!(self.kind, Kind::Sentinel(_))
    }

    pub(super) async fn connect(&self, config: AsyncConnectionConfig) -> Result<Link, OpenError> {
        let connection = match &self.kind {
            Kind::One(server) => {
                let server = (**server).clone();
                let client = match &self.tls {
                    Some(certificates) => Client::build_with_tls(server, certificates.clone())?,
                    None => Client::open(server)?,
                };
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?
            }
            Kind::Cluster(nodes) => {
                // What one command may take is bounded by whoever asks.
                let mut client = ClusterClientBuilder::new(nodes.clone())
                    .connection_timeout(NODE_TIMEOUT)
                    .retries(2);
                if let Some(certificates) = &self.tls {
                    client = client.certs(certificates.clone());
                }
                let client = client.build()?;
                return Ok(Link::Cluster(client.get_async_connection().await?));
            }
            Kind::Sentinel(sentinels) => {
                // Each is asked at once: one that is down would hold up those behind it.
                let mut asking = Vec::new();
                for at in &sentinels.at {
                    let (mut client, config) = (self.sentinel(sentinels, at)?, config.clone());
                    asking.push(Box::pin(async move {
                        client.get_async_connection_with_config(&config).await
                    }));
                }
                let (connection, _) = select_ok(asking).await?;
                connection
            }
        };
        Ok(Link::One(connection))
    }

    /// Builds what asks one Sentinel.
    fn sentinel(
        &self,
        sentinels: &Sentinels,
        at: &ConnectionInfo,
    ) -> Result<SentinelClient, RedisError> {
        let Sentinels {
            service,
            tls,
            redis,
            credentials,
            ..
        } = sentinels;
        let mut client = SentinelClientBuilder::new(
            [at.addr().clone()],
            service.clone(),
            SentinelServerType::Master,
        )?
        .set_client_to_redis_db(redis.db());
        if let Some(user) = redis.username() {
            client = client.set_client_to_redis_username(user);
        }
        if let Some(password) = redis.password() {
            client = client.set_client_to_redis_password(password);
        }
        if let Some(SentinelCredentials { user, password }) = credentials {
            if let Some(user) = user {
                client = client.set_client_to_sentinel_username(user);
            }
            client = client.set_client_to_sentinel_password(password.expose());
        }
        if *tls {
            client = client
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = &self.tls {
            client = client
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        client.build()
    }
}

impl From<Kind> for Servers {
    fn from(kind: Kind) -> Self {
        Self { kind, tls: None }
    }
}

/// Returns a URL's scheme in its parts, and what is behind it: whether it is secure, what it is beyond Redis, the rest.
fn scheme(url: &str) -> Option<(bool, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (redis, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
    match redis {
        "redis" => Some((false, kind, rest)),
        "rediss" => Some((true, kind, rest)),
        _ => None,
    }
}

fn server(url: &str) -> Result<ConnectionInfo, ServersError> {
    match scheme(url) {
        Some((_, "", _)) | Some((false, "unix", _)) => {}
        _ => return Err(ServersError::Unreadable),
    }
    url.into_connection_info()
        .map_err(|_| ServersError::Unreadable)
}

/// Reads `redis+sentinel://[user:password@]host[:port][,…]/service[/database]`. User and password are those of the
/// servers that the Sentinels watch.
fn sentinels(url: &str) -> Result<Sentinels, ServersError> {
    let (tls, _, rest) = scheme(url).ok_or(ServersError::Unreadable)?;
    let (servers, path) = rest.split_once('/').ok_or(ServersError::NoService)?;
    let (service, database) = path.split_once('/').unwrap_or((path, "0"));
    if service.is_empty() {
        return Err(ServersError::NoService);
    }
    let database: i64 = database.parse().map_err(|_| ServersError::Unreadable)?;
    let (credentials, hosts) = match servers.rsplit_once('@') {
        Some((credentials, hosts)) => (Some(credentials), hosts),
        None => (None, servers),
    };
    let mut redis = RedisConnectionInfo::default().set_db(database);
    if let Some(credentials) = credentials {
        let decoded = |text: &str| {
            let text = percent_decode_str(text).decode_utf8();
            text.map(String::from).map_err(|_| ServersError::Unreadable)
        };
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        if !user.is_empty() {
            redis = redis.set_username(decoded(user)?);
        }
        redis = redis.set_password(decoded(password)?);
    }
    let secure = if tls { "rediss" } else { "redis" };
    let at = hosts.split(',').map(|host| {
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        server(&match has_port {
            true => format!("{secure}://{host}"),
            false => format!("{secure}://{host}:{SENTINEL_PORT}"),
        })
    });
    Ok(Sentinels {
        at: at.collect::<Result<_, _>>()?,
        service: service.to_owned(),
        tls,
        redis,
        credentials: None,
    })
}

/// Addresses alone: `127.0.0.1:6379`, `mymaster at 10.0.0.1:26379, 10.0.0.2:26379`.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, service) = match &self.kind {
            Kind::One(server) => (std::slice::from_ref(&**server), None),
            Kind::Cluster(nodes) => (&nodes[..], None),
            Kind::Sentinel(sentinels) => (&sentinels.at[..], Some(&sentinels.service)),
        };
        if let Some(service) = service {
            write!(f, "{service} at ")?;
        }
        for (index, server) in at.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            match server.addr() {
                ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                    write!(f, "{host}:{port}")?;
                }
                ConnectionAddr::Unix(path) => write!(f, "{}", path.display())?,
                _ => f.write_str("somewhere")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Servers({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_passwords_are_not_shown() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379", "127.0.0.1:6379"),
            ("redis://127.0.0.1", "127.0.0.1:6379"),
            (
                "rediss://weir:s3cr%3At@redis.internal:6380/2",
                "redis.internal:6380",
            ),
            ("redis+unix:///run/redis.sock", "/run/redis.sock"),
            (
                "redis+sentinel://weir:s3cr%3At@10.0.0.1,10.0.0.2:7000/main/3",
                "main at 10.0.0.1:26379, 10.0.0.2:7000",
            ),
            ("rediss+sentinel://[::1]:1/main", "main at ::1:1"),
        ] {
            let servers = Servers::parse(&[url], false).unwrap();
            assert_eq!(servers.to_string(), shown);
            assert_eq!(format!("{servers:?}"), format!("Servers({shown})"));
        }
        let urls = ["redis://:s3cret@a:1", "redis://:s3cret@b:2"];
        let cluster = Servers::parse(&urls, true).unwrap();
        assert_eq!(cluster.to_string(), "a:1, b:2");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for (urls, is_cluster, error) in [
            (&[][..], false, ServersError::Nothing),
            (&["127.0.0.1:6379"], false, ServersError::Unreadable),
            (&["http://127.0.0.1"], false, ServersError::Unreadable),
            (&["redis://127.0.0.1:x"], false, ServersError::Unreadable),
            (&["redis://127.0.0.1/x"], false, ServersError::Unreadable),
            (&["rediss+unix:///a"], false, ServersError::Unreadable),
            (&["redis+sentinel://a"], false, ServersError::NoService),
            (&["redis+sentinel://a/"], false, ServersError::NoService),
            (&["redis+sentinel://a/m/x"], false, ServersError::Unreadable),
            (&["redis+sentinel:///m"], false, ServersError::Unreadable),
            (&["redis://a", "redis://b"], false, ServersError::Several),
            (
                &["redis+sentinel://a/m"],
                true,
                ServersError::SentinelCluster,
            ),
            (&["redis://a/1"], true, ServersError::Database),
        ] {
            assert_eq!(
                Servers::parse(urls, is_cluster).err(),
                Some(error),
                "{urls:?}"
            );
        }
    }
}
