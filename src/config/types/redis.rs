//! `[redis]`, as the rest of Weir gets it.

use std::num::NonZeroU32;
use std::time::Duration;

use super::ClientTlsConfig;
use crate::secret::Secret;

/// `[redis]`: where several gateways share limits and the keys made at run time, so that they act as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// Where it is, in a spelling that [`Servers`](crate::store::redis::Servers) reads. In a URL there may be a password.
    pub urls: Vec<Secret>,
    /// Whether these are servers of a cluster. Default: false.
    pub cluster: bool,
    /// How long a request waits for it. Default: 50 ms.
    pub timeout: Duration,
    /// For how many calls room is taken at a time, at most 1000. Default: one.
    pub slice: NonZeroU32,
    /// How TLS is spoken with it, and with its Sentinels.
    pub tls: ClientTlsConfig,
    /// What Sentinels are shown. Default: nothing.
    pub sentinel: Option<SentinelConfig>,
    /// What is done while it is away. Default: local.
    pub on_outage: RedisOutageConfig,
    /// With [`RedisOutageConfig::Local`]: the share of each limit that this process allows meanwhile, in thousandths, 1 to
    /// 1000. Default: 1000.
    pub local_share_thousandths: u32,
}

/// `sentinel`: what Sentinels are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentinelConfig {
    /// Their user. Default: the default one.
    pub user: Option<String>,
    /// Its password.
    pub password: Secret,
}

/// What is done while Redis is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedisOutageConfig {
    /// `"local"`: each process counts alone.
    #[default]
    Local,
    /// `"reject"`: calls that are limited are answered by 503.
    Reject,
}
