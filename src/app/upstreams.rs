//! Builds the upstreams and the routes between them. What did not change since the last configuration is taken over:
//! connections, loaded models, and what is known of each endpoint's health.

mod identity;

use std::sync::Arc;

use super::{AppError, local};
use crate::config::{
    AffinityConfig, ApiConfig, BalanceConfig, Config, EjectConfig, EndpointConfig, ProxyConfig,
    RemoteConfig, RetryConfig, RouteConfig, TargetConfig, TimeoutOverrides, TimeoutsConfig,
    UpstreamConfig, UpstreamKind, defaults,
};
use crate::metrics::Metrics;
use crate::server::Drain;
use crate::upstream::member::health::{self, Health};
use crate::upstream::member::{Checks, Credentials, Endpoint, Gate, Load, Member, RetryBudget};
use crate::upstream::remote::{self, RemoteUpstream};
use crate::upstream::routing::{Affinity, Balance, Hedge, Overrides, Retry, Route, Target};
use crate::upstream::{Credential, Dispatch, Timeouts, Upstream};

/// What served until now.
#[derive(Clone, Copy)]
pub(super) struct Previous<'a> {
    pub(super) config: &'a Config,
    pub(super) dispatch: &'a Dispatch,
}

/// What the upstreams are built from.
#[derive(Clone, Copy)]
pub(super) struct Builder<'a> {
    pub(super) config: &'a Config,
    pub(super) drain: &'a Drain,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) previous: Option<Previous<'a>>,
}

