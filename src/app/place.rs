//! Where `weir usage`, `weir keys`, `weir explain` and `weir health` do their work: what the arguments leave open, the
//! configuration says.

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::access;
use crate::config::{self, AdminConfig, Context};
use crate::operator::{DEFAULT_URL, Failure, Place, Wanted, base_url};
use crate::secret::Secret;
use crate::store::directory::Configured;

/// A file that holds one secret is not larger.
const MAX_SECRET_FILE: u64 = 64 << 10;

/// Decides where it is done.
///
/// # Errors
/// [`Failure`] when a file that is needed cannot be read, or one is named of which nothing would be, or the URL is none.
pub fn place(wanted: Wanted, context: &Context<'_>) -> Result<Place, Failure> {
    let wanted_url = wanted.url.as_deref().map(base_url).transpose()?;
    let load = || match &wanted.config {
        Some(path) => match config::load(Some(path), context) {
            Ok(loaded) => Ok(Some(loaded.config)),
            Err(report) => Err(mistake(report.to_string())),
        },
        None => Ok(None),
    };
    if let Some(path) = wanted.ledger {
        let configured = load()?
            .as_ref()
            .map_or_else(Configured::default, access::configured);
        return Ok(Place::File { path, configured });
    }
    let token = match &wanted.token_file {
        Some(path) => Some(read_token(path)?),
        None => (context.env)("WEIR_ADMIN_TOKEN")
            .filter(|token| !token.is_empty())
            .map(Secret::new),
    };
    if let (Some(url), Some(_)) = (&wanted_url, &token) {
        if wanted.names_config {
            let token = match &wanted.token_file {
                Some(_) => "--token-file",
                None => "WEIR_ADMIN_TOKEN",
            };
            return Err(mistake(format!(
                "nothing would be read of the --config: --admin says where to ask, and the token is that of {token}; leave out what is not meant"
            )));
        }
        return Ok(Place::Gateway {
            url: url.clone(),
            token,
        });
    }
    let config = load()?;
    let configured_token = || {
        config
            .as_ref()
            .and_then(|config| config.admin.token.clone())
    };
    Ok(Place::Gateway {
        token: token.or_else(configured_token),
        url: wanted_url
            .or_else(|| config.as_ref().map(|config| url(&config.admin)))
            .unwrap_or_else(|| DEFAULT_URL.to_owned()),
    })
}

/// Decides which running gateway is asked for its health. What is wrong with its configuration elsewhere does not matter.
///
/// # Errors
/// [`Failure`] when the configuration cannot be read, or does not say where, or the URL is none.
pub fn admin_plane(wanted: Wanted, context: &Context<'_>) -> Result<Place, Failure> {
    let token = (context.env)("WEIR_ADMIN_TOKEN").filter(|token| !token.is_empty());
    if let Some(url) = wanted.url {
        let url = base_url(&url)?;
        let token = token.map(Secret::new);
        return Ok(Place::Gateway { url, token });
    }
    let admin = config::load_admin(wanted.config.as_deref(), context)
        .map_err(|report| mistake(report.to_string()))?;
    if admin.listen.port() == 0 {
        return Err(mistake(
            "[admin] listen has port 0, which is another one at each start; name the --url"
                .to_owned(),
        ));
    }
    Ok(Place::Gateway {
        url: url(&admin),
        token: admin.token,
    })
}

/// Returns the address of the admin plane, seen from this machine.
fn url(admin: &AdminConfig) -> String {
    let mut address: SocketAddr = admin.listen;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    format!("http://{address}")
}

fn read_token(path: &Path) -> Result<Secret, Failure> {
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_SECRET_FILE).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(Secret::new(text.trim_end_matches(['\r', '\n']))),
        Err(error) => Err(mistake(format!(
            "cannot read the token file {}: {error}",
            path.display()
        ))),
    }
}

fn mistake(message: String) -> Failure {
    Failure {
        message,
        is_users: true,
    }
}
