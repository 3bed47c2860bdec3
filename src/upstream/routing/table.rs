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
    /// Each with the route that leads to it alone.
    members: Vec<Arc<Member>>,
    own: Vec<Arc<Route>>,
    /// The most specific first.
    routes: Vec<Arc<Route>>,
}

/// Where a call goes.
pub(super) struct Choice<'a> {
    pub(super) route: &'a Arc<Route>,
    /// The configured pattern that led there.
    pub(super) label: Arc<str>,
}

impl Table {
    pub(super) fn new(members: Vec<Arc<Member>>, mut routes: Vec<Route>, retry: Retry) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.model.specificity()));
        for route in &mut routes {
            route.targets.sort_by_key(|target| target.priority);
        }
        let own = members.iter().map(|member| {
            Arc::new(Route {
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
            })
        });
        Self {
            own: own.collect(),
            members,
            routes: routes.into_iter().map(Arc::new).collect(),
        }
    }

    pub(super) fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// Returns the routes with a name of their own.
    pub(super) fn named(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter().filter(|route| route.model.is_exact())
    }

    pub(super) fn hedge(&self, model: &Pattern) -> Option<Arc<Hedge>> {
        let mut routes = self.routes.iter();
        routes.find(|route| route.model == *model)?.hedge.clone()
    }

    pub(super) fn budget(&self, model: &Pattern) -> Option<Arc<RetryBudget>> {
        let mut routes = self.routes.iter();
        routes.find(|route| route.model == *model)?.budget.clone()
    }

    /// Returns where a model goes.
    pub(super) fn route(&self, model: &str) -> Result<Choice<'_>, DispatchError> {
        if let Some(route) = self.routes.iter().find(|route| route.model.matches(model)) {
            let label = route.model.as_str().into();
            return Ok(Choice { route, label });
        }
        let serving = self
            .members
            .iter()
            .zip(&self.own)
            .find_map(|(member, own)| {
                let pattern = member
                    .models
                    .iter()
                    .find(|pattern| pattern.matches(model))?;
                Some((own, pattern))
            });
        let (route, pattern) = serving.ok_or_else(|| DispatchError::NoRoute {
            model: model.to_owned(),
        })?;
        let label = pattern.as_str().into();
        Ok(Choice { route, label })
    }

    /// Returns where a call goes.
    pub(super) fn choose(&self, call: &Call) -> Result<Choice<'_>, DispatchError> {
        if let Some(model) = &call.model {
            return self.route(model);
        }
        let path = call.head.target.path();
        let claims = self.members.iter().zip(&self.own);
        let claims =
            claims.flat_map(|(member, own)| member.paths.iter().map(move |pattern| (pattern, own)));
        let route = most_specific(claims, path).ok_or_else(|| DispatchError::NoClaim {
            method: call.head.method.clone(),
            path: path.to_owned(),
        })?;
        Ok(Choice {
            route,
            label: "none".into(),
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