impl Builder<'_> {
    /// Builds every upstream and the routes between them, and starts the health checks of those that are new.
    ///
    /// # Errors
    /// Models that cannot be loaded, certificates that cannot be read.
    pub(super) fn dispatch(&self) -> Result<Dispatch, AppError> {
        let members: Vec<Arc<Member>> = self
            .config
            .upstreams
            .iter()
            .map(|upstream| self.member(upstream))
            .collect::<Result<_, _>>()?;
        let routes = self.config.routes.iter();
        let routes = routes.map(|route| self.route(route, &members)).collect();
        let retry = retry(&self.config.retry);
        let dispatch = Dispatch::new(members, routes, retry, Arc::clone(self.metrics));
        let known = self.previous.map_or(&[][..], |p| p.dispatch.members());
        dispatch.start_checks(known, self.drain.tasks(), self.drain.began());
        Ok(dispatch)
    }

    fn member(&self, upstream: &UpstreamConfig) -> Result<Arc<Member>, AppError> {
        let old = self.old(upstream);
        if let Some((config, member)) = old
            && config == upstream
            && self.answers_are_bounded_as_before()
            && self.budget_is_as_before()
        {
            return Ok(Arc::clone(member));
        }
        match &upstream.kind {
            UpstreamKind::Remote(remote) => self.remote(upstream, remote, old),
            UpstreamKind::Local(config) => {
                let service = match old {
                    Some((old, member)) if old.kind == upstream.kind => {
                        member.endpoints.first().map(|at| Arc::clone(&at.service))
                    }
                    _ => None,
                };
                let service = match service {
                    Some(service) => service,
                    None => local::load(upstream, config, self.metrics.engine(&upstream.name))?,
                };
                Ok(self.local(upstream, service, identity(upstream, old)))
            }
        }
    }

    fn old(&self, upstream: &UpstreamConfig) -> Option<(&UpstreamConfig, &Arc<Member>)> {
        let Previous { config, dispatch } = self.previous?;
        let named = |old: &&UpstreamConfig| old.name == upstream.name;
        let config = config.upstreams.iter().find(named)?;
        let member = dispatch
            .members()
            .iter()
            .find(|member| *member.name == *upstream.name)?;
        Some((config, member))
    }

    /// Returns whether the bound of answers, which all clients of remote endpoints are built with, is what it was.
    fn answers_are_bounded_as_before(&self) -> bool {
        let bound = |config: &Config| config.server.max_answer;
        self.previous
            .is_some_and(|previous| bound(previous.config) == bound(self.config))
    }

    /// Returns whether the share of retries is what it was.
    fn budget_is_as_before(&self) -> bool {
        self.previous
            .is_some_and(|previous| previous.config.retry.budget == self.config.retry.budget)
    }

    fn local(
        &self,
        upstream: &UpstreamConfig,
        service: Arc<dyn Upstream>,
        identity: u64,
    ) -> Arc<Member> {
        let name: Arc<str> = (*upstream.name).into();
        let endpoint = Endpoint {
            upstream: Arc::clone(&name),
            label: "local".into(),
            service,
            health: Arc::new(Health::new(eject(&defaults::EJECT))),
            load: Arc::default(),
            metrics: Arc::clone(self.metrics),
        };
        Arc::new(Member {
            name,
            identity,
            models: upstream.models.clone(),
            paths: Vec::new(),
            local: true,
            endpoints: vec![Arc::new(endpoint)],
            credentials: Credentials::default(),
            gate: None,
            budget: Arc::new(RetryBudget::new(self.config.retry.budget)),
            timeouts: timeouts(&defaults::TIMEOUTS),
            floor: 1,
            checks: None,
        })
    }

    fn remote(
        &self,
        upstream: &UpstreamConfig,
        remote: &RemoteConfig,
        old: Option<(&UpstreamConfig, &Arc<Member>)>,
    ) -> Result<Arc<Member>, AppError> {
        let name: Arc<str> = (*upstream.name).into();
        let identity = identity(upstream, old);
        let old = old.and_then(|(config, member)| match &config.kind {
            UpstreamKind::Remote(config) => Some((config, member)),
            UpstreamKind::Local(_) => None,
        });
        let endpoints = remote.endpoints.iter().map(|address| {
            let known = old.and_then(|(config, member)| {
                let at = config.endpoints.iter().position(|old| old == address)?;
                Some((config, member.endpoints.get(at)?))
            });
            self.endpoint(&name, upstream, remote, address, known)
        });
        let api = api(&remote.api);
        let shown = remote.api_keys.iter();
        let credentials =
            Credentials::new(shown.filter_map(|key| Credential::new(&api, key)).collect());
        let mut gate = remote
            .max_concurrent
            .map(|places| Arc::new(Gate::new(places.get(), remote.queue)));
        let mut budget = Arc::new(RetryBudget::new(self.config.retry.budget));
        if let Some((config, member)) = old {
            credentials.remember(&member.credentials);
            if (config.max_concurrent, config.queue) == (remote.max_concurrent, remote.queue) {
                gate = member.gate.clone();
            }
            if self.budget_is_as_before() {
                budget = Arc::clone(&member.budget);
            }
        }
        Ok(Arc::new(Member {
            identity,
            models: upstream.models.clone(),
            paths: remote.paths.clone(),
            local: false,
            endpoints: endpoints.collect::<Result<_, _>>()?,
            credentials,
            gate,
            budget,
            timeouts: timeouts(&remote.timeouts),
            floor: remote.eject.floor,
            checks: remote.health.as_ref().map(|health| Checks {
                path: health.path.clone(),
                interval: health.interval,
                timeout: health.timeout,
            }),
            name,
        }))
    }

    fn endpoint(
        &self,
        name: &Arc<str>,
        upstream: &UpstreamConfig,
        remote: &RemoteConfig,
        address: &EndpointConfig,
        known: Option<(&RemoteConfig, &Arc<Endpoint>)>,
    ) -> Result<Arc<Endpoint>, AppError> {
        let same_way = |old: &RemoteConfig| {
            let way = |config: &RemoteConfig| {
                let TimeoutsConfig { connect, tls, .. } = config.timeouts;
                (connect, tls, config.proxy.clone(), config.tls.clone())
            };
            way(old) == way(remote)
                && (&old.api, &old.headers) == (&remote.api, &remote.headers)
                && self.answers_are_bounded_as_before()
        };
        let service: Arc<dyn Upstream> = match known {
            Some((old, endpoint)) if same_way(old) => Arc::clone(&endpoint.service),
            _ => {
                let params = self.remote_params(name, remote, address);
                let built = RemoteUpstream::new(params).map_err(|source| AppError::Upstream {
                    upstream: upstream.name.clone(),
                    source,
                })?;
                Arc::new(built)
            }
        };
        let (health, load) = match known {
            Some((old, endpoint)) if old.eject == remote.eject => {
                (Arc::clone(&endpoint.health), Arc::clone(&endpoint.load))
            }
            _ => (
                Arc::new(Health::new(eject(&remote.eject))),
                Arc::new(Load::default()),
            ),
        };
        Ok(Arc::new(Endpoint {
            upstream: Arc::clone(name),
            label: label(address),
            service,
            health,
            load,
            metrics: Arc::clone(self.metrics),
        }))
    }

    fn remote_params(
        &self,
        name: &str,
        remote: &RemoteConfig,
        address: &EndpointConfig,
    ) -> remote::Params {
        let headers = remote.headers.iter();
        let identity = remote.tls.identity.as_ref();
        remote::Params {
            address: match address {
                EndpointConfig::Http(uri) => remote::Address::Http(uri.clone()),
                EndpointConfig::Unix { socket, prefix } => remote::Address::Unix {
                    socket: socket.clone(),
                    prefix: prefix.clone(),
                },
            },
            api: api(&remote.api),
            headers: headers
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            connect: remote.timeouts.connect,
            handshake: remote.timeouts.tls,
            tls: remote::Tls {
                ca: remote.tls.ca.clone(),
                identity: identity.map(|files| (files.cert.clone(), files.key.clone())),
            },
            proxy: match &remote.proxy {
                ProxyConfig::Environment => remote::Proxy::Environment,
                ProxyConfig::Direct => remote::Proxy::Direct,
                ProxyConfig::Http(url) => remote::Proxy::Http(url.clone()),
            },
            max_answer: self.config.server.max_answer,
            tunnels: (self.drain.tasks().clone(), self.drain.deadline().clone()),
            meter: Some(self.metrics.connections_to(name)),
        }
    }

    fn route(&self, route: &RouteConfig, members: &[Arc<Member>]) -> Route {
        let targets: Vec<Target> = route
            .targets
            .iter()
            .enumerate()
            .filter_map(|(index, target)| {
                // Checked with the configuration: every target's upstream exists.
                let member = find(members, target)?;
                Some(Target {
                    member: Arc::clone(member),
                    model: target.model.as_deref().map(Into::into),
                    priority: target.priority,
                    weight: target.weight,
                    degraded: member.local && stands_in(route, index, members),
                })
            })
            .collect();
        Route {
            model: route.model.clone(),
            targets,
            balance: match route.balance {
                BalanceConfig::P2c => Balance::P2c,
                BalanceConfig::Weighted => Balance::Weighted,
                BalanceConfig::Order => Balance::Order,
            },
            affinity: route.affinity.as_ref().map(|affinity| match affinity {
                AffinityConfig::Header(name) => Affinity::Header(name.clone()),
                AffinityConfig::PromptPrefix(length) => Affinity::PromptPrefix(*length),
            }),
            retry: retry(route.retry.as_ref().unwrap_or(&self.config.retry)),
            budget: self.budget(route),
            timeouts: overrides(&route.timeouts),
            hedge: self.hedge(route),
        }
    }

    /// Builds the retry budget of a route that has a share of its own, or takes it over if the share did not change.
    fn budget(&self, route: &RouteConfig) -> Option<Arc<RetryBudget>> {
        let share = own_budget(self.config, route)?;
        let known = self.previous.and_then(|previous| {
            let mut old = previous.config.routes.iter();
            let old = old.find(|old| old.model == route.model)?;
            (own_budget(previous.config, old) == Some(share))
                .then(|| previous.dispatch.budget(&route.model))
                .flatten()
        });
        Some(known.unwrap_or_else(|| Arc::new(RetryBudget::new(share))))
    }

    /// Takes over what a route has learnt of its times, if its hedging did not change.
    fn hedge(&self, route: &RouteConfig) -> Option<Arc<Hedge>> {
        let hedge = route.hedge.as_ref()?;
        let known = self.previous.and_then(|previous| {
            let mut old = previous.config.routes.iter();
            old.find(|old| old.model == route.model && old.hedge == route.hedge)?;
            previous.dispatch.hedge(&route.model)
        });
        Some(known.unwrap_or_else(|| Arc::new(Hedge::new(hedge.budget, hedge.after))))
    }
}

