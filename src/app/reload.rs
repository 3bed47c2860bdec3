//! Puts a new configuration in the place of the old one, while requests go on.
//!
//! A request ends on the stack that it began with; the next one, on whatever connection, takes the new stack. Metrics,
//! listeners and connections stay, and so does all that did not change of the upstreams. A configuration that does not
//! validate changes nothing.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Mutex as AsyncMutex;

use super::books::Stores;
use super::exports::Exports;
use super::upstreams::{Builder, Previous};
use super::{AppError, access, build, caching, ledger_look};
use crate::admin::{Cause, Control, Question, Refused, ReloadProblem, Reloaded};
use crate::config::{self, Config, Context, Loaded, ReadFile, changes};
use crate::explain::Explainer;
use crate::metrics::Metrics;
use crate::report::outlook::Outlook;
use crate::server::{Drain, Terms, Tls};
use crate::stack;
use crate::store::directory::{Configured, ConfiguredKey, Directory};
use crate::upstream::Dispatch;

/// Where the configuration comes from, each time that it is read.
#[derive(Clone)]
pub struct Source {
    /// The file; `None`: the built-in defaults.
    pub path: Option<PathBuf>,
    /// What reading needs from outside.
    pub context: fn() -> Context<'static>,
}

/// What stays when everything else is built anew.
pub(super) struct Fixed {
    pub(super) source: Source,
    pub(super) metrics: Arc<Metrics>,
    pub(super) drain: Drain,
    /// The key that was made at the start for a configuration without keys.
    pub(super) made_key: Option<ConfiguredKey>,
    /// The ledger and what is counted from it.
    pub(super) stores: Stores,
    /// Where traces go.
    pub(super) exports: Arc<Exports>,
    /// Puts a stack in the place of the current one.
    pub(super) replace: Box<dyn Fn(stack::Parts) + Send + Sync>,
    pub(super) terms: Terms,
    /// The current upstreams, for whoever reports on them.
    pub(super) dispatch: Arc<ArcSwap<Dispatch>>,
    /// Explains calls by what is served now.
    pub(super) explainer: ArcSwap<Explainer>,
    /// The keys and teams, those made at run time too.
    pub(super) directory: Arc<Directory>,
}

/// Reloads, one at a time.
pub(super) struct Reloader {
    fixed: Fixed,
    /// What the process and its listeners have been started with.
    started: Config,
    serving: AsyncMutex<Serving>,
    drain_timeout: Mutex<Duration>,
}

/// What came of a reload.
pub(super) struct Attempted {
    pub(super) outcome: Result<Reloaded, Refused>,
    /// The files that the configuration was made of, or would be once they are all there.
    pub(super) files: Vec<ReadFile>,
}

/// What is served now.
struct Serving {
    config: Config,
    tls: Option<Tls>,
}

/// A configuration that is ready to be served.
struct Next {
    loaded: Loaded,
    configured: Configured,
    parts: stack::Parts,
    tls: Option<Tls>,
}

impl Reloader {
    /// Takes over what has been built at the start.
    pub(super) fn new(fixed: Fixed, loaded: Loaded, tls: Option<Tls>) -> Self {
        Self {
            fixed,
            started: loaded.config.clone(),
            drain_timeout: Mutex::new(loaded.config.server.drain_timeout),
            serving: AsyncMutex::new(Serving {
                config: loaded.config,
                tls,
            }),
        }
    }

