//! A connection to Redis, with our functions there.

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind};

use super::{Library, NODE_TIMEOUT, Params};

/// A connection to Redis, with our functions there.
pub(super) enum Link {
    /// To one server.
    One(MultiplexedConnection),
    /// To as many as a cluster has.
    Cluster(ClusterConnection),
}

/// Why Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It does not answer in time.
    #[error("it does not answer in time")]
    Silent,
    /// It does not let us in.
    #[error("it refuses the user or the password: {0}")]
    Credentials(String),
    /// We may not do what we have to.
    #[error("its user may not run what Weir needs: {0}")]
    Permission(String),
    /// It has no functions.
    #[error("it has no functions: {0} is older than 7.0, which Weir needs")]
    Old(String),
    /// A mistake in what is configured.
    #[error("it cannot be used as configured: {0}")]
    Configuration(String),
    /// Anything else, which may pass.
    #[error("{0}")]
    Other(#[source] RedisError),
}

impl OpenError {
    /// Returns whether waiting does not help.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Silent | Self::Other(_) => false,
            Self::Credentials(_) | Self::Permission(_) | Self::Old(_) | Self::Configuration(_) => {
                true
            }
        }
    }

    /// Returns whether the connection is of no use any more.
    pub(super) fn is_end(&self) -> bool {
        match self {
            Self::Silent => false,
            Self::Credentials(_) | Self::Permission(_) | Self::Old(_) | Self::Configuration(_) => {
                true
            }
            Self::Other(error) => {
                let is_elsewhere = matches!(
                    error.kind(),
                    ErrorKind::Server(
                        ServerErrorKind::ReadOnly
                            | ServerErrorKind::BusyLoading
                            | ServerErrorKind::MasterDown
                    )
                );
                is_elsewhere || error.is_unrecoverable_error() || lacks_functions(error)
            }
        }
    }
}

/// Returns whether our functions are gone: the server was emptied, or is another one that never had them.
fn lacks_functions(error: &RedisError) -> bool {
    error.to_string().contains("Function not found")
}

impl From<RedisError> for OpenError {
    fn from(error: RedisError) -> Self {
        let told = error.to_string();
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
                Self::Credentials(told)
            }
            (ErrorKind::Server(ServerErrorKind::NoPerm), _) | (_, Some("NOPERM")) => {
                Self::Permission(told)
            }
            // Whoever sends more than a little without a password is told in other words.
            _ if told.contains("unauthenticated bulk length") => {
                Self::Credentials("it wants a password".to_owned())
            }
            // What a function may not do is told in other words.
            _ if told.contains("executing the script can't") => Self::Permission(told),
            (ErrorKind::InvalidClientConfig, _) => Self::Configuration(told),
            (ErrorKind::Server(ServerErrorKind::Moved), _) => Self::Configuration(
                "it is a part of a cluster; write `cluster = true` beside its address".to_owned(),
            ),
            _ => Self::Other(error),
        }
    }
}

impl Link {
    /// Connects, and leaves our functions there.
    pub(super) async fn open(params: &Params) -> Result<Self, OpenError> {
        // Who asks bounds the time; the driver's own bounds are for those who do not.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(NODE_TIMEOUT))
            .set_response_timeout(None);
        let link = params.servers.connect(config).await?;
        for library in &params.libraries {
            let Err(error) = link.load(library).await else {
                continue;
            };
            let is_unknown = error.to_string().contains("unknown command");
            return Err(match is_unknown {
                true => OpenError::Old(link.version().await),
                false => error.into(),
            });
        }
        Ok(link)
    }

    /// Asks what tells whether it can do all that it will have to.
    pub(super) async fn probe(&self, probe: &Cmd) -> Result<(), OpenError> {
        self.query::<i64>(probe)
            .await
            .map(drop)
            .map_err(OpenError::from)
    }

    /// Sends a command and waits for the reply.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        // Clones share the connection.
        match self {
            Self::One(connection) => ask(command, &mut connection.clone()).await,
            Self::Cluster(connection) => ask(command, &mut connection.clone()).await,
        }
    }

    /// Leaves functions where they are needed: in a cluster with whoever has the keys, whatever has become of the others.
    async fn load(&self, library: &Library) -> Result<(), RedisError> {
        let mut load = redis::cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(&library.code);
        match self {
            Self::One(_) => self.query::<redis::Value>(&load).await.map(drop),
            Self::Cluster(connection) => {
                let route = Route::with_key(library.home.as_bytes(), SlotAddr::Master);
                let route = RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route));
                let mut connection = connection.clone();
                let loading = connection.route_command(load, route);
                loading.await.map(drop)
            }
        }
    }

    /// Returns the server's version, as it tells it.
    async fn version(&self) -> String {
        let told: Result<String, _> = self.query(redis::cmd("INFO").arg("server")).await;
        let told = told.unwrap_or_default();
        let version = told
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"));
        version.unwrap_or("its version").trim().to_owned()
    }
}

async fn ask<T: FromRedisValue>(
    command: &Cmd,
    connection: &mut impl ConnectionLike,
) -> Result<T, RedisError> {
    command.query_async(connection).await
}