/// Returns a route's share of retries, where it differs from everyone's.
fn own_budget(config: &Config, route: &RouteConfig) -> Option<f64> {
    let own = route.retry.map(|retry| retry.budget);
    own.filter(|own| *own != config.retry.budget)
}

fn find<'a>(members: &'a [Arc<Member>], target: &TargetConfig) -> Option<&'a Arc<Member>> {
    let mut members = members.iter();
    members.find(|member| *member.name == *target.upstream)
}

/// Returns whether a target answers only when remote ones before it have failed.
fn stands_in(route: &RouteConfig, index: usize, members: &[Arc<Member>]) -> bool {
    let in_order = route.balance == BalanceConfig::Order;
    let own = route.targets[index].priority;
    let mut others = route.targets.iter().enumerate();
    others.any(|(other, target)| {
        let is_before =
            target.priority < own || (in_order && target.priority == own && other < index);
        is_before && find(members, target).is_some_and(|member| !member.local)
    })
}

/// What tells an endpoint from its upstream's others, in logs too: its whole address, which holds no credentials.
fn label(address: &EndpointConfig) -> Arc<str> {
    let address = match address {
        EndpointConfig::Http(uri) => uri.to_string(),
        EndpointConfig::Unix { socket, prefix } => format!("unix:{}:{prefix}", socket.display()),
    };
    address.trim_end_matches(['/', ':']).into()
}

