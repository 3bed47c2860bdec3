//! `weir health`: its arguments.

use clap::Args;

use super::ConfigArgs;
use crate::operator::{Health, Wanted};

const HEALTH_HELP: &str = "\
Asks /readyz, with --live /healthz, and waits two seconds at most. Of the configuration only [admin] is read, for where to
ask and the token; mistakes elsewhere do not matter. With --url nothing of it is, and the token is $WEIR_ADMIN_TOKEN.
Exit codes: 0 it takes calls (with --live: it is there), 1 it does not, or does not answer; why is told on standard error.";

/// Which gateway to ask.
#[derive(Args, Clone, Debug)]
#[command(after_help = HEALTH_HELP)]
pub struct HealthArgs {
    /// The base URL of the gateway's admin plane
    /// [default: the one that the configuration says, else http://127.0.0.1:8081]
    #[arg(long, visible_alias = "admin", value_name = "URL")]
    url: Option<String>,
    /// Ask only whether it is there, be it without an upstream or at a stop: for those who end a process that is not well
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl HealthArgs {
    /// Returns what is asked.
    pub fn health(&self) -> Health {
        match self.live {
            true => Health::Live,
            false => Health::Ready,
        }
    }

    /// Returns what is worth a word beforehand: a configuration that is named, and of which nothing is read. Health checks
    /// outlive what they were written for, and a refusal would have a gateway ended that is well.
    pub fn warning(&self) -> Option<String> {
        let config = self.url.as_ref().and(self.config.config.as_ref())?;
        let config = config.display();
        Some(format!("{config} is not read: --url says where to ask"))
    }

    /// Returns where to ask.
    pub fn wanted(self, env: &dyn Fn(&str) -> Option<String>) -> Wanted {
        Wanted {
            config: self.config.path(env),
            url: self.url,
            ..Wanted::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use crate::cli::Command;

    #[test]
    fn a_configuration_that_is_not_read_is_named() {
        let warning = |args: &[&str]| {
            let args = ["weir", "health"].iter().chain(args);
            match Command::parse(args.map(OsString::from)) {
                Ok(Command::Health(args)) => args.warning(),
                other => panic!("{other:?}"),
            }
        };
        for url in ["--url", "--admin"] {
            let both = warning(&[url, "http://x", "--config", "a.toml"]).unwrap();
            assert!(both.starts_with("a.toml is not read"), "{both}");
            assert_eq!(warning(&[url, "http://x"]), None);
        }
        assert_eq!(warning(&["--config", "a.toml"]), None);
    }
}
