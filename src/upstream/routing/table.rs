//! Which route a call takes.

use std::sync::Arc;
use std::time::Duration;

use super::DispatchError;
use super::hedge::Hedge;
use super::route::{Balance, Overrides, Retry, Route, Target};
use crate::call::Call;
use crate::pattern::{Pattern, most_specific};
use crate::upstream::member::{Member, RetryBudget};

/// Everything that calls can go to.
pub(super) struct Table {
    members: Vec<Arc<Member>>,
    /// For each of the members the route that leads to it alone, and what its patterns of models are called.
    own: Vec<(Arc<Route>, Vec<Arc<str>>)>,
    /// The most specific first, each with what it is called.
    routes: Vec<(Arc<Route>, Arc<str>)>,
    /// What is called the way of a path without a model.
    no_model: Arc<str>,
}

/// Where a call goes.
pub(super) struct Choice<'a> {
    pub(super) route: &'a Arc<Route>,
    /// The configured pattern that led there, made once: it goes into the record of every call.
    pub(super) label: &'a Arc<str>,
}

impl Table {
    pub(super) fn new(members: Vec<Arc<Member>>, mut routes: Vec<Route>, retry: Retry) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.model.specificity()));
        for route in &mut routes {
            route.targets.sort_by_key(|target| target.priority);
        }
        let own = members.iter().map(|member| {
            let labels = member.models.iter().map(|model| model.as_str().into());
            let route = Arc::new(Route {
                model: Pattern::any(),
                targets: vec![Target {
                    member: Arc::clone(member),
                    model: None,
                    priority: 0,
                    weight: 1,
                    degraded: false,
                }],
                balance: Balance::P2c,
                affinity: None,
                retry,
                budget: None,
                timeouts: Overrides::default(),
                hedge: None,
            });
            (route, labels.collect())
        });
        let label = |route: Route| {
            let label = route.model.as_str().into();
            (Arc::new(route), label)
        };
        Self {
            own: own.collect(),
            members,
            routes: routes.into_iter().map(label).collect(),
            no_model: "none".into(),
        }
    }

    pub(super) fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// Returns the routes with a name of their own.
    pub(super) fn named(&self) -> impl Iterator<Item = &Arc<Route>> {
        let routes = self.routes.iter().map(|(route, _)| route);
        routes.filter(|route| route.model.is_exact())
    }

    pub(super) fn hedge(&self, model: &Pattern) -> Option<Arc<Hedge>> {
        self.of(model)?.hedge.clone()
    }

    pub(super) fn budget(&self, model: &Pattern) -> Option<Arc<RetryBudget>> {
        self.of(model)?.budget.clone()
    }

    fn of(&self, model: &Pattern) -> Option<&Arc<Route>> {
        let mut routes = self.routes.iter().map(|(route, _)| route);
        routes.find(|route| route.model == *model)
    }

    /// Returns what the ways are called.
    pub(super) fn labels(&self) -> impl Iterator<Item = &str> {
        let routes = self.routes.iter().map(|(_, label)| label);
        let own = self.own.iter().flat_map(|(_, labels)| labels);
        routes.chain(own).map(|label| &**label)
    }

    /// Returns where a model goes.
    pub(super) fn route(&self, model: &str) -> Result<Choice<'_>, DispatchError> {
        let mut routes = self.routes.iter();
        let named = routes.find(|(route, _)| route.model.matches(model));
        if let Some((route, label)) = named {
            return Ok(Choice { route, label });
        }
        let mut members = self.members.iter().zip(&self.own);
        let serving = members.find_map(|(member, (route, labels))| {
            let mut patterns = member.models.iter().zip(labels);
            let (_, label) = patterns.find(|(pattern, _)| pattern.matches(model))?;
            Some(Choice { route, label })
        });
        serving.ok_or_else(|| DispatchError::NoRoute {
            model: model.to_owned(),
        })
    }

    /// Returns where a call goes.
    pub(super) fn choose(&self, call: &Call) -> Result<Choice<'_>, DispatchError> {
        if let Some(model) = call.routed_model() {
            return self.route(model);
        }
        let path = call.head.target.path();
        let claims = self.members.iter().zip(&self.own);
        let claims = claims.flat_map(|(member, (own, _))| {
            let paths = member.paths.iter();
            paths.map(move |pattern| (pattern, own))
        });
        let route = most_specific(claims, path).ok_or_else(|| DispatchError::NoClaim {
            method: call.head.method.clone(),
            path: path.to_owned(),
        })?;
        Ok(Choice {
            route,
            label: &self.no_model,
        })
    }
}

impl Route {
    /// The time for a call with all its tries: the route's own, or what the most patient of its targets has.
    pub(super) fn total(&self) -> Duration {
        let targets = self.targets.iter();
        let longest = targets.map(|target| target.member.timeouts.total).max();
        self.timeouts.total.or(longest).unwrap_or_default()
    }
}