fn api(config: &ApiConfig) -> remote::Api {
    match config {
        ApiConfig::OpenAi => remote::Api::OpenAi,
        ApiConfig::Azure { version } => remote::Api::Azure {
            version: version.clone(),
        },
    }
}

fn timeouts(config: &TimeoutsConfig) -> Timeouts {
    Timeouts {
        first_byte: config.first_byte,
        first_content: config.first_content,
        idle: config.idle,
        total: config.total,
    }
}

fn overrides(config: &TimeoutOverrides) -> Overrides {
    Overrides {
        first_byte: config.first_byte,
        first_content: config.first_content,
        idle: config.idle,
        total: config.total,
    }
}

fn eject(config: &EjectConfig) -> health::Params {
    health::Params {
        failures: config.failures,
        share: config.share,
        min_requests: config.min_requests,
        window: config.window,
        base: config.base,
        max: config.max,
    }
}

fn retry(config: &RetryConfig) -> Retry {
    Retry {
        attempts: config.attempts,
        base: config.backoff_base,
        max: config.backoff_max,
        max_retry_after: config.max_retry_after,
        hold: config.hold,
    }
}

/// Returns the identity of an upstream: the old one's, as long as what it is stays the same. Gateways that are configured
/// alike give it the same one, so that they may share what it answered.
fn identity(upstream: &UpstreamConfig, old: Option<(&UpstreamConfig, &Arc<Member>)>) -> u64 {
    let same = old.filter(|(config, _)| config.kind == upstream.kind);
    same.map_or_else(
        || identity::of(&upstream.kind),
        |(_, member)| member.identity,
    )
}

#[cfg(test)]
mod tests;