    /// Returns how long a stop waits now.
    pub(super) fn drain_timeout(&self) -> Duration {
        let timeout = self.drain_timeout.lock();
        *timeout.unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the configuration anew and serves it, or says why not. `trigger` is for the log.
    pub(super) async fn reload(self: &Arc<Self>, trigger: &str) -> Attempted {
        let mut files = Vec::new();
        let outcome = self.try_reload(&mut files).await;
        self.fixed.metrics.reloaded(outcome.is_ok());
        match &outcome {
            Ok(reloaded) => tracing::info!(
                trigger,
                changed = reloaded.changed.join("; "),
                restart_needed = reloaded.restart_needed.join("; "),
                "reloaded"
            ),
            Err(refused) => tracing::error!(
                trigger,
                report = refused.report,
                "the new configuration is refused; the old one goes on"
            ),
        }
        Attempted { outcome, files }
    }

    /// Reads the configuration anew and serves it. The `files` of it are known as soon as it has been read.
    async fn try_reload(self: &Arc<Self>, files: &mut Vec<ReadFile>) -> Result<Reloaded, Refused> {
        let stop = self.fixed.drain.began();
        if stop.is_cancelled() {
            return Err(Refused::stopping());
        }
        let mut serving = self.serving.lock().await;
        let (this, old) = (Arc::clone(self), serving.config.clone());
        // Reading files and loading models must not hold up requests.
        let runtime = tokio::runtime::Handle::current();
        let preparing = tokio::task::spawn_blocking(move || {
            let _runtime = runtime.enter();
            this.prepare(&old)
        });
        let prepared = tokio::select! {
            prepared = preparing => prepared,
            // A stop waits for no model that is still loading.
            () = stop.cancelled() => return Err(Refused::stopping()),
        };
        let (read, next) =
            prepared.map_err(|_| Refused::bug("Reading the configuration failed."))?;
        *files = read;
        let Next {
            loaded,
            configured,
            parts,
            tls,
        } = next?;
        let changes = changes(&self.started, &serving.config, &loaded.config);
        let mut changed = changes.applied;
        if tls != serving.tls && tls.is_some() && serving.tls.is_some() {
            changed.push("server.tls: another certificate".to_owned());
        }
        // Whether TLS is spoken at all is settled at the start.
        let tls = tls
            .or_else(|| serving.tls.clone())
            .filter(|_| serving.tls.is_some());
        self.serve(&loaded, parts, tls.as_ref());
        let mut warnings = Vec::new();
        if self.fixed.directory.reconfigure(configured).await.is_err() {
            // Logged where it happened.
            warnings.push(
                "budgets: stay as they were until the ledger can be read; keys that have got their first one open nothing until then"
                    .to_owned(),
            );
        }
        for (team, keys) in self.fixed.directory.without_team() {
            warnings.push(ledger_look::without_team(&team, &keys));
        }
        let problems = loaded.warnings.problems.iter();
        warnings.extend(problems.map(|problem| format!("{}: {}", problem.path, problem.message)));
        let reloaded = Reloaded {
            changed,
            restart_needed: changes.restart,
            warnings,
        };
        *serving = Serving {
            config: loaded.config,
            tls,
        };
        Ok(reloaded)
    }

    /// Reads the configuration and builds what it describes. Returns the files that it needs in any case.
    fn prepare(&self, old: &Config) -> (Vec<ReadFile>, Result<Next, Refused>) {
        let Source { path, context } = &self.fixed.source;
        match config::load(path.as_deref(), &context()) {
            Ok(loaded) => (loaded.warnings.files.clone(), self.build(loaded, old)),
            Err(report) => (report.files.clone(), Err(refused(report))),
        }
    }

    fn build(&self, loaded: Loaded, old: &Config) -> Result<Next, Refused> {
        let Fixed {
            metrics,
            drain,
            made_key,
            dispatch,
            directory,
            stores,
            exports,
            ..
        } = &self.fixed;
        let config = &loaded.config;
        let because = |error: AppError| Refused::because(&error.to_string());
        let tls = build::tls(config).map_err(because)?;
        let mut configured = access::configured(config);
        match (config.keys.is_empty(), made_key) {
            (false, _) => {}
            (true, Some(made)) => configured.keys.push(made.clone()),
            (true, None) => {
                return Err(Refused::because(
                    "No [[key]] is left, and nobody could call any more; keep one, or restart to have one made.",
                ));
            }
        }
        let before = dispatch.load_full();
        let builder = Builder {
            config,
            drain,
            metrics,
            previous: Some(Previous {
                config: old,
                dispatch: &before,
            }),
        };
        let dispatch = builder.dispatch().map_err(because)?;
        let books = stores.books(config, metrics, drain, directory.limits());
        let traces = exports.traces(config.telemetry.as_ref(), metrics);
        let traces = traces.map_err(|error| because(error.into()))?;
        let parts = build::parts(
            config,
            metrics,
            drain,
            directory.ring(),
            books,
            (caching::params(config, stores), traces),
            dispatch,
        );
        Ok(Next {
            loaded,
            configured,
            parts,
            tls,
        })
    }

    fn serve(&self, loaded: &Loaded, parts: stack::Parts, tls: Option<&Tls>) {
        let server = &loaded.config.server;
        self.fixed.dispatch.store(Arc::new(parts.dispatch.clone()));
        let explainer = Explainer::new(&parts, Arc::clone(&self.fixed.directory));
        self.fixed.explainer.store(Arc::new(explainer));
        (self.fixed.replace)(parts);
        let params = build::listener_params(build::DATA, server, &self.fixed.metrics);
        let metrics = &self.fixed.metrics;
        metrics.set_max_series(loaded.config.metrics.max_series);
        build::measure_certificate(metrics, tls);
        self.fixed.terms.replace(tls, params);
        let mut timeout = self
            .drain_timeout
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *timeout = server.drain_timeout;
    }
}

impl Control for Arc<Reloader> {
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<Reloaded, Refused>> + Send>> {
        let this = Self::clone(self);
        // A client that leaves in the middle must not leave half a reload behind.
        let reloading = async move { this.reload("admin API").await.outcome };
        let reloading = self.fixed.drain.tasks().spawn(reloading);
        Box::pin(async move {
            reloading
                .await
                .unwrap_or_else(|_| Err(Refused::bug("The reload failed.")))
        })
    }

    fn explain(&self, question: Question) -> Pin<Box<dyn Future<Output = Outlook> + Send>> {
        let explainer = self.fixed.explainer.load_full();
        Box::pin(async move { explainer.explain(question).await })
    }
}

fn refused(report: config::Report) -> Refused {
    let problems = report.problems.iter().map(|problem| ReloadProblem {
        severity: match problem.severity {
            config::Severity::Error => "error",
            config::Severity::Warning => "warning",
        },
        path: problem.path.clone(),
        line: problem.position.map(|(line, _)| line),
        message: problem.message.clone(),
    });
    Refused {
        cause: Cause::Configuration,
        problems: problems.collect(),
        report: report.to_string(),
    }
}

#[cfg(test)]
mod tests;
